"""The term, a log-likelihood or KL of csrc/math/terms, reduced.

The autograd node, eager and compiled, is that of csrc/ops/term_autograd.cpp. It calls row_sum_vjp, which is here, where a
backward pass must be differentiable or batched."""

from collections.abc import Sequence

from torch import Tensor

from .. import reference
from . import library
from .dispatch import compact, has_kernel, needs_grad
from .vjp import composite_vjp


def _row_sum_vjp(
    term: str,
    operands: Sequence[Tensor],
    mask: Tensor | None,
    grad: Tensor,
    reduction: str,
    batch_dims: int,
    target_scale: float,
    gradients: int,
    spreads: int,
) -> list[Tensor]:
    """The gradients by the operands whose bit is set in `gradients`, by the composite, the plain formula of
    vaefast/reference, which can be differentiated and batched."""
    names, needed = library.spread_names(spreads), tuple(bool(gradients >> k & 1) for k in range(len(operands)))

    def composite(*inputs: Tensor) -> Tensor:
        return reference.row_sum(term, inputs, mask, reduction, batch_dims, target_scale, names)

    return [g for g in composite_vjp(composite, list(operands), needed, [grad]) if g is not None]


library.implement("row_sum_vjp", _row_sum_vjp)


def row_sum(
    term: str,
    operands: Sequence[Tensor],
    mask: Tensor | None = None,
    reduction: str = "none",
    batch_dims: int = 1,
    target_scale: float = 1.0,
    spreads: tuple[str, ...] = (),
) -> Tensor:
    """reference.row_sum as one fused operation. The mixture's kernel has no gradient by the data."""
    mixture = term == reference.MIXTURE
    if not has_kernel(operands[0]) or (mixture and needs_grad([operands[1]])):
        return reference.row_sum(term, operands, mask, reduction, batch_dims, target_scale, spreads)
    bits = library.spread_bits(spreads)
    operands = list(operands) if mixture else compact(operands, batch_dims)
    return library.reduced_term(term, operands, mask, reduction, batch_dims, target_scale, bits)
