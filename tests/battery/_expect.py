"""What a call's outputs and gradients should be, made of the truth of its elements, and how far off each may be."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from tests.support.terms import TERMS

from ._draw import Call
from ._truth import LONG, Exact

Array = np.ndarray


@dataclass
class Expected:
    """What each number should be, how far off it may be where that is promised, and where anything goes: infinity, because
    the number or one on its way lies beyond the type's range, or everything, because such numbers met."""

    true: Array
    bound: Array
    size: Array  # the sum of the absolute values that were added
    promised: Array
    huge: Array
    free: Array

    def rows(self, rows: int, u: float) -> "Expected":
        """Sums over rows: docs/accuracy.md's 2^-23, of the terms' absolute values. float64 is summed in float64, in 16 lanes."""

        def of(x: Array) -> Array:
            return x.reshape(rows, -1 if x.size else 0)

        size, huge, true = of(self.size).sum(1), of(self.huge), of(self.true)
        additions = of(self.size).shape[1] / 16 + rows + 4 if u < 2.0**-24 else 0
        bound = of(self.bound).sum(1) + (2 + additions) * u * size
        free = of(self.free).any(1) | ((huge & (true > 0)).any(1) & (huge & (true < 0)).any(1))  # inf - inf
        return Expected(true.sum(1), bound, size, of(self.promised).all(1), huge.any(1), free)

    def summed_to(self, shape: Sequence[int], small: Sequence[int], u: float) -> "Expected":
        """The sums of elements of `shape` that share an operand of a smaller shape."""
        sizes = (1,) * (len(shape) - len(small)) + tuple(small)
        kept = [d for d, n in enumerate(sizes) if n == shape[d]]
        order = kept + [d for d in range(len(shape)) if d not in kept]
        columns = self.true, self.bound, self.size, self.promised, self.huge, self.free
        rows = Expected(*(x.reshape(shape).transpose(order).ravel() for x in columns)).rows(int(np.prod(small)), u)
        one_by_one = u < 2.0**-24  # of float64, which has no wider type to be summed in
        return replace(rows, bound=rows.bound + (self.size.size * u * rows.size if one_by_one else 0))

    def total(self, u: float) -> "Expected":
        """The sum over rows that are sums already, one after another."""
        one = self.rows(1, u)
        return replace(one, bound=one.bound + (self.size.size * u * one.size if u < 2.0**-24 else 0))

    def times(self, factor: Array, roundings: int, u: float) -> "Expected":
        size = np.abs(factor) * self.size
        far = (self.huge | (self.size > 2.0**124)) & (factor == 0)  # 0 * inf, also of a one-pass buffer of float32
        bound = np.abs(factor) * self.bound + roundings * u * size
        return Expected(self.true * factor, bound, size, self.promised, self.huge, self.free | far)

    def plus(self, other: "Expected", roundings: int, u: float) -> "Expected":
        size, huge = self.size + other.size, self.huge | other.huge
        bound = self.bound + other.bound + roundings * u * size
        promised, free = self.promised & other.promised, self.free | other.free
        free |= self.huge & other.huge & (self.true * other.true < 0)
        return Expected(self.true + other.true, bound, size, promised, huge, free)

    def stored(self, dtype: torch.dtype, u: float, roundings: int = 1, factor: float = 1.0) -> "Expected":
        """As a tensor of this type, rounded so many times, the first time before it was multiplied by a factor."""
        info = torch.finfo(dtype)
        half = info.eps / 2 if info.eps / 2 > u else 0.0
        least = info.smallest_normal * info.eps  # the spacing of subnormals
        bound = self.bound + roundings * half * np.abs(self.true) * 1.01
        bound = bound + half * self.bound + 4 * least * max(1.0, factor)
        huge = self.huge | (np.abs(self.true) + bound >= info.max * (1 - 2.0**-12) * min(1.0, factor))
        return Expected(self.true, bound, self.size, self.promised, huge, self.free)

    def wrong(self, got: Array) -> Array:
        nan, true = np.isnan(self.true), self.true
        close = (np.abs(got - true) <= self.bound) | (got == true)
        right = np.where(nan, np.isnan(got), np.where(self.promised, close, ~np.isnan(got)))
        return ~(right | self.free | (self.huge & ~nan & np.isinf(got) & (got * true > 0)))


def elements(e: Exact, k: int, mask: Array | None) -> Expected:
    """Output k of a term: its value, and its derivatives after it. Masked elements count for nothing."""
    true, bound, promised, huge, lost = e.outputs[k], e.bounds[k], e.promised, e.huge, e.lost
    if mask is not None:
        true, bound = np.where(mask, true, 0), np.where(mask, bound, 0)
        promised, huge, lost = promised | ~mask, huge & mask, lost & mask
    return Expected(true, bound, np.abs(true), promised, huge, lost)


def spread(rows: Array, n: int) -> Array:
    return np.repeat(rows, n // max(1, rows.size))


def expect_term(call: Call, truth: Sequence[Exact], u: float) -> Iterator[tuple[str, Expected]]:
    use, n = call.uses[0], call.uses[0].operands[0].size
    each = elements(truth[0], 0, use.mask)
    reduction, rows = call.notes["reduction"], use.rows
    share = 1 / LONG(rows) if reduction == "mean" and rows else LONG(np.nan) if reduction == "mean" else LONG(1)
    if reduction != "elementwise":
        each = each.rows(rows, u)
        if reduction != "none":
            each = each.total(u).times(share, 1, u)
    yield "value", each
    up = call.upstream.get("value")
    if up is None:
        return
    factor = up if reduction == "elementwise" else spread(up, n) if reduction == "none" else np.full(n, up[0]) * share
    for k in range(len(use.operands)):
        name = "x" if k == TERMS[use.term].target else f"operand {k}"
        if name in call.grads:
            scale = call.notes["target_scale"] if name == "x" else 1.0
            yield name, elements(truth[0], k + 1, use.mask).times(factor * scale, 4, u)


def expect_loss(call: Call, truth: Sequence[Exact], u: float) -> Iterator[tuple[str, Expected]]:
    by_name = {i.name: i.wide for i in call.inputs}
    batch, beta = call.uses[0].rows, by_name.get("beta", np.array([call.notes["beta"]]))[0]
    weight, reduction = by_name.get("weight", np.ones(batch)), call.notes["reduction"]
    fit, kl = (elements(t, 0, use.mask).rows(batch, u) for t, use in zip(truth, call.uses, strict=True))
    free_energy = kl.times(np.full(batch, beta), 1, u).plus(fit.times(np.full(batch, -1.0), 0, u), 1, u)
    rows = free_energy.times(weight, 3, u)
    share = LONG(1) if reduction != "mean" else 1 / LONG(batch) if batch else LONG(np.nan)
    yield "loss", rows if reduction == "none" else rows.total(u).times(share, 1, u)
    if "kl" in call.outputs:
        yield "kl", kl
        yield "log_likelihood", fit
        yield "elbo", free_energy.times(np.full(batch, -1.0), 2, u)
    if (up := call.upstream.get("loss")) is None:
        return
    up = np.broadcast_to(up, batch).astype(LONG) * share
    for use, (each, factor) in enumerate(((truth[0], -up * weight), (truth[1], up * weight * beta))):
        latent = ["mu", call.notes["spread"], "prior_mu", f"prior_{call.notes['spread']}"]
        for k, name in enumerate(latent if use else ["operand 0", "x", "operand 2", "operand 3"]):
            if name in call.grads:
                n = call.uses[use].operands[0].size
                scale = call.notes["target_scale"] if name == "x" else 1.0
                yield name, elements(each, k + 1, call.uses[use].mask).times(spread(factor, n) * scale, 6, u)
    if "weight" in call.grads:
        yield "weight", free_energy.times(up, 3, u)
    if "beta" in call.grads:
        yield "beta", kl.times(up * weight, 4 + batch, u)


def expect_sample(call: Call, truth: Sequence[Exact], u: float) -> Iterator[tuple[str, Expected]]:
    """docs/accuracy.md publishes no bound of samples: one u for each rounding, exp's ULP being two of them."""
    by_name = {i.name: i.wide for i in call.inputs}
    kind = LONG if call.compute is np.float64 else np.float64
    logvar, up = by_name["logvar"].astype(kind), call.upstream
    count = call.notes.get("num_samples")
    eps = up["eps"].astype(kind).reshape(1 if count is None else count, logvar.size)  # a row a sample
    mu, sigma, far = by_name["mu"].astype(kind), np.exp(logvar / 2), np.finfo(call.compute).max / 8
    least = float(np.finfo(call.compute).smallest_subnormal)

    # With a gradient, eps may overflow or underflow, and in one order of sums is inf - inf what in another is not.
    free = (np.abs(eps) > far) | ((eps != 0) & (np.abs(eps) < 1e-30)) | (np.isinf(sigma) & (len(eps) > 1))

    def made(true: Array, units: float) -> Expected:
        bound = units * u * np.abs(true) + 4 * least * np.maximum(sigma, 1)
        columns = true, bound, np.abs(true), logvar < 170, np.maximum(np.abs(true), sigma) > far
        return Expected(*(np.broadcast_to(x, eps.shape).ravel() for x in (*columns, free)))

    noise = made(sigma * eps, 4)
    yield "z", noise.plus(made(mu, 0), 1, u)
    if call.uses:
        yield "kl", elements(truth[0], 0, None).rows(call.uses[0].rows, u)
    parts: dict[str, list[Expected]] = {}
    if "z" in up:
        parts["mu"] = [_columns(made(np.ones_like(mu), 0).times(up["z"], 0, u), eps.shape, u)]
        parts["logvar"] = [_columns(noise.times(0.5 * up["z"], 2 + len(eps), u), eps.shape, u)]
        parts["eps"] = [made(sigma, 2).times(up["z"], 2, u)]
    if "kl" in up:
        for k, name in enumerate(["mu", "logvar", "prior_mu", "prior_logvar"][: len(truth[0].outputs) - 1]):
            each = elements(truth[0], k + 1, None).times(spread(up["kl"], mu.size), 3, u)
            parts.setdefault(name, []).append(each)
    for name, got in call.grads.items():
        if name in parts and count != 0:  # nothing flows back from no samples, but 0 sigma is NaN for an infinite sigma
            if "eps" in by_name and len(parts[name]) == 2:  # gradients of two operations, of their tensor's type
                parts[name] = [each.stored(got.dtype, u) for each in parts[name]]
            first, *rest = parts[name]
            yield name, first.plus(rest[0], 1, u) if rest else first


def _columns(e: Expected, shape: tuple[int, ...], u: float) -> Expected:
    """Sums over the samples, the first dimension."""
    turned = Expected(*(x.reshape(shape).T.ravel() for x in (e.true, e.bound, e.size, e.promised, e.huge, e.free)))
    return turned.rows(shape[1], u)


EXPECT = {"term": expect_term, "loss": expect_loss, "sample": expect_sample}
