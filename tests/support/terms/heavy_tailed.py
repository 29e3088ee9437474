"""Terms of data with heavy tails."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch import distributions as D

from .counts import _digamma_rest, _stirling, in_long
from .location_scale import LOG_PI, deviation
from .row import LONG, Array, Term, of_option
from .spread import normal

Ranges = Iterator[tuple[str, tuple[Tensor, ...]]]


def log_normal(mean: Array, x: Array, log_scale: Array) -> tuple[Array, ...]:
    outside = x <= 0
    safe = np.where(outside, 1, x)
    squared, slope = deviation(np.clip(np.log(safe) - mean, -1e37, 1e37), 2 * log_scale)
    value = -(np.log(safe) + log_scale + (np.log(LONG(2)) + LOG_PI).astype(x.dtype) / 2 + squared / 2)
    most = 1e37 if x.dtype == np.float64 else LONG(1e307)  # as the kernels have it, in float and in double
    results = (value, slope, -np.clip(1 + slope, -most, most) / safe, squared - 1)
    return tuple(np.where(outside, fill, t) for fill, t in zip((-np.inf, 0, 0, 0), results, strict=True))


def _log_normal_bounds(operands: Sequence[Array], value: Array, d: Sequence[Array]) -> tuple[list[Array], Array]:
    mean, x, log_scale = operands
    safe = np.where(x > 0, x, 1)
    log_x, squared = np.abs(np.log(safe)), np.abs(d[2] + 1)
    moved = (log_x + np.abs(mean)) * np.abs(d[0])
    slope = 8 * np.abs(d[0]) + 4 * (log_x + np.abs(mean)) * np.exp(-2 * np.clip(log_scale, -40, 40))
    proper = (np.abs(log_scale) <= 40) & (x > 1e-30) & (x < 1e30) & (np.abs(mean) <= 80)
    terms = 2 + log_x + np.abs(log_scale) + squared
    return [6 * terms + 4 * moved, slope, (slope + 4) / safe, 6 * (1 + squared) + 8 * moved], proper


def _log_normal_regimes(n: int, g: torch.Generator) -> Ranges:
    for s in (0.1, 1.0, 5.0):
        x = normal(n, g, s).clamp(-9, 11).exp()  # of which float16 makes neither 0 nor infinity
        yield f"log x ~ {s:g} N", (normal(n, g, 1.0), x, normal(n, g, 1.0))


@in_long
def student_t(mean: Array, x: Array, log_scale: Array, df: Array) -> tuple[Array, ...]:
    log_scale = np.clip(log_scale, -5000, 5000)
    difference, half, shift = np.clip(x - mean, -1e37, 1e37), df / 2, 40
    z = np.where(difference == 0, 0, difference * np.exp(-log_scale))
    # log Gamma(half + 1/2) - log Gamma(half), and its derivative by half
    start, y = half + shift, half + shift + LONG(0.5)
    rising = start * np.log1p(0.5 / start) - LONG(0.5) + np.log(start) / 2 + (_stirling(y) - _stirling(start))
    rising = rising - sum(np.log1p(0.5 / (half + k)) for k in range(shift))
    slope = np.log1p(0.5 / start) + _digamma_rest(y) - _digamma_rest(start)
    slope = slope + sum(0.5 / ((half + k) * (half + k + 0.5)) for k in range(shift))
    w = z * z / df
    log_sum, share = np.log1p(w), np.where(np.isinf(w), 1, w / (1 + w))
    by_mean = np.where(difference == 0, difference, (df + 1) * share / np.where(difference == 0, 1, difference))
    value = rising - (np.log(df) + LOG_PI) / 2 - log_scale - (df + 1) / 2 * log_sum
    by_df = slope / 2 - 1 / (2 * df) - log_sum / 2 + (df + 1) * share / (2 * df)
    return value, by_mean, -by_mean, (df + 1) * share - 1, by_df


def _t_bounds(operands: Sequence[Array], value: Array, d: Sequence[Array]) -> tuple[list[Array], Array]:
    mean, x, log_scale, df = operands
    z = np.abs(x - mean) * np.exp(-np.clip(log_scale, -80, 80))
    log_sum = (1 + df) * np.log1p(z * z / df)
    terms = 2 + np.abs(log_scale) + np.log1p(df) * 2 + log_sum
    slope = 16 * np.abs(d[0])
    by_df = 16 * (1 + 1 / df + log_sum / (1 + df))
    return [8 * terms, slope, slope, 16 * (1 + df), by_df], (np.abs(log_scale) <= 40) & (z < 1e15)


def _t_regimes(n: int, g: torch.Generator) -> Ranges:
    for df in (1.0, 3.0, 30.0):
        for s in (1.0, 30.0):
            operands = normal(n, g, s), normal(n, g, s), normal(n, g, 1.0), torch.full((n,), df)
            yield f"df {df:g}, x - mean ~ {s:g} N", operands


ROWS = (
    Term(
        "log_normal",
        ("real", "positive data", "log scale"),
        log_normal,
        bounds=_log_normal_bounds,
        distribution=lambda m, s, **options: D.LogNormal(m, s.exp(), **options),
        regimes=_log_normal_regimes,
    ),
    Term(
        "student_t",
        ("real", "data", "log scale", "df"),
        student_t,
        bounds=_t_bounds,
        call=of_option("student_t"),
        distribution=lambda m, s, df, **options: D.StudentT(df, m, s.exp(), **options),
        regimes=_t_regimes,
        gradients=(0, 1, 2),
    ),
)
