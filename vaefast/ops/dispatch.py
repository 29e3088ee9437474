"""Which of the two paths a call takes: the fused operator, or the composite of reference.py, which is right everywhere; and
whether it may work in place."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import library

# Private names of torch. Where one is gone, every call takes the composite: that costs speed and nothing else.
_functorch_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
_is_batched = getattr(torch._C._functorch, "is_legacy_batchedtensor", lambda tensor: True)


def transformed() -> bool:
    """Whether torch.func or forward-mode AD looks at this call."""
    return _functorch_active() or getattr(forward_ad, "_current_level", 0) >= 0


def has_kernel(tensor: Tensor) -> bool:
    """Whether the fused operator is right for this call, whose tensors are on one device and of types that it reads.

    Tensors made of tensors, such as DTensor, know torch's operators and not ours."""
    return tensor.device.type in library.DEVICES and not transformed() and not hasattr(tensor, "__tensor_flatten__")


def needs_grad(tensors: Sequence[object]) -> bool:
    if torch.is_grad_enabled():
        for t in tensors:
            if isinstance(t, Tensor) and t.requires_grad:
                return True
    return False


def needs_composite(*grads: Tensor | None) -> bool:
    """Whether a backward pass must be differentiable itself (create_graph=True) or batched (is_grads_batched=True)."""
    if torch.is_grad_enabled() or transformed():
        return True
    return not torch.compiler.is_compiling() and any(g is not None and _is_batched(g) for g in grads)


def traced_constant(number: float) -> float:
    """The number; under torch.compile(dynamic=True) a usual one as a constant, guarded. A symbolic float cannot enter two
    autograd.Functions of one graph (torch 2.13: "lift_tracked_freevar_to_input")."""
    if torch.compiler.is_compiling():
        for usual in (1.0, 1 / 255):
            if number == usual:
                return usual
    return number


def is_writable(prediction: Tensor, *others: Tensor | None) -> bool:
    """Whether the gradient may stand where the prediction does: no leaf's memory, nobody else's, not a sigmoid's result."""
    base = prediction if prediction._base is None else prediction._base
    if base.is_leaf or not prediction.requires_grad or not prediction.is_contiguous():
        return False
    if _may_keep(prediction.grad_fn) or _may_keep(base.grad_fn):
        return False
    own = prediction.untyped_storage().data_ptr()
    return all(t is None or t.untyped_storage().data_ptr() != own for t in others)


def _may_keep(node: Any) -> bool:
    """Whether a backward node may need its result. Of a node in Python, which a compiled function has, too, one cannot know
    without unpacking what it saved, and under a checkpoint that computes it again."""
    if not isinstance(node, torch.autograd.function.BackwardCFunction):
        return hasattr(node, "_raw_saved_result")
    try:
        return len(node._raw_saved_tensors) > 0
    except RuntimeError:  # the graph is freed
        return True
