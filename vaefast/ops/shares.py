"""Poisson's term of counts whose rates are shares of their total: its autograd node.

The derivative of the sum by the logits themselves is x - rate. So the node makes it in the forward pass, and needs neither
the log-probabilities nor a backward pass through log_softmax."""

from typing import Any

import torch
from torch import Tensor

from . import library
from .dispatch import has_kernel, needs_composite, needs_grad
from .term import row_sum
from .vjp import composite_vjp


def _composite(logits: Tensor, x: Tensor, log_total: Tensor, target_scale: float) -> Tensor:
    log_rate = logits.log_softmax(-1) + log_total[..., None]
    return row_sum("poisson", (log_rate, x), None, "none", logits.dim() - 1, target_scale)


def _with_gradient(logits: Tensor, x: Tensor, log_total: Tensor, target_scale: float) -> tuple[Tensor, Tensor]:
    log_rate = logits.log_softmax(-1).add_(log_total[..., None])
    options = "none", logits.dim() - 1, target_scale, 1, True
    value, (gradient,) = library.row_sum("poisson", [log_rate, x], None, None, *options)
    return value, gradient


class PoissonOfShares(torch.autograd.Function):
    """The backward pass gives the gradient away once and then computes it again."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, x: Tensor, log_total: Tensor, target_scale: float) -> Tensor:
        value, gradient = _with_gradient(logits, x, log_total, target_scale)
        ctx.save_for_backward(logits, x, log_total, gradient)
        ctx.target_scale, ctx.spent = target_scale, False
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        logits, x, log_total, gradient = ctx.saved_tensors
        rest = x, log_total, ctx.target_scale
        if needs_composite(grad):
            return *composite_vjp(lambda t: _composite(t, *rest), [logits], (True,), [grad]), None, None, None
        if ctx.spent:
            _, gradient = _with_gradient(logits, *rest)
        ctx.spent = True
        # an alias: its caller may write to it, and a retained graph must not see that
        return gradient.data.mul_(grad[..., None]), None, None, None


def poisson_of_shares(logits: Tensor, x: Tensor, log_total: Tensor, target_scale: float) -> Tensor:
    """The sum over d of log Poisson(x_d; exp(log_total) softmax(logits)_d), for logits and x (..., D) and log_total (...).
    The sum of x, times target_scale, must be exp(log_total)."""
    by_node = needs_grad([logits]) and not needs_grad([x, log_total]) and not torch.compiler.is_compiling()
    if by_node and has_kernel(logits):
        return PoissonOfShares.apply(logits, x, log_total, target_scale)
    return _composite(logits, x, log_total, target_scale)
