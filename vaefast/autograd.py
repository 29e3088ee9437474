"""The differentiable operations, each in two paths with one meaning: the fused operator through a
torch.autograd.Function, and the composite of reference.py wherever the operator cannot be right.

A scalar loss knows every element's coefficient already in the forward pass, so value and gradient come from one
sweep; the backward pass returns those buffers, scaled where the upstream gradient is not 1. The buffers are given away
once: a second backward pass over a retained graph sweeps again, and one with create_graph=True differentiates the
composite."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _ops, reference
from ._paths import has_kernel, is_writable, needs_composite, needs_grad, traced_constant
from ._vjp import Grads, bits, composite_vjp, fits_one_pass, kl_term, scaled, spread, sum_of, swept

fast_elbo_loss = _ops.fast_elbo_loss  # elbo_loss of four ordinary tensors, or None; not for torch.compile


class RowSum(torch.autograd.Function):
    """A term of terms.h, reduced."""

    @staticmethod
    def forward(
        ctx: Any,
        term: str,
        mask: Tensor | None,
        reduction: str,
        batch_dims: int,
        target_scale: float,
        *operands: Tensor,
    ) -> Tensor:
        ctx.options = (term, reduction, batch_dims, target_scale)
        ctx.needed = ctx.needs_input_grad[5:]
        ctx.spent = not (reduction in ("sum", "mean") and fits_one_pass(operands))
        gradients = 0 if ctx.spent else bits(ctx.needed)
        value, buffers = _ops.row_sum(term, operands, mask, None, reduction, batch_dims, target_scale, gradients, True)
        ctx.save_for_backward(mask, *operands, *buffers)
        ctx.set_materialize_grads(False)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * (5 + len(ctx.needed))
        term, reduction, batch_dims, target_scale = ctx.options
        mask, *saved = ctx.saved_tensors
        operands, buffers = saved[: len(ctx.needed)], saved[len(ctx.needed) :]
        if needs_composite(grad):

            def composite(*inputs: Tensor) -> Tensor:
                return reference.row_sum(term, inputs, mask, reduction, batch_dims, target_scale)

            return (None,) * 5 + tuple(composite_vjp(composite, operands, ctx.needed, [grad]))
        if ctx.spent:
            grads = swept(term, operands, mask, grad, batch_dims, target_scale, ctx.needed, reduction)
            return (None,) * 5 + tuple(grads)
        ctx.spent = True
        return (None,) * 5 + tuple(spread(scaled(buffers, grad), ctx.needed))


def row_sum(
    term: str,
    operands: Sequence[Tensor],
    mask: Tensor | None = None,
    reduction: str = "none",
    batch_dims: int = 1,
    target_scale: float = 1.0,
) -> Tensor:
    """reference.row_sum, fused."""
    if not has_kernel(operands[0]):
        return reference.row_sum(term, operands, mask, reduction, batch_dims, target_scale)
    target_scale = traced_constant(target_scale)
    if needs_grad(operands):
        return RowSum.apply(term, mask, reduction, batch_dims, target_scale, *operands)
    value, _ = _ops.row_sum(term, operands, mask, None, reduction, batch_dims, target_scale, 0, True)
    return value


class ElboLoss(torch.autograd.Function):
    """The whole loss: (loss, log-likelihood, KL); the loss alone without `parts`, because torch.compile hands backward a
    zero, and not None, for an output that nobody used."""

    @staticmethod
    def forward(
        ctx: Any,
        likelihood: str,
        reduction: str,
        batch_dims: int,
        target_scale: float,
        inplace: bool,
        parts: bool,
        arity: int,
        mask: Tensor | None,
        weight: Tensor | None,
        beta: float | Tensor,
        *operands: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.options = (likelihood, reduction, batch_dims, target_scale)
        ctx.arity, ctx.needed, ctx.inplace = arity, ctx.needs_input_grad[10:], inplace
        ctx.weight_and_beta_needed = ctx.needs_input_grad[8:10]
        ctx.spent = not fits_one_pass(operands)
        rest = (operands[arity:], mask, weight, *_kl_weight(weight, beta), reduction, batch_dims, target_scale,
                0 if ctx.spent else bits(ctx.needed))  # fmt: skip
        if inplace:
            loss, fit, kl, buffers = _ops.elbo_(operands[0], likelihood, operands[1:arity], *rest)
            # A stale use of the overwritten prediction now raises torch's version error.
            torch.autograd.graph.increment_version(operands[0])
            buffers = [operands[0].detach(), *buffers]
        else:
            loss, fit, kl, buffers = _ops.elbo(likelihood, operands[:arity], *rest)
        ctx.beta = None if isinstance(beta, Tensor) else beta
        ctx.save_for_backward(mask, weight, beta if ctx.beta is None else None, fit, kl, *operands, *buffers)
        ctx.set_materialize_grads(False)
        return (loss, fit, kl) if parts else (loss,)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, grad_fit, grad_kl = upstream = (*upstream, None, None)[:3]
        needed = (*ctx.weight_and_beta_needed, *ctx.needed)
        if grad is None and grad_fit is None and grad_kl is None:
            return (None,) * (8 + len(needed))
        mask, weight, beta_tensor, fit, kl, *saved = ctx.saved_tensors
        beta = ctx.beta if beta_tensor is None else beta_tensor
        operands, buffers = saved[: len(ctx.needed)], saved[len(ctx.needed) :]
        composite_pass = needs_composite(*upstream)
        one_pass = grad is not None and grad_fit is None and grad_kl is None and not composite_pass and not ctx.spent
        if ctx.inplace and not one_pass:
            raise RuntimeError(
                "vaefast.ELBOLoss: with inplace=True the prediction holds its gradient now, so the graph can be run "
                "backward once only, from the loss, and without create_graph"
            )
        if one_pass and ctx.weight_and_beta_needed == (False, False):
            ctx.spent = True
            assert grad is not None
            return (None,) * 10 + tuple(spread(scaled(buffers, grad), ctx.needed))

        likelihood, reduction, batch_dims, target_scale = ctx.options
        fit_operands, latent = operands[: ctx.arity], operands[ctx.arity :]
        options = mask, weight, beta, reduction, batch_dims, target_scale
        if composite_pass:
            grads = _composite_loss_vjp(likelihood, fit_operands, latent, *options, upstream, needed)
            return (None,) * 8 + tuple(grads)
        row = None if grad is None else (grad / fit.numel() if reduction == "mean" else grad)
        weight_grad = row * (beta * kl - fit) if ctx.weight_and_beta_needed[0] and row is not None else None
        beta_grad = None
        if ctx.weight_and_beta_needed[1] and row is not None:
            beta_grad = (row * (kl if weight is None else weight * kl)).sum()  # 0 for no samples
        grads = _swept_loss(likelihood, fit_operands, latent, *options, upstream, ctx.needed)
        return (None,) * 8 + (weight_grad, beta_grad, *grads)


def _composite_loss_vjp(
    likelihood: str,
    operands: Sequence[Tensor],
    latent: Sequence[Tensor],
    mask: Tensor | None,
    weight: Tensor | None,
    beta: float | Tensor,
    reduction: str,
    batch_dims: int,
    target_scale: float,
    upstream: Grads,
    needed: tuple[bool, ...],
) -> list[Tensor | None]:
    """The gradients by (weight, beta, *operands, *latent) for upstream gradients by (loss, log-likelihood, KL)."""
    arity = len(operands)

    def composite(weight: Tensor | None, beta: float | Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        parts = likelihood, inputs[:arity], inputs[arity:], mask, weight, beta, reduction
        return reference.elbo_loss(*parts, batch_dims, target_scale)

    return composite_vjp(composite, [weight, beta, *operands, *latent], needed, upstream)


def _swept_loss(
    likelihood: str,
    operands: Sequence[Tensor],
    latent: Sequence[Tensor],
    mask: Tensor | None,
    weight: Tensor | None,
    beta: float | Tensor,
    reduction: str,
    batch_dims: int,
    target_scale: float,
    upstream: Grads,
    needed: tuple[bool, ...],
) -> list[Tensor | None]:
    """The gradients by (*operands, *latent), by sweeps of their own."""
    grad, fit_coef, kl_coef = upstream
    if grad is not None:
        batch = operands[0].shape[:batch_dims]
        row = (grad / batch.numel() if reduction == "mean" else grad).expand(batch)
        weighted = row if weight is None else row * weight
        fit_coef = sum_of(-weighted, fit_coef)
        kl_coef = sum_of(beta * weighted, kl_coef)
    split = len(operands)
    return swept(likelihood, operands, mask, fit_coef, batch_dims, target_scale, needed[:split]) + swept(
        kl_term(latent), latent, None, kl_coef, batch_dims, 1.0, needed[split:]
    )


def _elbo_vjp(
    likelihood: str,
    operands: Sequence[Tensor],
    latent: Sequence[Tensor],
    mask: Tensor | None,
    weight: Tensor | None,
    kl_weight: Tensor | None,
    beta: float | Tensor,
    reduction: str,
    batch_dims: int,
    target_scale: float,
    gradients: int,
    grad: Tensor,
) -> list[Tensor]:
    if weight is None and kl_weight is not None:
        beta = beta * kl_weight
    needed = tuple(bool(gradients >> k & 1) for k in range(len(operands) + len(latent)))
    options = mask, weight, beta, reduction, batch_dims, target_scale, (grad, None, None)
    if needs_composite(grad):
        grads = _composite_loss_vjp(likelihood, operands, latent, *options, (False, False, *needed))[2:]
    else:
        grads = _swept_loss(likelihood, operands, latent, *options, needed)
    return [g for g in grads if g is not None]


_ops.implement("elbo_vjp", _elbo_vjp)


def _kl_weight(weight: Tensor | None, beta: float | Tensor) -> tuple[Tensor | None, float]:
    """The KL's coefficient as a tensor and a factor; a beta on the device is never read back."""
    if not isinstance(beta, Tensor):
        return weight, beta
    return (beta if weight is None else weight * beta), 1.0


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
    inplace: bool = False,
    parts: bool = True,
) -> tuple[Tensor, ...]:
    """reference.elbo_loss, fused; the loss alone where no `parts` are asked for. `inplace` writes the gradient over the
    prediction where that is possible."""
    if isinstance(beta, Tensor) and beta.device != operands[0].device:
        beta = beta.to(operands[0].device, non_blocking=True)
    beta_tensor = beta if isinstance(beta, Tensor) else None
    if not has_kernel(operands[0]):
        composite = mask, weight, beta, reduction, batch_dims, target_scale
        return reference.elbo_loss(likelihood, operands, latent, *composite)
    compiling = torch.compiler.is_compiling()
    target_scale = traced_constant(target_scale)
    if compiling and not isinstance(beta, Tensor) and beta != 1:  # torch.full would put its value into the graph, too
        beta = beta_tensor = beta * torch.ones((), dtype=torch.float64, device=latent[0].device)
    options = mask, weight, *_kl_weight(weight, beta), reduction, batch_dims, target_scale
    own_grad = weight is not None and (weight.requires_grad or beta_tensor is not None)
    own_grad = own_grad or (beta_tensor is not None and beta_tensor.requires_grad)
    if not (parts or inplace or compiling or own_grad):
        return (_ops.elbo_loss(likelihood, operands, latent, *options),)
    inputs = (*operands, *latent)
    if not needs_grad((*inputs, weight, beta_tensor)):
        return _ops.elbo(likelihood, operands, latent, *options, 0)[:3]
    inplace = inplace and not own_grad and fits_one_pass(inputs) and is_writable(*inputs, mask, weight)
    return ElboLoss.apply(
        likelihood, reduction, batch_dims, target_scale, inplace, parts, len(operands), mask, weight, beta, *inputs
    )


class Rsample(torch.autograd.Function):
    """(z, KL): a reparameterized sample, and the KL divergence of its distribution where `kl` asks for it."""

    @staticmethod
    def forward(
        ctx: Any, num_samples: int, kl: bool, batch_dims: int, generator: torch.Generator | None, *latent: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.options = (num_samples, kl, batch_dims)
        ctx.needed = ctx.needs_input_grad[4:]
        z, sums, key = _ops.rsample(latent, None, num_samples, kl, batch_dims, generator)
        ctx.save_for_backward(key, *latent)
        ctx.set_materialize_grads(False)
        return z, sums

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None) -> tuple[Tensor | None, ...]:
        num_samples, kl, batch_dims = ctx.options
        grad_kl = grad_kl if kl else None  # torch.compile hands in an empty one
        if grad_z is None and grad_kl is None:
            return (None,) * (4 + len(ctx.needed))
        key, *latent = ctx.saved_tensors
        needed = ctx.needed
        if grad_kl is None:  # z does not depend on the prior
            latent, needed = latent[:2], needed[:2]
        backward = _rsample_vjp if needs_composite(grad_z, grad_kl) else _ops.rsample_backward
        grads = backward(latent, key, grad_z, grad_kl, num_samples, batch_dims, bits(needed))
        rest = len(ctx.needed) - len(needed)
        return (None,) * 4 + tuple(spread(grads, needed)) + (None,) * rest


def _rsample_vjp(
    latent: Sequence[Tensor],
    key: Tensor,
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    num_samples: int,
    batch_dims: int,
    gradients: int,
) -> list[Tensor]:
    """_ops.rsample_backward by the composite, so that it can be differentiated and batched."""
    kl = grad_kl is not None
    needed = tuple(bool(gradients >> k & 1) for k in range(len(latent)))

    def composite(*inputs: Tensor) -> tuple[Tensor, ...]:
        eps = _noise(latent[0], num_samples, key)
        z = reference.reparameterize(inputs[0], inputs[1], eps)
        return (z, reference.row_sum(kl_term(inputs), inputs, batch_dims=batch_dims)) if kl else (z,)

    grads = composite_vjp(composite, list(latent), needed, [grad_z, grad_kl] if kl else [grad_z])
    return [g for g in grads if g is not None]


_ops.implement("rsample_vjp", _rsample_vjp)


def _noise(like: Tensor, num_samples: int, key: Tensor | None, generator: torch.Generator | None = None) -> Tensor:
    """The standard normals that the fused operator adds to a `mu` like this one."""
    zero = torch.zeros((), dtype=torch.float32, device=like.device).expand(like.shape)
    with torch.no_grad():
        return _ops.rsample([zero, zero], key, num_samples, False, 0, generator)[0]


def rsample(
    latent: Sequence[Tensor],
    num_samples: int | None = None,
    kl: bool = False,
    batch_dims: int = 1,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """(z, KL) from latent = (mu, logvar) or (mu, logvar, prior_mu, prior_logvar), fused."""
    samples = -1 if num_samples is None else num_samples
    if has_kernel(latent[0]):
        if needs_grad(latent):
            if torch.compiler.is_compiling():
                return Rsample.apply(samples, kl, batch_dims, generator, *latent)
            return _ops.sample_and_kl(latent, samples, kl, batch_dims, generator)
        return _ops.rsample(latent, None, samples, kl, batch_dims, generator)[:2]
    mu = latent[0]
    shape = mu.shape if num_samples is None else (num_samples, *mu.shape)
    eps = torch.randn(shape, generator=generator, device=mu.device)  # torch's own, which torch.func knows how to batch
    sums = reference.row_sum(kl_term(latent), latent, batch_dims=batch_dims) if kl else mu.new_empty(0)
    return reference.reparameterize(mu, latent[1], eps), sums
