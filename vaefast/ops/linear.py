"""The log-likelihood of a linear layer's output, one block of columns at a time. The whole output is never in memory."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from . import library
from .dispatch import has_kernel, needs_composite, needs_grad
from .term import row_sum
from .vjp import composite_vjp

_BLOCK = 1 << 21  # output elements per block: few enough for a cache, many enough for fast matrix products

Options = tuple[str, float]  # reduction, target_scale


def _blocks(rows: int, cols: int) -> Iterator[slice]:
    step = max(256, _BLOCK // max(1, rows))
    return (slice(start, min(start + step, cols)) for start in range(0, cols, step))


def _swept(
    term: str,
    operands: Sequence[Tensor | None],
    options: Options,
    coef: Tensor | None,
    needed: tuple[bool, ...],
    values: bool,
) -> tuple[Tensor, list[Tensor | None]]:
    """Returns the reduced term and its gradients with respect to hidden, weight and bias, multiplied by `coef`."""
    hidden, weight, bias, x, mask = operands
    assert hidden is not None and weight is not None and x is not None
    reduction, target_scale = options
    grads = [torch.zeros_like(t) if flag and t is not None else None for t, flag in zip(operands, needed, strict=False)]
    grad_hidden, grad_weight, grad_bias = grads
    value = hidden.new_zeros(hidden.shape[:1] if reduction == "none" else (), dtype=torch.float64)
    for cols in _blocks(*x.shape):
        w = weight[cols]
        output = F.linear(hidden, w, None if bias is None else bias[cols])
        kept = None if mask is None else mask[:, cols]
        block = [output, x[:, cols]]
        part, found = library.row_sum(term, block, kept, coef, reduction, 1, target_scale, int(any(needed)), values)
        if values:
            value += part
        for grad in found:
            if grad_hidden is not None:
                grad_hidden.addmm_(grad, w)
            if grad_weight is not None:
                torch.mm(grad.t(), hidden, out=grad_weight[cols])
            if grad_bias is not None:
                torch.sum(grad, 0, out=grad_bias[cols])
    return value.to(hidden.dtype), grads


def _composite(term: str, operands: Sequence[Tensor | None], options: Options) -> Tensor:
    """The same as two operations, the linear layer and then the term, with the whole output in memory."""
    hidden, weight, bias, x, mask = operands
    assert hidden is not None and weight is not None and x is not None
    reduction, target_scale = options
    return row_sum(term, (F.linear(hidden, weight, bias), x), mask, reduction, 1, target_scale)


class LinearRowSum(torch.autograd.Function):
    """A reduced term of (hidden @ weight.T + bias, x). If it is a scalar, the forward pass computes its gradients too."""

    @staticmethod
    def forward(ctx: Any, term: str, options: Options, *operands: Tensor | None) -> Tensor:
        ctx.term, ctx.options = term, options
        _, _, *needed, _, _ = ctx.needs_input_grad
        ctx.needed = tuple(needed)  # hidden, weight, bias
        scalar = options[0] != "none"
        now = ctx.needed if scalar else (False,) * 3
        value, grads = _swept(term, operands, options, None, now, True)
        ctx.save_for_backward(*operands)
        ctx.grads = grads if scalar else None
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        operands = ctx.saved_tensors
        if needs_composite(grad):
            grads = composite_vjp(
                lambda *inputs: _composite(ctx.term, inputs, ctx.options), operands, (*ctx.needed, False, False), [grad]
            )[:3]
        elif ctx.grads is None:
            _, grads = _swept(ctx.term, operands, ctx.options, grad, ctx.needed, False)
        else:  # returned once; a second backward pass over a retained graph computes them again
            grads, ctx.grads = ctx.grads, None
            library.scale_([g for g in grads if g is not None], grad)
        return (None, None, *grads, None, None)


def linear_row_sum(
    term: str,
    operands: Sequence[Tensor | None],
    reduction: str,
    target_scale: float,
) -> Tensor:
    """The reduced term of a linear layer's output and data. `operands` are (hidden, weight, bias, x, mask), where bias and
    mask may be None."""
    hidden, x = operands[0], operands[3]
    assert hidden is not None and x is not None
    options = reduction, target_scale
    exact = hidden.dtype in (torch.float32, torch.float64)  # half precision would round grad_hidden at each block
    special = torch.compiler.is_compiling() or x.requires_grad or torch.is_autocast_enabled(hidden.device.type)
    if not exact or special or not has_kernel(hidden) or hidden.is_meta:
        return _composite(term, operands, options)
    if needs_grad(operands):
        return LinearRowSum.apply(term, options, *operands)
    return _swept(term, operands, options, None, (False,) * 3, True)[0]
