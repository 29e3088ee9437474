"""Counts: genes in cells, whose mean, inverse dispersion and gate a decoder returns; a dispersion for each gene."""

import torch
from torch.nn import functional as F

from .row import Row, binary, leaf, spread


def negative_binomial(mean, theta, x, mu, logvar, eps=1e-8):
    """Models of single cells (Lopez et al. 2018), with the log-gammas and the eps that they all have."""
    log_sum = torch.log(theta + mean + eps)
    fit = (
        theta * (torch.log(theta + eps) - log_sum)
        + x * (torch.log(mean + eps) - log_sum)
        + torch.lgamma(x + theta)
        - torch.lgamma(theta)
        - torch.lgamma(x + 1)
    )
    kl = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(1)
    return (kl - fit.sum(-1)).mean()


def zero_inflated(mean, theta, gate, x, mu, logvar, eps=1e-8):
    """The same with zeros of another origin: both branches, and the one that applies."""
    closed = F.softplus(-gate)
    log_theta, log_sum = torch.log(theta + eps), torch.log(theta + mean + eps)
    no_count = -gate + theta * (log_theta - log_sum)
    at_0 = F.softplus(no_count) - closed
    counted = -closed + no_count + x * (torch.log(mean + eps) - log_sum)
    counted = counted + torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    fit = (x < eps) * at_0 + (x > eps) * counted
    kl = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(1)
    return (kl - fit.sum(-1)).mean()


def poisson(log_rate, x, mu, logvar):
    """Spikes of neurons, purchases, words: torch's Poisson loss, with the log x! that makes it a probability."""
    kl = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(1)
    nll = F.poisson_nll_loss(log_rate, x, reduction="none") + torch.lgamma(x + 1)
    return nll.sum(-1).mean() + kl.mean()


def _positive(t):
    return t.detach().exp().requires_grad_()


def cells(g, B=128, D=2000, L=10, zeros=0.6):
    """Counts of most genes are 0 in most cells."""
    mean = _positive(1.5 * leaf(g, B, D))
    x = torch.poisson(mean.detach(), generator=g) * (torch.rand((B, D), generator=g) >= zeros)
    return {
        "mean": mean,
        "theta": _positive(leaf(g, D)),
        "x": x,
        "mu": leaf(g, B, L),
        "logvar": spread(g, B, L),
    }


def gated(g, **sizes):
    inputs = cells(g, **sizes)
    return {"gate": leaf(g, *inputs["x"].shape), **inputs}


def all_genes(g, B=128, D=20_000, L=10):
    return cells(g, B, D, L, zeros=0.9)


def spikes(g, B=128, D=20_000, L=10):
    log_rate = leaf(g, B, D)
    x = binary(g, B, D) * torch.poisson(log_rate.detach().exp(), generator=g)
    return {"log_rate": log_rate, "x": x, "mu": leaf(g, B, L), "logvar": spread(g, B, L)}


_NB = "ELBOLoss(NegativeBinomial(log_parameters=False))"
_ZINB = "ELBOLoss(ZeroInflatedNegativeBinomial(log_parameters=False))"
_SMALL = {"B": 8, "D": 300}


def negative_binomial_all_genes(mean, theta, x, mu, logvar):
    """The same of all genes, 90 % of them 0."""
    return negative_binomial(mean, theta, x, mu, logvar)


def zero_inflated_all_genes(mean, theta, gate, x, mu, logvar):
    """The same of all genes, 90 % of them 0."""
    return zero_inflated(mean, theta, gate, x, mu, logvar)


def all_gated(g, **sizes):
    inputs = all_genes(g, **sizes)
    return {"gate": leaf(g, *inputs["x"].shape), **inputs}


ROWS = (
    Row(negative_binomial, cells, "criterion((mean, theta), x, mu, logvar)", _NB, _SMALL),
    Row(negative_binomial_all_genes, all_genes, "criterion((mean, theta), x, mu, logvar)", _NB, _SMALL),
    Row(zero_inflated, gated, "criterion((mean, theta, gate), x, mu, logvar)", _ZINB, _SMALL),
    Row(zero_inflated_all_genes, all_gated, "criterion((mean, theta, gate), x, mu, logvar)", _ZINB, _SMALL),
    Row(poisson, spikes, "criterion(log_rate, x, mu, logvar)", 'ELBOLoss("poisson")', _SMALL),
)
