"""Several samples of each datum: the importance-weighted bound."""

import math

import torch
from torch.nn import functional as F

from .row import Row, binary, leaf, spread


def iwae(logits, x, z, mu, logvar):
    """Burda et al. 2016, with the samples first: (K, B, D)."""
    log_px = -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
    log_pz = -0.5 * (z**2 + math.log(2 * math.pi)).sum(-1)
    log_qz = -0.5 * (logvar + (z - mu) ** 2 / logvar.exp() + math.log(2 * math.pi)).sum(-1)
    log_w = log_px + log_pz - log_qz
    return -(torch.logsumexp(log_w, dim=0) - math.log(z.size(0))).mean()


def iwae_batch_first(logits, x, z, mu, logvar):
    """The same with the batch first: (B, K, D)."""
    mu, logvar, x = mu.unsqueeze(1), logvar.unsqueeze(1), x.unsqueeze(1).expand_as(logits)
    log_px = -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
    log_pz = -0.5 * (z**2 + math.log(2 * math.pi)).sum(-1)
    log_qz = -0.5 * (logvar + (z - mu) ** 2 / logvar.exp() + math.log(2 * math.pi)).sum(-1)
    log_w = log_px + log_pz - log_qz
    return -(torch.logsumexp(log_w, dim=1) - math.log(z.size(1))).mean()


def samples(g, B=20, K=50, D=784, L=50):
    inputs = {"x": binary(g, B, D), "mu": leaf(g, B, L), "logvar": spread(g, B, L)}
    noise = torch.randn((K, B, L), generator=g)
    z = (inputs["mu"] + torch.exp(0.5 * inputs["logvar"]) * noise).detach().requires_grad_()
    return inputs | {"logits": leaf(g, K, B, D), "z": z}


def samples_batch_first(g, B=20, K=50, D=784, L=50):
    inputs = samples(g, B, K, D, L)
    turned = {name: inputs[name].detach().transpose(0, 1).contiguous().requires_grad_() for name in ("logits", "z")}
    return inputs | turned


CALL = "criterion(logits, x, z, mu, logvar)"
FEW = {"K": 8, "D": 16, "L": 4}  # float32 rounds a log-weight of hundreds of nats to 1e-5, by hand too

ROWS = (
    Row(iwae, samples, CALL, "IWAELoss()", FEW),
    Row(iwae_batch_first, samples_batch_first, CALL, "IWAELoss(samples_dim=1)", FEW),
)
