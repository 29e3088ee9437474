"""Every term at exact inputs: value, derivatives, and how far a kernel may be from them. float32 is held to the composite
of vaefast/reference.py in float64. float64 is held to the formulas below in the longest type that numpy has, because the
composite's own error is then as large as the kernel's."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vaefast import reference

Array = np.ndarray
LONG = np.longdouble
UNIT = {np.float32: 2.0**-24, np.float64: 2.0**-53}  # u: half the spacing at 1


def _phi(x: Array) -> Array:
    """exp(x) - 1 - x."""
    near = (x > -1) & (x < 1.75)
    y, series = np.where(near, x, 0), np.zeros_like(x)
    for n in range(30, 1, -1):
        series = (series * y + 1) / n
    return np.where(near, series * y * y, np.expm1(x) - np.minimum(x, 1000))


def gaussian_kl(mu: Array, logvar: Array) -> tuple[Array, ...]:
    return (mu * mu + _phi(logvar)) / 2, mu, np.expm1(logvar) / 2


def _deviation(difference: Array, logvar: Array) -> tuple[Array, Array]:
    """difference^2 / sigma^2 and half its derivative."""
    root = np.where((difference == 0) & ~np.isnan(logvar), 0, np.exp(-logvar / 2))
    return (difference * root) ** 2, difference * root * root


def gaussian_kl_pair(difference: Array, growth: Array, prior_logvar: Array) -> tuple[Array, ...]:
    squared, slope = _deviation(difference, prior_logvar)
    rate = np.expm1(growth)
    return (squared + _phi(growth)) / 2, slope, rate / 2, -slope, -(rate + squared) / 2


def bernoulli(logits: Array, x: Array) -> tuple[Array, ...]:
    size, miss = np.abs(logits), np.where(logits >= 0, 1 - x, x)
    e = np.exp(-size)
    slope = np.where(logits >= 0, e / (1 + e) - miss, miss - e / (1 + e))
    return -(np.where(miss == 0, 0, size) * miss + np.log1p(e)), slope, logits


def bernoulli_probs(p: Array, x: Array) -> tuple[Array, ...]:
    """torch's binary_cross_entropy with its clamps; torch itself raises for NaN and numbers outside [0, 1]."""
    log_p, log_q = np.maximum(np.log(p), -100), np.maximum(np.log1p(-p), -100)
    return x * log_p + (1 - x) * log_q, (x - p) / np.maximum((1 - p) * p, 1e-12), log_p - log_q


def gaussian(difference: Array, logvar: Array) -> tuple[Array, ...]:
    squared, slope = _deviation(difference, logvar)
    log_2pi = np.log(8 * np.arctan(difference.dtype.type(1)))
    return -(log_2pi + logvar + squared) / 2, slope, -slope, (squared - 1) / 2


def laplace(difference: Array, log_scale: Array) -> tuple[Array, ...]:
    precision, size = np.exp(-log_scale), np.abs(difference)
    error = np.where(size == 0, 0, size * precision)
    slope = np.where(size > 0, np.sign(difference) * precision, difference)  # 0, or NaN
    return -(np.log(difference.dtype.type(2)) + log_scale + error), slope, -slope, error - 1


def continuous_bernoulli(logits: Array, x: Array) -> tuple[Array, ...]:
    size, miss = np.abs(logits), np.where(logits >= 0, 1 - x, x)
    near = size < 1
    y = np.where(near, logits, 0) / 2
    factorial, power, excess, ratio = y.dtype.type(1), np.ones_like(y), np.zeros_like(y), np.zeros_like(y)
    for n in range(1, 14):  # sinh(y) / y - 1, and (sinh(y) - y cosh(y)) / y^3
        factorial = factorial * (2 * n) * (2 * n + 1)
        ratio = ratio - power * (2 * n) / factorial
        power = power * y * y
        excess = excess + power / factorial
    s = np.where(near, 1, size)
    e = np.exp(-s)
    far_slope = (1 / s - e / (1 - e)) - miss
    cost = np.where(miss == 0, 0, s) * miss
    far = np.where(np.isinf(cost), -cost, np.log(s / (1 - e)) - cost)
    value = np.where(near, (x - 0.5) * logits - np.log1p(excess), far)
    slope = np.where(near, (x - 0.5) + y * ratio / (2 * (1 + excess)), np.where(logits >= 0, far_slope, -far_slope))
    return value, slope, logits


FORMULAS: dict[str, Callable[..., tuple[Array, ...]]] = {
    f.__name__: f
    for f in (gaussian_kl, gaussian_kl_pair, bernoulli, bernoulli_probs, gaussian, laplace, continuous_bernoulli)
}


def ulps(x: Array) -> Array:
    """The spacing of floats at |x| in units of u: 2 at 1."""
    return np.ldexp(np.ones_like(x), np.frexp(np.abs(x))[1])


def reduced(term: str, operands: Sequence[Array], compute: type) -> list[Array]:
    """The operands, those that only enter by their difference as that difference. That of means is rounded to the compute
    type as the kernel rounds it; that of logarithms is exact, as the kernel's exp takes it."""
    t = [each.astype(compute) for each in operands]
    if term == "gaussian_kl_pair":
        return [t[0] - t[2], operands[1].astype(LONG) - operands[3], t[3]]
    return [t[1] - t[0], t[2]] if term in ("gaussian", "laplace") else t


def bounds(term: str, operands: Sequence[Array], exact: Sequence[Array]) -> tuple[list[Array], Array]:
    """Of the value and each derivative in units of u, and where they are promised. What docs/accuracy.md publishes; derivatives
    that it does not list have one u for each rounding of csrc/math/terms.h, an elementary function's ULP being two."""
    value, *d = exact
    none = np.zeros_like(value)
    if term == "gaussian_kl":
        return [4 * ulps(value), none, 2 * ulps(d[1])], operands[1] <= 88
    if term == "gaussian_kl_pair":
        slope, squared = 6 * np.abs(d[0]), np.abs(2 * (d[1] + d[3]))
        last = ulps(2 * d[1]) + 4 * squared + np.abs(d[3])
        near = (np.abs(operands[2]) <= 80) & (operands[1] <= 88)
        return [4 * ulps(value), slope, 2 * ulps(d[1]), slope, last], near
    if term == "gaussian":
        slope, squared = 6 * np.abs(d[0]), np.abs(2 * d[2] + 1)
        terms = (reference.LOG_2PI + np.abs(operands[1]) + squared) / 2
        return [6 * terms, slope, slope, 4 * squared + np.abs(d[2])], np.abs(operands[1]) <= 80
    if term == "laplace":
        slope, error = 3 * np.abs(d[0]), np.abs(d[2] + 1)
        terms = np.log(2) + np.abs(operands[1]) + error
        return [6 * terms, slope, slope, 6 * (1 + error)], np.abs(operands[1]) <= 80
    first, x = operands
    proper = (x >= 0) & (x <= 1)
    if term == "bernoulli_probs":
        logs = np.abs(np.maximum(np.log(first), -100)) + np.abs(np.maximum(np.log1p(-first), -100))
        return [3 * ulps(value), 5 * np.abs(d[0]), 6 * logs], proper & (first >= 0) & (first <= 1)
    size, miss = np.abs(first), np.where(first >= 0, 1 - x, x)
    if term == "bernoulli":
        e = np.exp(-size)
        slope = np.where((x == 0) | (x == 1), 4 * ulps(d[0]), 3 * (e / (1 + e) + np.maximum(x, 1 - x)))
        return [2 * ulps(value), slope, none], proper
    far, safe = size >= 1, np.maximum(size, 1)
    terms = np.where(far, 1 + size * miss + np.log(safe), np.abs((x - 0.5) * first) + size**2 / 24)
    slopes = np.where(far, 1 / safe + 1 / np.expm1(safe) + miss, np.abs(x - 0.5) + size / 12)
    return [6 * terms, 6 * slopes, none], proper


def _composite(term: str, operands: Sequence[Array]) -> list[Array]:
    leaves = [torch.from_numpy(t).requires_grad_() for t in operands]
    if term == "gaussian_kl_pair":
        squared = reference._standardized(leaves[0], leaves[2]) ** 2
        value = 0.5 * (squared + reference.phi(leaves[1]))
    elif term in ("gaussian", "laplace"):
        value = reference.TERMS[term](torch.zeros_like(leaves[0]), *leaves)
    else:
        value = reference.TERMS[term](*leaves)
    d = torch.autograd.grad(value, leaves, torch.ones_like(value))
    if term == "gaussian_kl_pair":
        d = (d[0], d[1], -d[0], d[2] - d[1])
    elif term in ("gaussian", "laplace"):
        d = (-d[0], d[0], d[1])
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
    with np.errstate(all="ignore"):
        near = reduced(term, operands, compute)
        formulas = compute is np.float64 or term == "bernoulli_probs"  # torch's raises outside [0, 1] and for NaN
        wide = [t.astype(LONG if compute is np.float64 else np.float64) for t in near]
        outputs = list(FORMULAS[term](*wide))
        if not formulas:  # where it is not even finite where the formula is, or the other way round, is counted
            pairs = list(zip(_composite(term, wide), outputs, strict=True))
            apart = [(np.isnan(c) != np.isnan(f)) | (np.isinf(c) != np.isinf(f)) for c, f in pairs]
            APART.update({(term, k): int(a.sum()) for k, a in enumerate(apart) if a.any()})
            outputs = [np.where(a, f, c) for a, (c, f) in zip(apart, pairs, strict=True)]
        units, promised = bounds(term, wide, outputs)
        largest = np.fmax.reduce([np.abs(t) for t in (*outputs, *units)])
        huge, lost = largest > np.finfo(compute).max / 8, np.zeros(largest.shape, bool)
        if term in ("gaussian_kl_pair", "gaussian", "laplace"):
            lost = np.isinf(near[0]) & (np.abs(near[-1]) > 88)
        least = np.finfo(compute).smallest_subnormal
        return Exact(outputs, [UNIT[compute] * b + 4 * float(least) for b in units], promised, huge, lost)
