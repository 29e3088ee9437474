"""The differentiable operations, each in two paths with one meaning: the fused operator through a
torch.autograd.Function, and the composite of reference.py wherever the operator cannot be right.

A scalar loss knows every element's coefficient already in the forward pass, so value and gradient come from one sweep;
the backward pass returns those buffers, scaled where the upstream gradient is not 1. The buffers are given away once:
a second backward pass over a retained graph sweeps again, and one with create_graph=True differentiates the composite."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import _ops, reference

_Grads = Sequence[Tensor | None]


def _transformed() -> bool:
    """Whether torch.func or forward-mode AD looks at this call. Both are asked through private names; where one is
    gone the answer is yes, which costs speed and nothing else."""
    active = getattr(torch._C, "_are_functorch_transforms_active", None)
    return active is None or active() or getattr(forward_ad, "_current_level", 0) >= 0


def _has_kernel(*tensors: Tensor | None) -> bool:
    """Whether the fused operator is right for these tensors, here and now."""
    if _transformed():
        return False
    return all(
        t is None or (t.device.type in _ops.DEVICES and t.layout is torch.strided and t.dtype in _ops.TARGET_DTYPES)
        for t in tensors
    )


def _needs_grad(*tensors: object) -> bool:
    return torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in tensors)


def _bits(flags: Sequence[bool]) -> int:
    return sum(1 << k for k, flag in enumerate(flags) if flag)


def _fits_one_pass(operands: Sequence[Tensor]) -> bool:
    """Unscaled float16 gradients would underflow before a GradScaler's factor reaches them: those wait for it."""
    return all(t.dtype is not torch.float16 for t in operands)


def _spread(grads: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor | None]:
    """One slot per input; None where no gradient was asked for."""
    rest = iter(grads)
    return [next(rest) if flag else None for flag in needed]


def _scaled(buffers: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
    if torch.compiler.is_compiling():  # fuses with whatever reads the gradient
        return [b * grad for b in buffers]
    _ops.scale_(list(buffers), grad)
    return list(buffers)


def _needs_composite(*grads: Tensor | None) -> bool:
    """Whether a backward pass has to be differentiable itself (create_graph=True), or batched (is_grads_batched=True)."""
    if torch.is_grad_enabled() or _transformed():
        return True
    batched = getattr(torch._C._functorch, "is_legacy_batchedtensor", None)
    return not torch.compiler.is_compiling() and (batched is None or any(g is not None and batched(g) for g in grads))


def _composite_vjp(
    function: Callable[..., Tensor | tuple[Tensor, ...]], inputs: Sequence[Any], needed: Sequence[bool], grads: _Grads
) -> list[Tensor | None]:
    """The vector-Jacobian product of the composite, differentiable where the pass asks for it."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        aliases = [t.view_as(t) if isinstance(t, Tensor) else t for t in inputs]  # one input may stand in two places
        outputs = function(*aliases)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if g is not None]
    wanted = [t for t, flag in zip(aliases, needed, strict=True) if flag]
    result = torch.autograd.grad(
        [o for o, _ in pairs], wanted, [g for _, g in pairs], create_graph=create_graph, materialize_grads=True
    )
    return _spread(result, needed)


class RowSum(torch.autograd.Function):
    """A term of terms.h, reduced."""

    @staticmethod
    def forward(  # type: ignore[override]
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
        ctx.spent = not (reduction in ("sum", "mean") and _fits_one_pass(operands))
        gradients = 0 if ctx.spent else _bits(ctx.needed)
        value, buffers = _ops.row_sum(
            term, operands, mask, None, reduction, batch_dims, target_scale, gradients, True
        )
        ctx.save_for_backward(mask, *operands, *buffers)
        ctx.set_materialize_grads(False)
        return value  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if grad is None:
            return (None,) * (5 + len(ctx.needed))
        term, reduction, batch_dims, target_scale = ctx.options
        mask, *saved = ctx.saved_tensors
        operands, buffers = saved[: len(ctx.needed)], saved[len(ctx.needed) :]
        if _needs_composite(grad):

            def composite(*inputs: Tensor) -> Tensor:
                return reference.row_sum(term, inputs, mask, reduction, batch_dims, target_scale)

            return (None,) * 5 + tuple(_composite_vjp(composite, operands, ctx.needed, [grad]))
        if ctx.spent:
            _, grads = _ops.row_sum(
                term, operands, mask, grad, reduction, batch_dims, target_scale, _bits(ctx.needed), False
            )
        else:
            ctx.spent = True
            grads = _scaled(buffers, grad)
        return (None,) * 5 + tuple(_spread(grads, ctx.needed))


def row_sum(
    term: str,
    operands: Sequence[Tensor],
    mask: Tensor | None = None,
    reduction: str = "none",
    batch_dims: int = 1,
    target_scale: float = 1.0,
) -> Tensor:
    """reference.row_sum, fused."""
    if not _has_kernel(mask, *operands):
        return reference.row_sum(term, operands, mask, reduction, batch_dims, target_scale)
    if _needs_grad(*operands):
        return RowSum.apply(term, mask, reduction, batch_dims, target_scale, *operands)  # type: ignore[no-any-return]
    value, _ = _ops.row_sum(term, operands, mask, None, reduction, batch_dims, target_scale, 0, True)
    return value  # type: ignore[no-any-return]


def _kl_term(latent: Sequence[Tensor]) -> str:
    return "gaussian_kl" if len(latent) == 2 else "gaussian_kl_pair"


class ElboLoss(torch.autograd.Function):
    """The whole loss: (loss, log-likelihood, KL)."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        likelihood: str,
        reduction: str,
        batch_dims: int,
        target_scale: float,
        inplace: bool,
        arity: int,
        mask: Tensor | None,
        weight: Tensor | None,
        beta: float | Tensor,
        *operands: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.options = (likelihood, reduction, batch_dims, target_scale)
        ctx.arity, ctx.needed, ctx.inplace = arity, ctx.needs_input_grad[9:], inplace
        ctx.weight_needed, ctx.beta_needed = ctx.needs_input_grad[7:9]
        ctx.spent = not _fits_one_pass(operands)
        rest = (operands[arity:], mask, weight, *_kl_weight(weight, beta), reduction, batch_dims, target_scale,
                0 if ctx.spent else _bits(ctx.needed))  # fmt: skip
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
        return loss, fit, kl

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        needed = (ctx.weight_needed, ctx.beta_needed, *ctx.needed)
        if all(g is None for g in upstream):
            return (None,) * (7 + len(needed))
        mask, weight, beta, fit, kl, *saved = ctx.saved_tensors
        beta = ctx.beta if beta is None else beta
        operands, buffers = saved[: len(ctx.needed)], saved[len(ctx.needed) :]
        needs_composite = _needs_composite(*upstream)
        one_pass = not needs_composite and not ctx.spent and upstream[1] is None and upstream[2] is None
        if ctx.inplace and not one_pass:
            raise RuntimeError(
                "vaefast.ELBOLoss: with inplace=True the prediction holds its gradient now, so the graph can be run "
                "backward once only, from the loss, and without create_graph"
            )
        likelihood, reduction, batch_dims, target_scale = ctx.options
        if needs_composite:

            def composite(weight: Tensor | None, beta: float | Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
                fit_inputs, latent = inputs[: ctx.arity], inputs[ctx.arity :]
                return reference.elbo_loss(
                    likelihood, fit_inputs, latent, mask, weight, beta, reduction, batch_dims, target_scale
                )

            grads = _composite_vjp(composite, [weight, beta, *operands], needed, upstream)
            return (None,) * 7 + tuple(grads)

        # d loss / d (row of beta * KL - log-likelihood), before the sample's weight
        row = None if upstream[0] is None else upstream[0] / (fit.numel() if reduction == "mean" else 1)
        weight_grad = row * (beta * kl - fit) if ctx.weight_needed and row is not None else None
        beta_grad = None
        if ctx.beta_needed and row is not None:
            beta_grad = row * (kl if weight is None else weight * kl).sum()
        if one_pass:
            ctx.spent = True
            grads = _scaled(buffers, upstream[0])  # type: ignore[arg-type]
        else:
            grads = []
            weighted = None if row is None else (row.expand_as(fit) if weight is None else row * weight)
            parts = (likelihood, operands[: ctx.arity], mask, -1.0, upstream[1]), (
                _kl_term(operands[ctx.arity :]), operands[ctx.arity :], None, beta, upstream[2])  # fmt: skip
            flags = ctx.needed[: ctx.arity], ctx.needed[ctx.arity :]
            for (term, inputs, part_mask, factor, own), part_needed in zip(parts, flags, strict=True):
                coef = own if weighted is None else factor * weighted if own is None else factor * weighted + own
                if coef is None:
                    grads += [torch.zeros_like(t) for t, flag in zip(inputs, part_needed, strict=True) if flag]
                elif any(part_needed):
                    scale = target_scale if part_mask is mask and term == likelihood else 1.0
                    grads += _ops.row_sum(
                        term, inputs, part_mask, coef, "none", batch_dims, scale, _bits(part_needed), False
                    )[1]
        return (None,) * 7 + (weight_grad, beta_grad, *_spread(grads, ctx.needed))


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
) -> tuple[Tensor, Tensor, Tensor]:
    """reference.elbo_loss, fused. `inplace` writes the gradient over the prediction where that is possible."""
    beta_tensor = beta if isinstance(beta, Tensor) else None
    if not _has_kernel(mask, weight, beta_tensor, *operands, *latent):
        return reference.elbo_loss(likelihood, operands, latent, mask, weight, beta, reduction, batch_dims, target_scale)
    if _needs_grad(weight, beta_tensor, *operands, *latent):
        prediction = operands[0]
        inplace = (
            inplace
            and prediction.requires_grad
            and not prediction.is_leaf
            and prediction.is_contiguous()
            and _fits_one_pass((*operands, *latent))
            and not torch.compiler.is_compiling()
        )
        return ElboLoss.apply(  # type: ignore[no-any-return]
            likelihood, reduction, batch_dims, target_scale, inplace, len(operands), mask, weight, beta, *operands, *latent
        )
    return _ops.elbo(  # type: ignore[no-any-return]
        likelihood, operands, latent, mask, weight, *_kl_weight(weight, beta), reduction, batch_dims, target_scale, 0
    )[:3]


class Rsample(torch.autograd.Function):
    """(z, KL): a reparameterized sample, and the KL divergence of its distribution where `kl` asks for it."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, num_samples: int, kl: bool, batch_dims: int, generator: torch.Generator | None, *latent: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.options = (num_samples, kl, batch_dims)
        ctx.needed = ctx.needs_input_grad[4:]
        z, sums, key = _ops.rsample(latent, None, num_samples, kl, batch_dims, generator)
        ctx.save_for_backward(key, *latent)
        ctx.set_materialize_grads(False)
        return z, sums

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        num_samples, kl, batch_dims = ctx.options
        grad_kl = grad_kl if kl else None  # torch.compile hands in an empty one
        if grad_z is None and grad_kl is None:
            return (None,) * (4 + len(ctx.needed))
        key, *latent = ctx.saved_tensors
        if not _needs_composite(grad_z, grad_kl):
            needed = ctx.needed
            if grad_kl is None:  # z does not depend on the prior
                latent, needed = latent[:2], (*needed[:2], *[False] * (len(needed) - 2))
            grads = _ops.rsample_backward(latent, key, grad_z, grad_kl, num_samples, batch_dims, _bits(needed))
            return (None,) * 4 + tuple(_spread(grads, needed))

        def composite(*inputs: Tensor) -> tuple[Tensor, Tensor]:
            eps = _noise(latent[0], num_samples, key)
            sums = reference.row_sum(_kl_term(inputs), inputs, batch_dims=batch_dims) if kl else inputs[0].new_empty(0)
            return reference.reparameterize(inputs[0], inputs[1], eps), sums

        return (None,) * 4 + tuple(_composite_vjp(composite, latent, ctx.needed, [grad_z, grad_kl]))


def _noise(like: Tensor, num_samples: int, key: Tensor | None, generator: torch.Generator | None = None) -> Tensor:
    """The standard normals that the fused operator adds to a `mu` like this one."""
    zero = torch.zeros((), dtype=torch.float32, device=like.device).expand(like.shape)
    with torch.no_grad():
        return _ops.rsample([zero, zero], key, num_samples, False, 0, generator)[0]  # type: ignore[no-any-return]


def rsample(
    latent: Sequence[Tensor],
    num_samples: int | None = None,
    kl: bool = False,
    batch_dims: int = 1,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """(z, KL) from latent = (mu, logvar) or (mu, logvar, prior_mu, prior_logvar), fused."""
    samples = -1 if num_samples is None else num_samples
    if _has_kernel(*latent):
        if _needs_grad(*latent):
            return Rsample.apply(samples, kl, batch_dims, generator, *latent)  # type: ignore[no-any-return]
        return _ops.rsample(latent, None, samples, kl, batch_dims, generator)[:2]  # type: ignore[no-any-return]
    mu = latent[0]
    shape = mu.shape if num_samples is None else (num_samples, *mu.shape)
    eps = torch.randn(shape, generator=generator, device=mu.device)  # torch's own, which torch.func knows how to batch
    sums = reference.row_sum(_kl_term(latent), latent, batch_dims=batch_dims) if kl else mu.new_empty(0)
    return reference.reparameterize(mu, latent[1], eps), sums
