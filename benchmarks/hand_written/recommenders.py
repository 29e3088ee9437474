"""Recommenders: implicit feedback on many items."""

import torch
from torch.nn import functional as F

from .row import Row, leaf, spread


def annealed_bce(logits, x, mu, logvar, anneal):
    """Collaborative filtering with a logistic likelihood (Liang et al. 2018), whose beta grows during training."""
    bce = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1).mean()
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=1).mean()
    return bce + anneal * kld


def clicks(g, B=500, D=20_000, L=200):
    x = (torch.rand((B, D), generator=g) < 0.005).float()
    return {"logits": leaf(g, B, D), "x": x, "mu": leaf(g, B, L), "logvar": spread(g, B, L), "anneal": 0.2}


ROWS = (Row(annealed_bce, clicks, "criterion(logits, x, mu, logvar, beta=anneal)", "ELBOLoss()", {"B": 20, "D": 2000}),)
