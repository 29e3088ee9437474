"""The term, a log-likelihood or KL of csrc/math/terms, reduced: its autograd node, and the function that runs it. The
composite is the plain formula of reference.py."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import reference
from . import library
from .dispatch import has_kernel, needs_composite, needs_grad, traced_constant
from .vjp import bits, composite_vjp, fits_one_pass, scaled, spread, swept


class RowSum(torch.autograd.Function):
    """A term, reduced."""

    @staticmethod
    def forward(
        ctx: Any,
        term: str,
        mask: Tensor | None,
        reduction: str,
        batch_dims: int,
        target_scale: float,
        spreads: tuple[str, ...],
        *operands: Tensor,
    ) -> Tensor:
        ctx.options = (term, reduction, batch_dims, target_scale, spreads)
        ctx.needed = ctx.needs_input_grad[-len(operands) :]
        ctx.spent = not (reduction in ("sum", "mean") and fits_one_pass(operands))
        gradients = 0 if ctx.spent else bits(ctx.needed)
        options = (reduction, batch_dims, target_scale, gradients, True, library.spread_bits(spreads))
        value, buffers = library.row_sum(term, operands, mask, None, *options)
        ctx.save_for_backward(mask, *operands, *buffers)
        ctx.set_materialize_grads(False)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        none = (None,) * (len(ctx.needs_input_grad) - len(ctx.needed))  # of the arguments before the operands
        if grad is None:
            return (*none, *(None for _ in ctx.needed))
        term, reduction, batch_dims, target_scale, spreads = ctx.options
        mask, *saved = ctx.saved_tensors
        operands, buffers = saved[: len(ctx.needed)], saved[len(ctx.needed) :]
        if needs_composite(grad):

            def composite(*inputs: Tensor) -> Tensor:
                return reference.row_sum(term, inputs, mask, reduction, batch_dims, target_scale, spreads)

            return (*none, *composite_vjp(composite, operands, ctx.needed, [grad]))
        if ctx.spent:
            given_as = library.spread_bits(spreads)
            grads = swept(term, operands, mask, grad, batch_dims, target_scale, ctx.needed, reduction, given_as)
            return (*none, *grads)
        ctx.spent = True
        return (*none, *spread(scaled(buffers, grad), ctx.needed))


def row_sum(
    term: str,
    operands: Sequence[Tensor],
    mask: Tensor | None = None,
    reduction: str = "none",
    batch_dims: int = 1,
    target_scale: float = 1.0,
    spreads: tuple[str, ...] = (),
) -> Tensor:
    """reference.row_sum as one fused operation."""
    if not has_kernel(operands[0]):
        return reference.row_sum(term, operands, mask, reduction, batch_dims, target_scale, spreads)
    target_scale = traced_constant(target_scale)
    if needs_grad(operands):
        return RowSum.apply(term, mask, reduction, batch_dims, target_scale, spreads, *operands)
    options = (reduction, batch_dims, target_scale, 0, True, library.spread_bits(spreads))
    value, _ = library.row_sum(term, operands, mask, None, *options)
    return value
