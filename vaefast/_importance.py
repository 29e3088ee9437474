"""Importance samples, a few at a time: log p(x) and the ELBO from as many as one likes."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Bounds", "bounds"]


class Bounds(NamedTuple):
    """What a model's importance samples say of each datum, each of shape (B,); in nats, but for ess."""

    log_px: Tensor
    elbo: Tensor
    log_likelihood: Tensor  # E_q[log p(x|z)]
    kl: Tensor  # KL(q(z|x) || p(z)), in closed form where the prior is the standard normal
    ess: Tensor  # the effective sample size


def bounds(chunks: Iterable[tuple[Tensor, Tensor]], kl: Tensor | None) -> Bounds:
    """From chunks of log p(x|z_k) and log p(z_k) - log q(z_k|x), each of shape (K, B), and the KL where it is known.

    Both bounds are of the same samples: so no ELBO is above its log p(x), and with one sample they are equal."""
    count = 0
    total = squares = torch.full((), -math.inf, dtype=torch.float64)  # running logsumexps
    elbo = ratios = torch.zeros((), dtype=torch.float64)
    for fit, ratio in chunks:
        log_w = fit.double() + ratio.double()
        count += len(log_w)
        total = torch.logaddexp(total.to(log_w.device), log_w.logsumexp(0))
        squares = torch.logaddexp(squares.to(log_w.device), (2 * log_w).logsumexp(0))
        elbo = elbo + log_w.sum(0)
        ratios = ratios + ratio.double().sum(0)
    elbo, dtype = elbo / count, fit.dtype
    kl = -ratios / count if kl is None else kl.double()
    found = (total - math.log(count), elbo, elbo + kl, kl, (2 * total - squares).exp())
    return Bounds(*(t.to(dtype) for t in found))
