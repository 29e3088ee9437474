"""Helpers shared by the backward passes. They compute vector-Jacobian products from the gradients of the forward pass, by a
new sweep, or by the composite, the plain formula of reference.py."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import library

Grads = Sequence[Tensor | None]


def bits(flags: tuple[bool, ...]) -> int:
    return sum(1 << k for k, flag in enumerate(flags) if flag)


def fits_one_pass(operands: Sequence[Tensor]) -> bool:
    """Whether the forward pass may compute the gradients already.

    float16 gradients wait for the backward pass, because without the factor of a GradScaler they would underflow. Under
    torch.compile a double backward would take gradients of the forward pass for constants and be silently wrong."""
    if torch.compiler.is_compiling():
        return False
    for t in operands:  # noqa: SIM110  a loop, because a generator would cost as much as the rest of the call
        if t.dtype is torch.float16:
            return False
    return True


def spread(grads: Sequence[Tensor | None], needed: tuple[bool, ...]) -> list[Tensor | None]:
    """Returns one slot per input: its gradient, or None where none is needed."""
    rest = iter(grads)
    return [next(rest) if flag else None for flag in needed]


def scaled(buffers: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
    library.scale_(list(buffers), grad)
    return [b.data for b in buffers]  # aliases, so that changing a gradient in place does not invalidate the graph


def composite_vjp(
    function: Callable[..., Tensor | tuple[Tensor, ...]], inputs: Sequence[Any], needed: tuple[bool, ...], grads: Grads
) -> list[Tensor | None]:
    """The vector-Jacobian product of the composite `function`, differentiable if the pass has create_graph=True."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        aliases = [t.view_as(t) if isinstance(t, Tensor) else t for t in inputs]  # one tensor may be two of the inputs
        outputs = function(*aliases)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    # Some outputs do not depend on what requires a gradient, such as the KL on the prediction.
    pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if g is not None and o.requires_grad]
    wanted = [t for t, flag in zip(aliases, needed, strict=True) if flag]
    if not pairs:
        return spread([torch.zeros_like(t) for t in wanted], needed)
    result = torch.autograd.grad(
        [o for o, _ in pairs], wanted, [g for _, g in pairs], create_graph=create_graph, materialize_grads=True
    )
    return spread(result, needed)


def sum_of(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def swept(
    term: str,
    operands: Sequence[Tensor],
    mask: Tensor | None,
    coef: Tensor | None,
    batch_dims: int,
    target_scale: float,
    needed: tuple[bool, ...],
    reduction: str = "none",
    spreads: int = 0,
) -> list[Tensor | None]:
    """The gradients of a term for the upstream gradient `coef`, by a new sweep."""
    if coef is None or not any(needed):
        return [None] * len(needed)
    options = reduction, batch_dims, target_scale, bits(needed), False, spreads
    _, grads = library.row_sum(term, operands, mask, coef, *options)
    return spread(grads, needed)
