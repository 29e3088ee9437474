"""Every term at exact inputs: value, derivatives, and how far a kernel may be from them. float32 is held to the composite
of vaefast/reference in float64. float64 is held to the exact formulas of tests/support/terms in the longest type that
numpy has, because the composite's own error is then as large as the kernel's."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tests.support.terms import LONG, OPTIONS, TERMS, Array
from vaefast import reference

UNIT = {np.float32: 2.0**-24, np.float64: 2.0**-53}  # u: half the spacing at 1


def _composite(term: str, operands: Sequence[Array]) -> list[Array]:
    leaves = [torch.from_numpy(t).requires_grad_() for t in operands]
    value = reference.TERMS[term](*leaves)
    d = torch.autograd.grad(value, leaves, torch.ones_like(value))
    return [t.detach().numpy() for t in (value, *d)]


APART: Counter[tuple[str, int]] = Counter()  # elements where composite and formula differ in kind, a term and output


@dataclass
class Exact:
    """A term at each of some elements: the value and the derivatives, and the bound of each, absolute."""

    outputs: list[Array]
    bounds: list[Array]
    promised: Array
    huge: Array  # some number on the way may lie beyond the type's range: infinite is as good as right
    lost: Array  # an infinite difference meets a scale beyond exp's range: docs/accuracy.md promises nothing


def exact(term: str, operands: Sequence[Array], compute: type) -> Exact:
    """Of operands in float64, which a kernel reads as `compute`."""
    row = TERMS[term]
    with np.errstate(all="ignore"):
        near = row.centered([t.astype(compute) for t in operands])
        # torch's cross entropy raises outside [0, 1] and for NaN. The composite of counts loses the digits of gradients that
        # are far smaller than their parts, and one that bounds a difference has no gradient where it is infinite.
        formulas = compute is np.float64 or bool({"probs", "count data", "positive data", *OPTIONS} & {*row.kinds})
        wide = [t.astype(LONG if compute is np.float64 else np.float64) for t in near]
        outputs = list(row.exact(*wide))
        if not formulas:  # where it is not even finite where the formula is, or the other way round, is counted
            pairs = list(zip(_composite(term, wide), outputs, strict=True))
            apart = [(np.isnan(c) != np.isnan(f)) | (np.isinf(c) != np.isinf(f)) for c, f in pairs]
            APART.update({(term, k): int(a.sum()) for k, a in enumerate(apart) if a.any()})
            outputs = [np.where(a, f, c) for a, (c, f) in zip(apart, pairs, strict=True)]
        units, promised = row.limits(wide, outputs)
        largest = np.fmax.reduce([np.abs(t) for t in (*outputs, *units)])
        huge, lost = largest > np.finfo(compute).max / 8, np.zeros(largest.shape, bool)
        if row.difference is not None:
            lost = np.isinf(near[row.difference[0]]) & (np.abs(near[-1]) > 88)
        least = np.finfo(compute).smallest_subnormal
        return Exact(outputs, [UNIT[compute] * b + 4 * float(least) for b in units], promised, huge, lost)
