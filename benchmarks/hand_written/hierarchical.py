"""Many layers of latents: each has a prior that is learned."""

import torch
from torch.nn import functional as F

from .row import Row, binary, leaf, spread


def ladder(logits, x, top, below):
    """Ladder networks: (mu, logvar) at the top, (mu, logvar, prior_mu, prior_logvar) in the layers below."""
    kl = -0.5 * torch.sum(1 + top[1] - top[0] ** 2 - top[1].exp(), dim=1)
    for mu, logvar, prior_mu, prior_logvar in below:
        ratio = (logvar.exp() + (mu - prior_mu) ** 2) / prior_logvar.exp()
        kl = kl + 0.5 * torch.sum(prior_logvar - logvar + ratio - 1, dim=1)
    nll = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
    return (nll + kl).mean()


def nvae_layer(mu, log_sigma, prior_mu, prior_log_sigma):
    """NVAE (Vahdat and Kautz 2020): the KL of one group of latents, from log sigma."""
    sigma, prior_sigma = torch.exp(log_sigma), torch.exp(prior_log_sigma)
    distance, ratio = (mu - prior_mu) / prior_sigma, sigma / prior_sigma
    kl = 0.5 * (distance * distance + ratio * ratio) - 0.5 - torch.log(ratio)
    return torch.sum(kl, dim=[1, 2, 3]).mean()


def very_deep(layers):
    """Very deep VAEs (Child 2021): the KL of every block, from log sigma, in nats per image."""
    total = 0
    for mu, log_sigma, prior_mu, prior_log_sigma in layers:
        kl = -0.5 + prior_log_sigma - log_sigma
        kl = kl + 0.5 * (log_sigma.exp() ** 2 + (mu - prior_mu) ** 2) / prior_log_sigma.exp() ** 2
        total = total + kl.sum(dim=(1, 2, 3))
    return total.mean()


def layer(g, *shape):
    return leaf(g, *shape), spread(g, *shape), leaf(g, *shape), spread(g, *shape)


def two_below(g, B=256, D=784):
    top = leaf(g, B, 16), spread(g, B, 16)
    return {"logits": leaf(g, B, D), "x": binary(g, B, D), "top": top, "below": [layer(g, B, 32), layer(g, B, 64)]}


def group(g, B=32, C=20, side=16):
    return dict(zip(("mu", "log_sigma", "prior_mu", "prior_log_sigma"), layer(g, B, C, side, side), strict=True))


def blocks(g, B=16, C=16):
    sides = (1, 4, 4, 8, 8, 8, 16, 16, 16, 16, 32, 32)
    return {"layers": [layer(g, B, C, side, side) for side in sides]}


ROWS = (
    Row(
        ladder,
        two_below,
        "(VF.hierarchical_kl([top, *below]) - VF.bernoulli_log_likelihood(logits, x)).mean()",
    ),
    Row(
        nvae_layer,
        group,
        "VF.gaussian_kl(mu, log_scale=log_sigma, prior_mu=prior_mu, prior_log_scale=prior_log_sigma).mean()",
    ),
    Row(
        very_deep,
        blocks,
        "VF.hierarchical_kl([(mu, 2 * log_sigma, p, 2 * log_p) for mu, log_sigma, p, log_p in layers]).mean()",
    ),
)
