"""Importance samples, a few at a time: log p(x) and the ELBO from as many as one likes."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _checks

__all__ = ["Bounds", "bounds", "flatten", "unflatten"]


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


def flatten(z: object) -> Tensor:
    """Samples of shape (K, B, ...) as the K B rows that a decoder takes."""
    z = _checks.dense("vaefast.VAE.decode_samples", "z", z)
    if z.dim() < 2:
        raise ValueError(f"vaefast.VAE.decode_samples: z must have shape (K, B, L), got {tuple(z.shape)}")
    return z.flatten(0, 1)


def unflatten(recon_x: object, shape: Sequence[int]) -> Any:
    """A decoder's output for K B rows, with K and B in front."""
    several: Sequence[Any] = recon_x if isinstance(recon_x, (tuple, list)) else [recon_x]
    if not several or not all(isinstance(t, Tensor) for t in several):
        kinds = ", ".join(type(t).__name__ for t in several)
        got = f"({kinds})" if several is recon_x else kinds
        raise TypeError(f"vaefast.VAE: a decoder must return a torch.Tensor or a tuple of some, got {got}")
    first, rows = several[0], shape[0] * shape[1]
    if first.dim() == 0 or first.shape[0] != rows:
        raise ValueError(f"vaefast.VAE: a decoder must return {rows} rows for {rows} of z, got {tuple(first.shape)}")
    if several is not recon_x:
        return first.unflatten(0, shape)
    # A parameter that all samples share has fewer dimensions than the others, or 1 as its first: it is left as it is.
    return tuple(t.unflatten(0, shape) if t.dim() == first.dim() and t.shape[0] == rows else t for t in several)
