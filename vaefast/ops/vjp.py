"""Helpers shared by the backward passes. They compute vector-Jacobian products from the gradients of the forward pass, by a
new sweep, or by the composite, the plain formula of vaefast/reference."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import library

Grads = Sequence[Tensor | None]


def in_slots(grads: Sequence[Tensor | None], needed: tuple[bool, ...]) -> list[Tensor | None]:
    """Returns one slot per input: its gradient, or None where none is needed."""
    rest = iter(grads)
    return [next(rest) if flag else None for flag in needed]


def composite_vjp(
    function: Callable[..., Tensor | tuple[Tensor, ...]], inputs: Sequence[Any], needed: tuple[bool, ...], grads: Grads
) -> list[Tensor | None]:
    """The vector-Jacobian product of the composite `function`, differentiable if the pass has create_graph=True."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        aliases = [t.view_as(t) if isinstance(t, Tensor) else t for t in inputs]  # one tensor may be two of the inputs
        wanted = [t for t, flag in zip(aliases, needed, strict=True) if flag]
        if not all(t.requires_grad for t in wanted):  # otherwise the gradients would be 0
            raise NotImplementedError(
                "vaefast: torch.func.jvp and torch.func.grad cannot differentiate a backward pass of a graph that was made "
                "outside of them; compute the loss inside, or use torch.autograd.forward_ad or create_graph=True"
            )
        outputs = function(*aliases)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    # Some outputs do not depend on what requires a gradient, such as the KL on the prediction.
    pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if g is not None and o.requires_grad]
    if not pairs:
        return in_slots([torch.zeros_like(t) for t in wanted], needed)
    result = torch.autograd.grad(
        [o for o, _ in pairs], wanted, [g for _, g in pairs], create_graph=create_graph, materialize_grads=True
    )
    return in_slots(result, needed)


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
    spreads: int = 0,
) -> list[Tensor | None]:
    """The gradients of a term for the upstream gradient `coef`, by a new sweep."""
    if coef is None or not any(needed):
        return [None] * len(needed)
    gradients = sum(1 << k for k, flag in enumerate(needed) if flag)
    options = "none", batch_dims, target_scale, gradients, False, spreads
    _, grads = library.row_sum(term, operands, mask, coef, *options)
    return in_slots(grads, needed)
