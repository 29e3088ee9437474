"""The loss, reduced to a scalar: its autograd node, and the function that runs it.

The result is a scalar, so the forward pass already knows the coefficient of every element. One sweep over the tensors
computes both value and gradients. The backward pass multiplies these gradients by the upstream gradient and returns them.
It does so only once: a second backward pass over a retained graph runs new sweeps. A pass with create_graph=True
differentiates the composite, the plain formula of reference.py."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import reference
from . import library
from .dispatch import has_kernel, is_writable, needs_composite, needs_grad, traced_constant
from .vjp import Grads, bits, composite_vjp, fits_one_pass, scaled, spread, sum_of, swept

fast_elbo_loss = library.fast_elbo_loss  # the fast path: the loss in one call, or None if it does not apply; eager only


class LossOptions(NamedTuple):
    """The arguments of a loss except its term and operands, in the order of reference.elbo_loss."""

    mask: Tensor | None
    weight: Tensor | None  # one per sample
    beta: float | Tensor
    reduction: str  # "sum" or "mean"
    batch_dims: int = 1
    target_scale: float = 1.0

    def flat(self) -> tuple[Any, ...]:
        """The options in the operators' order. They take the KL's coefficient as a tensor and a number, so that a beta on a
        GPU is never copied to the CPU."""
        mask, weight, beta, *rest = self
        if not isinstance(beta, Tensor):
            return mask, weight, weight, beta, *rest
        return mask, weight, beta if weight is None else weight * beta, 1.0, *rest


class ElboLoss(torch.autograd.Function):
    """Returns (loss, log-likelihood, KL), or (loss,) without `parts`. Parts that nobody uses are left out, because for them
    torch.compile passes a gradient of zeros to backward instead of None.

    loss_autograd.cpp has a node for the loss alone in eager mode, which costs less per call. This node covers the rest:
    torch.compile, the parts, gradients with respect to weight or beta, and writing in place."""

    @staticmethod
    def forward(ctx: Any, term: str, inplace: bool, parts: bool, arity: int, *flat: Any) -> tuple[Tensor, ...]:
        options, operands = LossOptions(*flat[:_OPTIONS]), flat[_OPTIONS:]
        ctx.term, ctx.inplace, ctx.arity = term, inplace, arity
        ctx.needed = ctx.needs_input_grad[_OWN + _OPTIONS :]
        ctx.needed_of_options = LossOptions(*ctx.needs_input_grad[_OWN : _OWN + _OPTIONS])
        ctx.spent = not fits_one_pass(operands)
        rest = operands[arity:], *options.flat(), 0 if ctx.spent else bits(ctx.needed)
        if inplace:
            loss, fit, kl, buffers = library.elbo_(operands[0], term, operands[1:arity], *rest)
            # Makes torch raise its version error if a backward pass still uses the overwritten prediction.
            torch.autograd.graph.increment_version(operands[0])
            buffers = [operands[0].detach(), *buffers]
        else:
            loss, fit, kl, buffers = library.elbo(term, operands[:arity], *rest)
        beta = options.beta if isinstance(options.beta, Tensor) else None
        ctx.options = options._replace(mask=None, weight=None, beta=1.0 if beta is not None else options.beta)
        ctx.save_for_backward(options.mask, options.weight, beta, fit, kl, *operands, *buffers)
        ctx.set_materialize_grads(False)
        return (loss, fit, kl) if parts else (loss,)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, grad_fit, grad_kl = upstream = (*upstream, None, None)[:3]
        if grad is None and grad_fit is None and grad_kl is None:
            return _gradients([None] * len(ctx.needed))
        mask, weight, beta, fit, kl, *saved = ctx.saved_tensors
        options = ctx.options._replace(mask=mask, weight=weight)
        options = options if beta is None else options._replace(beta=beta)
        operands, buffers = saved[: len(ctx.needed)], saved[len(ctx.needed) :]
        differentiable = needs_composite(*upstream)
        one_pass = grad is not None and grad_fit is None and grad_kl is None and not differentiable and not ctx.spent
        if ctx.inplace and not one_pass:
            raise RuntimeError(
                "vaefast.ELBOLoss: with inplace=True the prediction holds its gradient now, so the graph can be run "
                "backward once only, from the loss, and without create_graph"
            )
        needed = ctx.needed_of_options
        if one_pass and not (needed.weight or needed.beta):
            ctx.spent = True
            assert grad is not None
            return _gradients(spread(scaled(buffers, grad), ctx.needed))
        args = ctx.term, operands[: ctx.arity], operands[ctx.arity :], options, upstream
        if differentiable:
            of_weight, of_beta, *grads = _composite_loss_vjp(*args, (needed.weight, needed.beta, *ctx.needed))
            return _gradients(grads, of_weight, of_beta)
        of_weight = of_beta = None
        if grad is not None:
            row = grad / fit.numel() if options.reduction == "mean" else grad
            of_weight = row * (options.beta * kl - fit) if needed.weight else None
            # a sum, because it is 0 for an empty batch
            of_beta = (row * (kl if weight is None else weight * kl)).sum() if needed.beta else None
        return _gradients(_swept_loss(*args, ctx.needed), of_weight, of_beta)


_OWN = 4  # arguments of ElboLoss before the options
_OPTIONS = len(LossOptions._fields)


def _gradients(
    of_operands: Sequence[Tensor | None], of_weight: Tensor | None = None, of_beta: Tensor | None = None
) -> tuple[Tensor | None, ...]:
    """The result of ElboLoss.backward: one slot per argument of forward, None where there is no gradient."""
    of_options = {"weight": of_weight, "beta": of_beta}
    return (*[None] * _OWN, *[of_options.get(name) for name in LossOptions._fields], *of_operands)


def _composite_loss_vjp(
    term: str,
    operands: Sequence[Tensor],
    latent: Sequence[Tensor],
    options: LossOptions,
    upstream: Grads,
    needed: tuple[bool, ...],
) -> list[Tensor | None]:
    """The gradients with respect to (weight, beta, *operands, *latent), by the composite. `upstream` holds the gradients
    with respect to (loss, log-likelihood, KL)."""
    arity = len(operands)

    def composite(weight: Tensor | None, beta: float | Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        return reference.elbo_loss(term, inputs[:arity], inputs[arity:], *options._replace(weight=weight, beta=beta))

    return composite_vjp(composite, [options.weight, options.beta, *operands, *latent], needed, upstream)


def _swept_loss(
    term: str,
    operands: Sequence[Tensor],
    latent: Sequence[Tensor],
    options: LossOptions,
    upstream: Grads,
    needed: tuple[bool, ...],
) -> list[Tensor | None]:
    """The gradients with respect to (*operands, *latent), by a new sweep for the likelihood and one for the KL."""
    mask, weight, beta, reduction, batch_dims, target_scale = options
    grad, fit_coef, kl_coef = upstream
    if grad is not None:
        batch = operands[0].shape[:batch_dims]
        row = (grad / batch.numel() if reduction == "mean" else grad).expand(batch)
        weighted = row if weight is None else row * weight
        fit_coef = sum_of(-weighted, fit_coef)
        kl_coef = sum_of(beta * weighted, kl_coef)
    split = len(operands)
    return swept(term, operands, mask, fit_coef, batch_dims, target_scale, needed[:split]) + swept(
        library.kl_term(latent), latent, None, kl_coef, batch_dims, 1.0, needed[split:]
    )


def _elbo_vjp(
    term: str,
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
    """Called by loss_autograd.cpp if its gradients were returned already, or for a differentiable or batched pass."""
    if weight is None and kl_weight is not None:
        beta = beta * kl_weight
    needed = tuple(bool(gradients >> k & 1) for k in range(len(operands) + len(latent)))
    options = LossOptions(mask, weight, beta, reduction, batch_dims, target_scale)
    args = term, operands, latent, options, (grad, None, None)
    if needs_composite(grad):
        _, _, *grads = _composite_loss_vjp(*args, (False, False, *needed))
    else:
        grads = _swept_loss(*args, needed)
    return [g for g in grads if g is not None]


library.implement("elbo_vjp", _elbo_vjp)


def elbo_loss(
    term: str,
    operands: Sequence[Tensor],
    latent: Sequence[Tensor],
    options: LossOptions,
    inplace: bool = False,
    parts: bool = True,
) -> tuple[Tensor, ...]:
    """reference.elbo_loss as one fused operation. Returns (loss, log-likelihood, KL); without `parts` it may leave out the
    last two. With `inplace` the gradient overwrites the prediction where that is possible."""
    mask, weight, beta, reduction, batch_dims, target_scale = options
    if isinstance(beta, Tensor) and beta.device != operands[0].device:
        beta = beta.to(operands[0].device, non_blocking=True)
    if not has_kernel(operands[0]):
        return reference.elbo_loss(term, operands, latent, *options._replace(beta=beta))
    compiling = torch.compiler.is_compiling()
    if compiling and not isinstance(beta, Tensor) and beta != 1:  # torch.full would make beta a constant of the graph
        beta = beta * torch.ones((), dtype=torch.float64, device=latent[0].device)
    options = LossOptions(mask, weight, beta, reduction, batch_dims, traced_constant(target_scale))
    beta_tensor = beta if isinstance(beta, Tensor) else None
    own_grad = weight is not None and (weight.requires_grad or beta_tensor is not None)
    own_grad = own_grad or (beta_tensor is not None and beta_tensor.requires_grad)
    if not (parts or inplace or compiling or own_grad):
        return (library.elbo_loss(term, operands, latent, *options.flat()),)
    inputs = (*operands, *latent)
    if not needs_grad((*inputs, weight, beta_tensor)):
        return library.elbo(term, operands, latent, *options.flat(), 0)[:3]
    inplace = inplace and not own_grad and fits_one_pass(inputs) and is_writable(*inputs, mask, weight)
    return ElboLoss.apply(term, inplace, parts, len(operands), *options, *inputs)
