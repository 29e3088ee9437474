"""Worst errors of the float32 kernels against float64, per quantity and regime. The tests hold them under the published
bounds; `python -m tests.support.accuracy` prints the table of docs/accuracy.md."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tests.support.terms import LONG, TERMS, Term
from tests.support.terms import Quantity as Row
from vaefast import reference
from vaefast.ops import library

U = 2.0**-24


@dataclass(frozen=True)
class Quantity(Row):
    """A published bound, and the term that it is of."""

    term: str = ""


def _by_its_bound(row: Term) -> Callable[..., Tensor]:
    """The bound of a term's value, in units of u, where a row publishes none."""

    def scale(*operands: Tensor) -> Tensor:
        with np.errstate(all="ignore"):
            wide = row.centered([t.numpy().astype(LONG) for t in operands])
            bound = row.limits(wide, row.exact(*wide))[0][0]
        return torch.from_numpy(bound.astype(np.float64))

    return scale


def quantities(row: Term) -> list[Quantity]:
    published = row.published
    if published is None:
        name = row.name.replace("_", " ")
        published = (Row(name, None, "u (its bound)", 1, 2, _by_its_bound(row)),)
    return [Quantity(**vars(each) | {"regimes": each.regimes or row.ranges, "term": row.name}) for each in published]


QUANTITIES = [q for row in sorted(TERMS.values(), key=lambda row: row.place) for q in quantities(row)]


def exact(term: str, operands: tuple[Tensor, ...], output: int | None) -> Tensor:
    """The quantity in float64. Differences of data or means are given as float32 rounds them: half an ULP of theirs."""
    wide = [t.double().requires_grad_() for t in TERMS[term].centered(operands)]
    value = reference.TERMS[term](*wide)
    if output is None:
        return value.detach()
    return torch.autograd.grad(value.sum(), wide[output])[0]


def computed(term: str, operands: tuple[Tensor, ...], output: int | None, device: str = "cpu") -> Tensor:
    gradients = 0 if output is None else 1 << output
    there = [t.to(device) for t in operands]
    value, grads = library.row_sum(term, there, None, None, "elementwise", 0, 1.0, gradients, True)
    return (value if output is None else grads[0]).cpu()


def ulp(x: Tensor) -> Tensor:
    """The spacing of float32 at |x|."""
    exponent = torch.frexp(x.abs().clamp(min=2.0**-126))[1] - 1
    return torch.ldexp(torch.ones_like(x), exponent - 23)


def unit(quantity: Quantity, operands: tuple[Tensor, ...], true: Tensor) -> Tensor:
    return ulp(true) if quantity.scale is None else U * quantity.scale(*(t.double() for t in operands))


def worst(quantity: Quantity, n: int, seed: int = 0, device: str = "cpu") -> tuple[float, str, float]:
    """(worst error in the quantity's unit, its regime, how many of the cases lie outside the bound)."""
    bound = quantity.bound if device == "cpu" else quantity.cuda_bound
    g = torch.Generator().manual_seed(seed)
    worst_error, where, outside = 0.0, "", 0
    for regime, operands in quantity.regimes(n, g):
        true = exact(quantity.term, operands, quantity.output)
        got = computed(quantity.term, operands, quantity.output, device).double()
        finite = true.abs() < torch.finfo(torch.float32).max
        errors = torch.where(finite, (got - true).abs() / unit(quantity, operands, true), 0.0)
        assert torch.equal(got.isfinite(), finite), (
            f"{quantity.name}: finite where the true value is not, or not: {regime}"
        )
        outside += int((errors > bound).sum())
        if errors.max() > worst_error:
            worst_error, where = errors.max().item(), regime
    return worst_error, where, outside


def main() -> None:
    n = 400_000
    print("| quantity | " + " | ".join(f"{isa}" for isa in library.build_info()["cpu_isas"]) + " | bound |")
    print("|---|" + "---|" * (len(library.build_info()["cpu_isas"]) + 1))
    before = library.cpu_isa()
    for quantity in QUANTITIES:
        cells = []
        for isa in library.build_info()["cpu_isas"]:
            library.set_cpu_isa(isa)
            cells.append(f"{worst(quantity, n)[0]:.2f}")
        bound = f"{quantity.bound:g} {quantity.unit}".replace("|", "\\|")  # of a table's cell
        print(f"| {quantity.name} | {' | '.join(cells)} | {bound} |")
    library.set_cpu_isa(before)


if __name__ == "__main__":
    main()
