"""Terms of data in [0, 1]."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch import distributions as D
from torch.nn import functional as F

from vaefast import functional as VF

from .row import Array, Quantity, Term, ulps
from .spread import normal, spread

Ranges = Iterator[tuple[str, tuple[Tensor, ...]]]


def _targets(n: int, g: torch.Generator) -> dict[str, Tensor]:
    return {
        "t in {0, 1}": torch.randint(0, 2, (n,), generator=g).float(),
        "t uniform": torch.rand(n, generator=g),
        "t = k/255": torch.randint(0, 256, (n,), generator=g) / 255,
    }


def _logits(n: int, g: torch.Generator) -> dict[str, Tensor]:
    return {
        "l ~ N": normal(n, g, 1.0),
        "|l| <= 20": torch.empty(n).uniform_(-20, 20, generator=g),
        "|l| <= 110": torch.empty(n).uniform_(-110, 110, generator=g),
        "1e-30 < |l| < 1e30": spread(n, g, 1e-30, 1e30),
    }


def _regimes(n: int, g: torch.Generator) -> Ranges:
    for a, logits in _logits(n, g).items():
        for b, x in _targets(n, g).items():
            yield f"{a}, {b}", (logits, x)


def _hard_regimes(n: int, g: torch.Generator) -> Ranges:
    for a, logits in _logits(n, g).items():
        yield a, (logits, _targets(n, g)["t in {0, 1}"])


def _probs_regimes(n: int, g: torch.Generator) -> Ranges:
    for b, x in _targets(n, g).items():
        yield f"p uniform, {b}", (torch.rand(n, generator=g), x)
        yield f"p ~ sigmoid(8 N), {b}", (torch.sigmoid(normal(n, g, 8.0)), x)


def _continuous_regimes(n: int, g: torch.Generator) -> Ranges:
    for name, size in (("|l| <= 1e-3", 1e-3), ("|l| <= 2", 2.0), ("|l| <= 80", 80.0)):
        for b, x in _targets(n, g).items():
            yield f"{name}, {b}", (torch.empty(n).uniform_(-size, size, generator=g), x)


def bernoulli(logits: Array, x: Array) -> tuple[Array, ...]:
    size, miss = np.abs(logits), np.where(logits >= 0, 1 - x, x)
    e = np.exp(-size)
    slope = np.where(logits >= 0, e / (1 + e) - miss, miss - e / (1 + e))
    return -(np.where(miss == 0, 0, size) * miss + np.log1p(e)), slope, logits


def _bernoulli_bounds(operands: Sequence[Array], value: Array, d: Sequence[Array]) -> tuple[list[Array], Array]:
    logits, x = operands
    e = np.exp(-np.abs(logits))
    slope = np.where((x == 0) | (x == 1), 4 * ulps(d[0]), 3 * (e / (1 + e) + np.maximum(x, 1 - x)))
    return [2 * ulps(value), slope, np.zeros_like(value)], (x >= 0) & (x <= 1)


def _tail(logits: Tensor, x: Tensor) -> Tensor:
    return torch.sigmoid(-logits.abs()) + torch.maximum(x, 1 - x)


def bernoulli_probs(p: Array, x: Array) -> tuple[Array, ...]:
    """torch's binary_cross_entropy with its clamps; torch itself raises for NaN and numbers outside [0, 1]."""
    log_p, log_q = np.maximum(np.log(p), -100), np.maximum(np.log1p(-p), -100)
    return x * log_p + (1 - x) * log_q, (x - p) / np.maximum((1 - p) * p, 1e-12), log_p - log_q


def _probs_bounds(operands: Sequence[Array], value: Array, d: Sequence[Array]) -> tuple[list[Array], Array]:
    p, x = operands
    logs = np.abs(np.maximum(np.log(p), -100)) + np.abs(np.maximum(np.log1p(-p), -100))
    return [3 * ulps(value), 5 * np.abs(d[0]), 6 * logs], (x >= 0) & (x <= 1) & (p >= 0) & (p <= 1)


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


def _continuous_bounds(operands: Sequence[Array], value: Array, d: Sequence[Array]) -> tuple[list[Array], Array]:
    logits, x = operands
    size, miss = np.abs(logits), np.where(logits >= 0, 1 - x, x)
    far, safe = size >= 1, np.maximum(size, 1)
    terms = np.where(far, 1 + size * miss + np.log(safe), np.abs((x - 0.5) * logits) + size**2 / 24)
    slopes = np.where(far, 1 / safe + 1 / np.expm1(safe) + miss, np.abs(x - 0.5) + size / 12)
    return [6 * terms, 6 * slopes, np.zeros_like(value)], (x >= 0) & (x <= 1)


def _continuous_terms(logits: Tensor, x: Tensor) -> Tensor:
    size, miss = logits.abs(), torch.where(logits >= 0, 1 - x, x)
    return torch.where(size < 1, ((x - 0.5) * logits).abs() + size**2 / 24, 1 + size * miss + size.log().abs())


def _continuous_slope(logits: Tensor, x: Tensor) -> Tensor:
    size, miss = logits.abs(), torch.where(logits >= 0, 1 - x, x)
    far = 1 / size + 1 / torch.expm1(size) + miss
    return torch.where(size < 1, (x - 0.5).abs() + size / 12, far)


ROWS = (
    Term(
        "bernoulli",
        ("logits", "unit data"),
        bernoulli,
        bounds=_bernoulli_bounds,
        call=VF.bernoulli_log_likelihood,
        distribution=lambda l, **options: D.Bernoulli(logits=l, **options),
        eager=lambda l, x: -F.binary_cross_entropy_with_logits(l, x, reduction="none"),
        regimes=_regimes,
        gradients=(0,),
        published=(
            Quantity("Bernoulli", None, "ULP", 2, 4),
            Quantity("its gradient, t in {0, 1}", 0, "ULP", 4, 5, regimes=_hard_regimes),
            Quantity("its gradient, any t", 0, "u (q + max(t, 1-t))", 3, 5, _tail),
        ),
        place=1,
        reductions=("none", "sum"),
    ),
    Term(
        "bernoulli_probs",
        ("probs", "unit data"),
        bernoulli_probs,
        bounds=_probs_bounds,
        call=VF.bernoulli_probs_log_likelihood,
        eager=lambda p, x: -F.binary_cross_entropy(p, x, reduction="none"),
        regimes=_probs_regimes,
        gradients=(0,),
        published=(Quantity("Bernoulli from probabilities", None, "ULP", 3, 6),),
        place=7,
    ),
    Term(
        "continuous_bernoulli",
        ("logits", "unit data"),
        continuous_bernoulli,
        bounds=_continuous_bounds,
        # within `lims` torch takes a short series, which by default loses digits
        distribution=lambda l, **options: D.ContinuousBernoulli(logits=l, lims=(0.4999, 0.5001), **options),
        mean_tolerance=1e-3,
        eager=lambda l, x: D.ContinuousBernoulli(logits=l, validate_args=False).log_prob(x),
        regimes=_continuous_regimes,
        gradients=(0,),
        published=(
            Quantity("continuous Bernoulli", None, "u (sum of absolute terms)", 6, 8, _continuous_terms),
            Quantity("its gradient", 0, "u (sum of absolute terms)", 6, 8, _continuous_slope),
        ),
        place=6,
    ),
)
