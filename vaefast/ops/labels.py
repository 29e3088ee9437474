"""The cross entropy of labels, summed over all of them: its autograd node.

torch's functions compute it. F.cross_entropy keeps the log-probabilities, and its backward pass makes two more tensors of
that size. The node makes the gradient in the forward pass, where the log-probabilities were."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from . import library
from .dispatch import has_kernel, needs_composite, needs_grad
from .vjp import composite_vjp

# With fewer logits, or fewer for each label, the node's own calls take longer than the memory that they save.
_MANY, _CLASSES = 1 << 20, 16


def _summed(logits: Tensor, labels: Tensor, ignored: int) -> Tensor:
    return F.cross_entropy(logits, labels, ignore_index=ignored, reduction="sum")


def _with_gradient(logits: Tensor, labels: Tensor, ignored: int) -> tuple[Tensor, Tensor]:
    """The sum, and its gradient by the logits: the probabilities, minus 1 at the label."""
    log_probs = logits.log_softmax(1)
    value = F.nll_loss(log_probs, labels, ignore_index=ignored, reduction="sum")
    gradient, at = log_probs.exp_(), labels.unsqueeze(1)
    out = at == ignored
    if not out.any():
        return value, gradient.scatter_(1, at, -1.0, reduce="add")
    gradient.masked_fill_(out, 0)
    return value, gradient.scatter_add_(1, at.masked_fill(out, 0), out.to(gradient.dtype) - 1)


class CrossEntropy(torch.autograd.Function):
    """The sum of F.cross_entropy's losses. The backward pass gives the gradient away once and then computes it again."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, ignored: int) -> Tensor:
        value, gradient = _with_gradient(logits, labels, ignored)
        ctx.save_for_backward(logits, labels, gradient)
        ctx.ignored, ctx.spent = ignored, False
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        logits, labels, gradient = ctx.saved_tensors
        if needs_composite(grad):
            return *composite_vjp(lambda t: _summed(t, labels, ctx.ignored), [logits], (True,), [grad]), None, None
        if ctx.spent:
            _, gradient = _with_gradient(logits, labels, ctx.ignored)
        ctx.spent = True
        library.scale_([gradient], grad)
        return gradient.data, None, None  # an alias: its caller may write to it, and a retained graph must not see that


def cross_entropy(logits: Tensor, labels: Tensor, ignored: int) -> Tensor:
    """The sum of the losses of F.cross_entropy, for logits (N, C) or (N, C, T) on the CPU and int64 labels without the C.
    A label that is neither a class nor `ignored` raises IndexError."""
    many = logits.numel() >= _MANY and logits.shape[1] >= _CLASSES and not torch.compiler.is_compiling()
    if many and needs_grad([logits]) and has_kernel(logits):
        return CrossEntropy.apply(logits, labels, ignored)
    return _summed(logits, labels, ignored)
