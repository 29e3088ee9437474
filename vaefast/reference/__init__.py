"""Every formula in plain torch, in a numerically stable form.

This package specifies what the kernels compute. It runs where no kernel applies: torch.func, forward-mode AD, double
backward, other devices. It is the baseline of tests and benchmarks. Every function can be differentiated any number of
times. `formulas`, `counts` and `tails` have the terms, `mixtures` the mixture, and this file what is made of them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import counts, tails
from .formulas import KL_TERMS, LOG_2PI, TERMS, bernoulli, gaussian, gaussian_kl, kl_term, phi
from .mixtures import MIXTURE, masked_mixture

__all__ = [
    "KL_TERMS",
    "LOG_2PI",
    "MIXTURE",
    "TERMS",
    "bernoulli",
    "counts",
    "elbo_loss",
    "gaussian",
    "gaussian_kl",
    "kl_term",
    "latent_kl",
    "phi",
    "reduced",
    "reparameterize",
    "row_sum",
    "tails",
]


def reduced(value: Tensor, reduction: str, batch_dims: int = 1) -> Tensor:
    """Elements, reduced: "elementwise" (no sum), "none" (a sum per sample), "sum" (of everything), or "mean" (over the
    samples' sums)."""
    if reduction == "elementwise":
        return value
    rows = value.flatten(batch_dims).sum(-1) if value.dim() > batch_dims else value
    if reduction == "none":
        return rows
    return rows.sum() if reduction == "sum" else rows.mean()


def row_sum(
    term: str,
    operands: Sequence[Tensor],
    mask: Tensor | None = None,
    reduction: str = "none",
    batch_dims: int = 1,
    target_scale: float = 1.0,
    spreads: Sequence[str] = (),
) -> Tensor:
    """The term of `operands`, or the mixture, reduced. A KL takes `spreads`, as `kl_term` does."""
    target = None if term in KL_TERMS.values() else 1
    wide = any(t.dtype == torch.float64 for k, t in enumerate(operands) if k != target)
    wide_operands = [t.to(torch.float64 if wide else torch.float32) for t in operands]
    if target is not None and target_scale != 1:
        wide_operands[target] = wide_operands[target] * target_scale
    for k, spread in enumerate(spreads):
        if spread == "log_scale":
            wide_operands[2 * k + 1] = 2 * wide_operands[2 * k + 1]
    if term == MIXTURE:
        return reduced(masked_mixture(wide_operands, mask), reduction, batch_dims)
    if mask is not None:  # replaced before the formula, so that a masked NaN reaches neither value nor gradient
        wide_operands = [torch.where(mask, t, 0.0) for t in wide_operands]
    value = TERMS[term](*torch.broadcast_tensors(*wide_operands))
    if mask is not None:
        value = torch.where(mask, value, 0.0)
    return reduced(value, reduction, batch_dims)


def latent_kl(latent: Sequence[Tensor], batch_dims: int = 1, spreads: Sequence[str] = ()) -> Tensor:
    """The KL per sample."""
    return row_sum(kl_term(latent, spreads), latent, batch_dims=batch_dims, spreads=spreads)


def elbo_loss(
    likelihood: str,
    operands: Sequence[Tensor],
    latent: Sequence[Tensor],
    mask: Tensor | None,
    weight: Tensor | None,
    beta: float | Tensor,
    reduction: str,
    batch_dims: int = 1,
    target_scale: float = 1.0,
    spreads: Sequence[str] = (),
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (loss, log-likelihood, KL). The loss is weight * (beta * KL - log-likelihood), reduced by "sum" or "mean".
    The log-likelihood and the KL are per sample."""
    fit = row_sum(likelihood, operands, mask, "none", batch_dims, target_scale)
    kl = latent_kl(latent, batch_dims, spreads)
    loss = beta * kl - fit
    if weight is not None:
        loss = weight * loss
    return reduced(loss, reduction, batch_dims), fit, kl


def reparameterize(mu: Tensor, spread: Tensor, eps: Tensor, spreads: Sequence[str] = ()) -> Tensor:
    """mu + sigma * eps, computed in float32 or float64 and rounded once to the dtype of mu. The spread is as spreads[0]
    says."""
    wide = spread.to(torch.float64 if torch.float64 in (mu.dtype, spread.dtype) else torch.float32)
    sigma = wide
    if (given := spreads[0] if spreads else "logvar") != "scale":
        sigma = torch.exp(0.5 * wide if given == "logvar" else wide)
    return (mu.to(wide.dtype) + sigma * eps.to(wide.dtype)).to(mu.dtype)
