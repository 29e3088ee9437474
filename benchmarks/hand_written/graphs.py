"""Graphs: edges from inner products, and encoders that return log sigma."""

import torch
from torch.nn import functional as F

from .row import Row, leaf, spread


def vgae(logits, adj, mu, logstd):
    """Graph autoencoders (Kipf and Welling 2016): all pairs of nodes, both terms divided by their number."""
    recon = F.binary_cross_entropy_with_logits(logits.view(-1), adj.view(-1))
    kl = 1 + 2 * logstd - mu.pow(2) - logstd.exp().pow(2)
    return recon - 0.5 / adj.size(0) * kl.sum(1).mean()


def vgae_kl(mu, logstd):
    """Libraries of graph networks, whose reconstruction is of sampled edges: the KL alone."""
    return -0.5 * torch.mean(torch.sum(1 + 2 * logstd - mu**2 - logstd.exp() ** 2, dim=1))


def nodes(g, N=2708, L=16):
    return {"mu": leaf(g, N, L), "logstd": spread(g, N, L)}


def cora(g, N=2708, L=16):
    return {"logits": leaf(g, N, N), "adj": (torch.rand((N, N), generator=g) < 0.0015).float(), **nodes(g, N, L)}


ROWS = (
    Row(vgae, cora, "criterion(logits, adj, mu, log_scale=logstd) / len(adj)", "ELBOLoss()", {"N": 100}),
    Row(vgae_kl, nodes, 'VF.gaussian_kl(mu, log_scale=logstd, reduction="mean")'),
)
