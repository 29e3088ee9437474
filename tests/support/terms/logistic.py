"""The term of data on a grid."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from .counts import in_long
from .row import Array, Term, of_option
from .spread import normal

Ranges = Iterator[tuple[str, tuple[Tensor, ...]]]


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e / (1 + e), 1 / (1 + e))


def _log_sigmoid(x: Array) -> Array:
    return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))


@in_long
def discretized_logistic(mean: Array, x: Array, log_scale: Array, half: Array) -> tuple[Array, ...]:
    below, s = log_scale < -80, np.clip(log_scale, -80, 5000)
    precision, difference = np.exp(-s), np.clip(x - mean, -1e37, 1e37)
    high, low = (difference + half) * precision, (difference - half) * precision
    y = 2 * half * precision
    tiny = y < 1e-12
    safe = np.where(tiny, 1, y)
    log_mass = np.where(tiny, np.log(2 * half) - np.maximum(log_scale, -80) - y / 2, np.log(-np.expm1(-safe)))
    rate = np.where(tiny, 1 - y / 2, safe / np.expm1(np.minimum(safe, 11000)))
    first = x <= half
    last = (x >= 1 - half) & ~first
    of_high, of_low = np.where(last, 0, _sigmoid(-high)), np.where(first, 0, -_sigmoid(low))
    inside = ~(first | last)
    value = (
        np.where(last, 0, _log_sigmoid(high)) + np.where(first, 0, _log_sigmoid(-low)) + np.where(inside, log_mass, 0)
    )
    by_mean = -precision * (of_high + of_low)
    moved = np.where(last, 0, of_high * np.where(last, 0, high)) + np.where(first, 0, of_low * np.where(first, 0, low))
    by_scale = np.where(below, 0, -moved - np.where(inside, rate, 0))
    by_half = precision * (of_high - of_low) + np.where(inside, rate / half, 0)
    return value, by_mean, -by_mean, by_scale, by_half


def _bounds(operands: Sequence[Array], value: Array, d: Sequence[Array]) -> tuple[list[Array], Array]:
    mean, x, log_scale, half = operands
    precision = np.exp(-np.clip(log_scale, -80, 80))
    near = np.abs(x - mean) * precision + half * precision
    # x - mean is rounded, and both sides of a narrow bin are known to that
    moved = 1 + np.abs(value) + (np.abs(x) + np.abs(mean)) * np.abs(d[0])
    slope = 8 * precision * (1 + near)
    each = [8 * moved, slope, slope, 8 * (1 + near), 16 * (np.abs(d[3]) + precision * (1 + near))]
    edge = np.minimum(np.abs(x - half), np.abs(x - (1 - half)))  # which bin it is may depend on a rounding
    return each, (np.abs(log_scale) <= 40) & (edge > 1e-6) & (np.abs(x) <= 1e3) & (np.abs(mean) <= 1e3)


def _regimes(n: int, g: torch.Generator) -> Ranges:
    for s in (-7.0, -4.0, -2.0, 1.0):
        x = torch.randint(0, 256, (n,), generator=g) / 255
        scale = s + normal(n, g, 0.5)
        mean = (x + normal(n, g, 1.0) * scale.exp()).clamp(-1, 2)
        yield f"log scale ~ {s:g}", (mean, x, scale, torch.full((n,), 0.5 / 255))


def _eager(mean: Tensor, x: Tensor, log_scale: Tensor, half: Tensor) -> Tensor:
    """As the authors of the distribution have it, with the bins between 0 and 1."""
    precision = torch.exp(-log_scale)
    plus, minus = precision * (x - mean + half), precision * (x - mean - half)
    middle = torch.sigmoid(plus) - torch.sigmoid(minus)
    log_middle = torch.where(
        middle > 1e-5,
        torch.log(middle.clamp(min=1e-12)),
        precision * (x - mean)
        - log_scale
        - 2 * torch.nn.functional.softplus(precision * (x - mean))
        + torch.log(2 * half),
    )
    first, last = plus - torch.nn.functional.softplus(plus), -torch.nn.functional.softplus(minus)
    return torch.where(x <= half, first, torch.where(x >= 1 - half, last, log_middle))


ROWS = (
    Term(
        "discretized_logistic",
        ("real", "unit data", "real", "half width"),
        discretized_logistic,
        bounds=_bounds,
        call=of_option("discretized_logistic"),
        eager=_eager,
        regimes=_regimes,
        gradients=(0, 2),
        place=11,
    ),
)
