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


ROWS = (
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
