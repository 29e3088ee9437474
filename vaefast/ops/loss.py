"""The whole loss, reduced to a scalar. Its autograd node, for eager and compiled code, is in csrc/ops.

The result is a scalar, so the forward pass already knows the coefficient of every element. One pass over the data and
one over the latent compute both value and gradients. The backward pass multiplies these gradients by the upstream
gradient and returns them. It does so only once: a second backward pass over a retained graph runs new sweeps. A pass with
create_graph=True differentiates the composite, the plain formula of vaefast/reference."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import reference
from . import library
from .dispatch import compact, has_kernel, is_writable, needs_composite, needs_grad
from .vjp import composite_vjp, sum_of, swept


class LossOptions(NamedTuple):
    """The arguments of a loss except its term and operands, in the order of reference.elbo_loss."""

    mask: Tensor | None
    weight: Tensor | None  # one per sample
    beta: float | Tensor
    reduction: str  # "sum" or "mean"
    batch_dims: int = 1
    target_scale: float = 1.0
    spreads: tuple[str, ...] = ()  # of the latents, see reference.kl_term

    def flat(self) -> tuple[Any, ...]:
        """The options in the operators' order. They take the KL's coefficient as a tensor and a number, so that a beta on a
        GPU is never copied to the CPU."""
        mask, weight, beta, reduction, batch_dims, target_scale, spreads = self
        kl_weight, factor = weight, beta
        if isinstance(beta, Tensor):
            kl_weight, factor = beta if weight is None else weight * beta, 1.0
        bits = library.spread_bits(spreads)
        return mask, weight, kl_weight, factor, reduction, batch_dims, target_scale, bits


def _elbo_vjp(
    term: str,
    operands: Sequence[Tensor],
    latent: Sequence[Tensor],
    mask: Tensor | None,
    weight: Tensor | None,
    kl_weight: Tensor | None,
    beta: float,
    reduction: str,
    batch_dims: int,
    target_scale: float,
    spreads: int,
    fit: Tensor | None,
    kl: Tensor | None,
    gradients: int,
    *upstream: Tensor | None,
) -> list[Tensor]:
    """The gradients by (*operands, *latent, weight, kl_weight) whose bit is set in `gradients`.

    `upstream` are the gradients by (loss, log-likelihood, KL). The autograd node calls this if the gradients
    of the forward pass are given away (a retained graph) or do not suffice (float16, gradients by weights or by the parts,
    create_graph, batched gradients)."""
    arity, inputs = len(operands), [*operands, *latent, weight, kl_weight]
    needed = tuple(bool(gradients >> k & 1) for k in range(len(inputs)))
    shared = weight is not None and weight is kl_weight  # one tensor, whose whole gradient is that of `weight`
    names = library.spread_names(spreads)
    if needs_composite(*upstream):

        def composite(*given: Any) -> tuple[Tensor, ...]:
            """reference.elbo_loss of two independent weights."""
            fit_rows = reference.row_sum(term, given[:arity], mask, "none", batch_dims, target_scale)
            kl_rows = reference.latent_kl(given[arity:-2], batch_dims, names)
            loss = _weighted(given[-2 if shared else -1], beta * kl_rows) - _weighted(given[-2], fit_rows)
            return reference.reduced(loss, reduction, batch_dims), fit_rows, kl_rows

        grads = composite_vjp(composite, inputs, needed, upstream)
    else:
        grad, fit_coef, kl_coef = upstream
        of_weights: list[Tensor | None] = [None, None]
        if grad is not None:
            batch = operands[0].shape[:batch_dims]
            samples = math.prod(batch)  # batch.numel() would make a constant of a symbolic size
            row = (grad / samples if reduction == "mean" else grad).expand(batch)
            fit_coef = sum_of(-_weighted(weight, row), fit_coef)
            kl_coef = sum_of(beta * _weighted(kl_weight, row), kl_coef)
            if weight is not None and fit is not None and kl is not None and needed[-2]:
                of_weights[0] = (row * ((beta * kl if shared else 0) - fit)).sum_to_size(weight.shape)
            if kl_weight is not None and kl is not None and needed[-1]:
                of_weights[1] = (beta * row * kl).sum_to_size(kl_weight.shape)
        kl_term = reference.kl_term(latent, names)
        grads = [
            *swept(term, operands, mask, fit_coef, batch_dims, target_scale, needed[:arity]),
            *swept(kl_term, latent, None, kl_coef, batch_dims, 1.0, needed[arity:-2], spreads=spreads),
            *of_weights,
        ]
    return [g for g in grads if g is not None]


def _weighted(weight: Tensor | None, rows: Tensor) -> Tensor:
    return rows if weight is None else weight * rows


library.implement("elbo_vjp", _elbo_vjp)


def elbo_loss(
    term: str,
    operands: Sequence[Tensor],
    latent: Sequence[Tensor],
    options: LossOptions,
    inplace: bool = False,
    parts: bool = True,
) -> tuple[Tensor, ...]:
    """reference.elbo_loss as one fused operation. Returns (loss, log-likelihood, KL), or (loss,) without `parts`. With
    `inplace` the gradient overwrites the prediction where that is possible."""
    if isinstance(options.beta, Tensor) and options.beta.device != operands[0].device:
        options = options._replace(beta=options.beta.to(operands[0].device, non_blocking=True))
    if not has_kernel(operands[0]):
        return reference.elbo_loss(term, operands, latent, *options)[: 3 if parts else 1]
    if torch.compiler.is_compiling():
        options = _traceable(options, operands[0].device)
    flat, operands = options.flat(), compact(operands, options.batch_dims)
    if inplace and _may_overwrite((*operands, *latent), flat[:3]):
        return library.elbo_parts_(operands[0], term, operands[1:], latent, *flat)[: 3 if parts else 1]
    if parts:
        return library.elbo_parts(term, operands, latent, *flat)
    return (library.elbo_loss(term, operands, latent, *flat),)


def _traceable(options: LossOptions, device: torch.device) -> LossOptions:
    """The options with a beta that may change without a recompilation. As a number it would be a constant of the graph,
    and torch.full would make one of it, too."""
    beta = options.beta
    if not isinstance(beta, Tensor) and beta != 1:
        beta = beta * torch.ones((), dtype=torch.float64, device=device)
    return options._replace(beta=beta)


def _may_overwrite(inputs: Sequence[Tensor], others: Sequence[Tensor | None]) -> bool:
    """Whether the gradient may be written over the prediction: one pass computes all that is asked for, as fits_one_pass in
    csrc/ops/autograd.h says."""
    _, *weights = others
    if torch.compiler.is_compiling() or not needs_grad(inputs) or needs_grad(weights):
        return False
    if any(t.dtype is torch.float16 for t in inputs):
        return False
    return is_writable(*inputs, *others)
