"""Chooses between the fused operator and the composite, the plain formula of vaefast/reference, which works everywhere.
Also decides whether a gradient may be written in place."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import library

# Private names of torch. If torch lacks one, every call takes the composite, which is correct but slower.
_functorch_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
_is_batched = getattr(getattr(torch._C, "_functorch", None), "is_legacy_batchedtensor", lambda tensor: True)


def transformed() -> bool:
    """Whether this call runs under torch.func or forward-mode AD."""
    return _functorch_active() or getattr(forward_ad, "_current_level", 0) >= 0


def has_kernel(tensor: Tensor) -> bool:
    """Whether the fused operator can run this call. The tensors' dtypes and common device are checked already.

    Wrapper subclasses such as DTensor support torch's operators but not vaefast's."""
    return tensor.device.type in library.DEVICES and not transformed() and not hasattr(tensor, "__tensor_flatten__")


def compact(operands: Sequence[Tensor], batch_dims: int) -> list[Tensor]:
    """The operands in the shapes that the operators take: the first one's shape, or one element, or varying along the batch
    alone or along the other dimensions alone. The kernels read those by stride and sum their gradients."""
    shape = operands[0].shape
    return [t if t.shape == shape or t.dim() == 0 else _compact(t, shape, batch_dims) for t in operands]


def _compact(t: Tensor, shape: torch.Size, batch_dims: int) -> Tensor:
    own = (*(1,) * (len(shape) - t.dim()), *t.shape)
    batch, event = own[:batch_dims], own[batch_dims:]
    if all(size == 1 for size in batch):
        return t.expand(shape[batch_dims:] if t.dim() <= len(event) else (*batch, *shape[batch_dims:]))
    if batch == shape[:batch_dims] and all(size == 1 for size in event):
        return t.reshape(own)
    return t.expand(shape)


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


def is_writable(prediction: Tensor, *others: Tensor | None) -> bool:
    """Whether the gradient may overwrite the prediction.

    It may not if the prediction shares memory with a leaf or with `others`, or if the backward pass of the operation that
    made it needs its values, as that of a sigmoid does."""
    base = prediction if prediction._base is None else prediction._base
    if base.is_leaf or not prediction.requires_grad or not prediction.is_contiguous():
        return False
    if _may_keep(prediction.grad_fn) or _may_keep(base.grad_fn):
        return False
    own = prediction.untyped_storage().data_ptr()
    return all(t is None or t.untyped_storage().data_ptr() != own for t in others)


def _may_keep(node: Any) -> bool:
    """Whether a backward node may need the result of its forward pass.

    A Python node, such as that of a compiled function, counts as needing its result if it saved any tensor. To find out
    which one would mean to unpack it, and under a checkpoint unpacking computes it again."""
    if not isinstance(node, torch.autograd.function.BackwardCFunction):
        return hasattr(node, "_raw_saved_result")
    try:
        return len(node._raw_saved_tensors) > 0
    except RuntimeError:  # the graph is freed
        return True
