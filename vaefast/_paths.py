"""Which of the two paths a call takes: the fused operator, or the composite of reference.py, which is right everywhere."""

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import _ops


def _transformed() -> bool:
    """Whether torch.func or forward-mode AD looks at this call. Both are asked through private names; where one is
    gone the answer is yes, which costs speed and nothing else."""
    active = getattr(torch._C, "_are_functorch_transforms_active", None)
    return active is None or active() or getattr(forward_ad, "_current_level", 0) >= 0


def has_kernel(*tensors: Tensor | None) -> bool:
    """Whether the fused operator is right for these tensors, here and now."""
    if _transformed():
        return False
    return all(
        t is None or (t.device.type in _ops.DEVICES and t.layout is torch.strided and t.dtype in _ops.TARGET_DTYPES)
        for t in tensors
    )


def needs_grad(*tensors: object) -> bool:
    return torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in tensors)


def needs_composite(*grads: Tensor | None) -> bool:
    """Whether a backward pass must be differentiable itself (create_graph=True) or batched (is_grads_batched=True)."""
    if torch.is_grad_enabled() or _transformed():
        return True
    batched = getattr(torch._C._functorch, "is_legacy_batchedtensor", None)
    return not torch.compiler.is_compiling() and (batched is None or any(g is not None and batched(g) for g in grads))
