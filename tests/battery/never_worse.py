"""Largest and mean error against the exact values, beside the errors of what people write in torch: each operation and
gradient, dtype and range of inputs is a cell, and in each both errors must be at most eager's.

One rule for noise: where both largest errors are at most 1 ULP of the result's type, so that neither is more than half an
ULP from correct rounding, a cell is even. Every other cell in which either error is larger counts as worse, by however
little."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tests.support.terms import LONG, TERMS
from vaefast import functional as VF
from vaefast import ops

from . import Row

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def as_dtype(t: Tensor, dtype: torch.dtype) -> Tensor:
    """In float64 with all its bits: products of numbers with 24 would be exact."""
    if dtype != torch.float64:
        return t.to(dtype)
    lower = torch.rand(t.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(13))
    return torch.where(t == t.round(), t.double(), t * (1 - 2.0**-25 * lower))


def outputs(function: Callable[..., Tensor], operands: list[Tensor], gradients: Sequence[int]) -> list[Tensor]:
    leaves = [t.detach().clone().requires_grad_() for t in operands]
    value = function(*leaves)
    return [value.detach(), *torch.autograd.grad(value.sum(), [leaves[k] for k in gradients])]


def _ulp(true: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    info = torch.finfo(dtype)
    exponent = np.frexp(np.maximum(np.abs(true), LONG(info.smallest_normal)))[1]
    return np.ldexp(LONG(info.eps), exponent - 1)


@dataclass(frozen=True)
class Cell:
    name: str
    kind: str  # "better", "even" or "worse"
    excess: float  # our larger error, largest or mean, by eager's
    figures: str


def compare(name: str, true: np.ndarray, unit: np.ndarray, ours: Tensor, theirs: Tensor) -> Cell:
    seen = np.abs(true) < min(torch.finfo(t.dtype).max for t in (ours, theirs))
    errors, ulps = [], []
    for t in (ours, theirs):
        error = np.abs(t.double().numpy().astype(LONG) - true)[seen]
        error = np.where(np.isnan(error), np.inf, error)
        errors.append(error / unit[seen])
        ulps.append(np.max(error / _ulp(true[seen], t.dtype), initial=0))
    (most, mean), (their_most, their_mean) = ((e.max(initial=0), e.mean() if e.size else 0) for e in errors)
    better = most <= their_most and mean <= their_mean
    kind = "better" if better else "even" if max(ulps) <= 1 else "worse"
    figures = f"max {most:.4g} against {their_most:.4g}, mean {mean:.4g} against {their_mean:.4g}"
    return Cell(name, kind, 0.0 if better else float(max(most / their_most, mean / their_mean)), figures)


def cells(n: int) -> Iterator[Cell]:
    for term, row in TERMS.items():
        eager, gradients = row.written(), row.gradients
        gradients = range(len(row.kinds)) if gradients is None else gradients
        for regime, drawn in row.ranges(n, torch.Generator().manual_seed(11)) if eager else ():
            for dtype in DTYPES:
                operands = [as_dtype(t, dtype) for t in drawn]
                wide = row.centered([t.double().numpy().astype(LONG) for t in operands])
                exact = row.exact(*wide)
                units, _ = row.limits(wide, exact)

                def fused(*t: Tensor, term: str = term) -> Tensor:
                    return ops.row_sum(term, t, reduction="elementwise")

                pairs = zip(*(outputs(f, operands, gradients) for f in (fused, eager)), strict=True)
                for k, (ours, theirs) in zip((0, *(g + 1 for g in gradients)), pairs, strict=True):
                    least = LONG(torch.finfo(dtype).smallest_normal)
                    unit = torch.finfo(dtype).eps / 2 * np.maximum(units[k], least)
                    name = term if k == 0 else f"{term} by operand {k - 1}"
                    yield compare(f"{name}, {str(dtype)[6:]}, {regime}", exact[k], unit, ours, theirs)


def samples(n: int) -> Iterator[Cell]:
    """z of given noise, and its gradients, from the kernel that makes the noise."""
    g = torch.Generator().manual_seed(12)
    for scale in (0.1, 1.0, 5.0, 20.0):
        drawn = torch.randn(n, generator=g), torch.randn(n, generator=g) * scale, torch.randn(n, generator=g)
        for dtype in DTYPES:
            mu, logvar, up = (as_dtype(t, dtype) for t in drawn)
            zero = torch.zeros(n)
            eps = VF.reparameterize(zero, zero, generator=torch.Generator().manual_seed(1))
            m, s, e, u = (t.double().numpy().astype(LONG) for t in (mu, logvar, eps, up))
            sigma = np.exp(s / 2)
            exact = [m + sigma * e, u * sigma * e / 2]
            unit = torch.finfo(dtype).eps * np.array([np.abs(m) + np.abs(sigma * e), np.abs(exact[1]) + LONG(1e-30)])

            def fused(a: Tensor, b: Tensor, up: Tensor = up) -> Tensor:
                return VF.reparameterize(a, b, generator=torch.Generator().manual_seed(1)) * up

            def eager(a: Tensor, b: Tensor, up: Tensor = up, eps: Tensor = eps) -> Tensor:
                return (a + torch.exp(0.5 * b) * eps.to(a.dtype)) * up

            both = []
            for f in (fused, eager):
                ones = torch.ones_like(up)
                both.append((f(mu, logvar, ones).detach(), outputs(f, [mu, logvar], (1,))[1]))
            for k, name in enumerate(("sample", "sample by logvar")):
                cell = f"{name}, {str(dtype)[6:]}, logvar ~ {scale:g} N"
                yield compare(cell, exact[k], unit[k], *(each[k] for each in both))


def rows(quick: bool) -> Iterator[Row]:
    n, found = 20_000 if quick else 400_000, []
    with np.errstate(all="ignore"):
        for source in (cells, samples):
            found += source(n)
    worse = sorted((c for c in found if c.kind == "worse"), key=lambda c: -c.excess)
    even = sum(c.kind == "even" for c in found)
    figure = f"{len(found) - len(worse)} of {len(found)} ({even} of them even)"
    yield Row(
        "cells in which no error is larger than eager's, or that are even",
        figure,
        f"{len(found)} of {len(found)}",
        not worse,
    )
    for c in worse:
        yield Row(f"worse: {c.name}", f"{c.excess:.3f} times: {c.figures}", "at most 1", False)
