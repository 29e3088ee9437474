"""The KL divergences of Gaussians."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from vaefast import functional as VF

from .location_scale import deviation
from .row import Array, Quantity, Term, ulps
from .spread import normal, spread

Ranges = Iterator[tuple[str, tuple[Tensor, ...]]]


def _phi(x: Array) -> Array:
    """exp(x) - 1 - x."""
    near = (x > -1) & (x < 1.75)
    y, series = np.where(near, x, 0), np.zeros_like(x)
    for n in range(30, 1, -1):
        series = (series * y + 1) / n
    return np.where(near, series * y * y, np.expm1(x) - np.minimum(x, 1000))


def gaussian_kl(mu: Array, logvar: Array) -> tuple[Array, ...]:
    return (mu * mu + _phi(logvar)) / 2, mu, np.expm1(logvar) / 2


def _bounds(operands: Sequence[Array], value: Array, d: Sequence[Array]) -> tuple[list[Array], Array]:
    return [4 * ulps(value), np.zeros_like(value), 2 * ulps(d[1])], operands[1] <= 88


def _regimes(n: int, g: torch.Generator) -> Ranges:
    for s in (1e-4, 1e-2, 1.0, 3.0):
        yield f"logvar ~ {s:g} N", (normal(n, g, s), normal(n, g, s))
        yield f"mu 0, logvar ~ {s:g} N", (torch.zeros(n), normal(n, g, s))
    yield "|logvar| <= 85", (normal(n, g, 10.0), torch.empty(n).uniform_(-85, 85, generator=g))
    yield "1e-15 < |logvar| < 80", (torch.zeros(n), spread(n, g, 1e-15, 80))


def gaussian_kl_pair(mu: Array, logvar: Array, prior_mu: Array, prior_logvar: Array) -> tuple[Array, ...]:
    growth = logvar - prior_logvar
    squared, slope = deviation(mu - prior_mu, prior_logvar)
    rate = np.expm1(growth)
    return (squared + _phi(growth)) / 2, slope, rate / 2, -slope, -(rate + squared) / 2


def _pair_bounds(operands: Sequence[Array], value: Array, d: Sequence[Array]) -> tuple[list[Array], Array]:
    slope, squared = 6 * np.abs(d[0]), np.abs(2 * (d[1] + d[3]))
    last = ulps(2 * d[1]) + 4 * squared + np.abs(d[3])
    near = (np.abs(operands[3]) <= 80) & (operands[1] - operands[3] <= 88)
    return [4 * ulps(value), slope, 2 * ulps(d[1]), slope, last], near


def _pair_regimes(n: int, g: torch.Generator) -> Ranges:
    for s in (1e-4, 1.0, 3.0):
        prior_mu, prior_logvar = normal(n, g, 1.0), normal(n, g, 1.0)
        yield f"q - p ~ {s:g} N", (prior_mu + normal(n, g, s), prior_logvar + normal(n, g, s), prior_mu, prior_logvar)
    wide = [torch.empty(n).uniform_(-40, 40, generator=g) for _ in range(2)]
    yield "|logvar| <= 40", (normal(n, g, 5.0), wide[0], normal(n, g, 5.0), wide[1])


def _eager_pair(mu: Tensor, logvar: Tensor, prior_mu: Tensor, prior_logvar: Tensor) -> Tensor:
    return 0.5 * (prior_logvar - logvar + (logvar.exp() + (mu - prior_mu).pow(2)) / prior_logvar.exp() - 1)


def _of_ratio(ratio: Array, excess: Array) -> tuple[Array, Array]:
    """phi(2 log ratio) / 2 and ratio^2 - 1, for excess = ratio - 1 before it is rounded."""
    near = (ratio > 0.5) & (ratio < 2)
    log_near, far = np.log1p(np.where(near, excess, 0)), np.where(near, 1, ratio)
    half = np.where(near, _phi(2 * log_near) / 2, (far * far - 1) / 2 - np.minimum(np.log(far), 1000))
    return half, np.where(near, excess * (ratio + 1), far * far - 1)


def _by_scale(ratio: Array, growth: Array, scale: Array, prior_scale: Array) -> Array:
    return np.where((ratio > 0.5) & (ratio < 2), growth / scale, ratio / prior_scale - 1 / scale)


def gaussian_kl_scale(mu: Array, scale: Array) -> tuple[Array, ...]:
    half, growth = _of_ratio(scale, scale - 1)
    return mu * mu / 2 + half, mu, _by_scale(scale, growth, scale, np.ones_like(scale))


def gaussian_kl_pair_scale(mu: Array, scale: Array, prior_mu: Array, prior_scale: Array) -> tuple[Array, ...]:
    difference = mu - prior_mu
    z = np.where(difference == 0, difference, difference / np.where(difference == 0, 1, prior_scale))
    slope = np.where(z == 0, z, z / np.where(z == 0, 1, prior_scale))
    ratio = scale / prior_scale
    half, growth = _of_ratio(ratio, (scale - prior_scale) / prior_scale)
    by_scale = _by_scale(ratio, growth, scale, prior_scale)
    return z * z / 2 + half, slope, by_scale, -slope, -(growth + z * z) / prior_scale


def _scale_bounds(operands: Sequence[Array], value: Array, d: Sequence[Array]) -> tuple[list[Array], Array]:
    proper = (operands[1] > 1e-18) & (operands[1] < 1e18)
    return [7 * ulps(value), np.zeros_like(value), 3 * ulps(d[1])], proper


def _scale_pair_bounds(operands: Sequence[Array], value: Array, d: Sequence[Array]) -> tuple[list[Array], Array]:
    slope, last = 4 * np.abs(d[0]), 4 * (np.abs(d[3]) + 2 * np.abs(d[1] * operands[1] / operands[3]))
    proper = (operands[1] > 1e-18) & (operands[1] < 1e18) & (operands[3] > 1e-18) & (operands[3] < 1e18)
    return [9 * ulps(value), slope, 4 * ulps(d[1]), slope, last], proper


def _scales(n: int, g: torch.Generator, low: float, high: float) -> Tensor:
    return spread(n, g, low, high).abs()


def _scale_regimes(n: int, g: torch.Generator) -> Ranges:
    for s in (1e-4, 1e-2, 0.5):
        yield f"log sigma ~ {s:g} N", (normal(n, g, s), normal(n, g, s).exp())
        yield f"mu 0, log sigma ~ {s:g} N", (torch.zeros(n), normal(n, g, s).exp())
    yield "1e-18 < sigma < 1e18", (normal(n, g, 10.0), _scales(n, g, 1e-18, 1e18))
    yield "mu 0, 0.5 < sigma < 2", (torch.zeros(n), _scales(n, g, 0.5, 2.0))


def _scale_pair_regimes(n: int, g: torch.Generator) -> Ranges:
    for s in (1e-4, 0.1, 1.0):
        prior_mu, prior_scale = normal(n, g, 1.0), _scales(n, g, 0.1, 3.0)
        near = (prior_mu + normal(n, g, s), prior_scale * normal(n, g, s).exp(), prior_mu, prior_scale)
        yield f"q - p ~ {s:g} N", near
    wide = [_scales(n, g, 1e-6, 1e6) for _ in range(2)]
    yield "1e-6 < sigma < 1e6", (normal(n, g, 5.0), wide[0], normal(n, g, 5.0), wide[1])


def _eager_scale(mu: Tensor, scale: Tensor) -> Tensor:
    return 0.5 * (mu.pow(2) + scale.pow(2) - 1) - scale.log()


def _eager_scale_pair(mu: Tensor, scale: Tensor, prior_mu: Tensor, prior_scale: Tensor) -> Tensor:
    ratio, z = scale / prior_scale, (mu - prior_mu) / prior_scale
    return 0.5 * (ratio.pow(2) + z.pow(2) - 1) - ratio.log()


ROWS = (
    Term(
        "gaussian_kl_scale",
        ("real", "scale"),
        gaussian_kl_scale,
        bounds=_scale_bounds,
        call=lambda mu, scale, **options: VF.gaussian_kl(mu, scale=scale, **options),
        eager=_eager_scale,
        regimes=_scale_regimes,
        gradients=(1,),
        published=(
            Quantity("KL to N(0, I), by sigma", None, "ULP", 7, 9),
            Quantity("its gradient by sigma", 1, "ULP", 3, 4),
        ),
        place=3,
    ),
    Term(
        "gaussian_kl_pair_scale",
        ("real", "scale", "real", "scale"),
        gaussian_kl_pair_scale,
        difference=(0, 2),
        bounds=_scale_pair_bounds,
        call=lambda mu, s, m, t, **options: VF.gaussian_kl(mu, prior_mu=m, scale=s, prior_scale=t, **options),
        eager=_eager_scale_pair,
        regimes=_scale_pair_regimes,
        published=(
            Quantity("KL of two Gaussians, by sigma", None, "ULP", 9, 12),
            Quantity("its gradient by sigma", 1, "ULP", 4, 6),
        ),
        place=3,
    ),
    Term(
        "gaussian_kl",
        ("real", "real"),
        gaussian_kl,
        bounds=_bounds,
        call=VF.gaussian_kl,
        eager=lambda mu, v: -0.5 * (1 + v - mu.pow(2) - v.exp()),
        regimes=_regimes,
        gradients=(1,),
        published=(
            Quantity("KL to N(0, I)", None, "ULP", 4, 6),
            Quantity("its gradient by logvar", 1, "ULP", 2, 3),
        ),
        place=2,
    ),
    Term(
        "gaussian_kl_pair",
        ("real", "real", "real", "real"),
        gaussian_kl_pair,
        difference=(0, 2),
        bounds=_pair_bounds,
        call=VF.gaussian_kl,
        eager=_eager_pair,
        regimes=_pair_regimes,
        published=(
            Quantity("KL of two Gaussians", None, "ULP", 4, 6),
            Quantity("its gradient by logvar", 1, "ULP", 2, 3),
        ),
        place=3,
        label="gaussian_kl prior",
    ),
)
