"""Terms of a mean, data and a scale, by whose logarithm, or that of its square, the scale is given."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch import distributions as D
from torch.nn import functional as F

from vaefast import functional as VF
from vaefast import likelihoods, reference

from .row import LONG, Array, Quantity, Term
from .spread import normal

LOG_PI = np.log(4 * np.arctan(LONG(1)))


def deviation(difference: Array, logvar: Array) -> tuple[Array, Array]:
    """difference^2 / sigma^2 and half its derivative."""
    root = np.where((difference == 0) & ~np.isnan(logvar), 0, np.exp(-logvar / 2))
    return (difference * root) ** 2, difference * root * root


def _regimes(n: int, g: torch.Generator) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    for s in (1e-3, 1.0, 100.0):
        yield f"x - mean ~ {s:g} N", (normal(n, g, s), normal(n, g, s), normal(n, g, 1.0))
    yield "|logvar| <= 80", (normal(n, g, 1.0), normal(n, g, 1.0), torch.empty(n).uniform_(-80, 80, generator=g))


def _bounds(operands: Sequence[Array], value: Array, d: Sequence[Array]) -> tuple[list[Array], Array]:
    """Of a density whose terms are of the order of 1: of a few roundings each."""
    log_scale = operands[2]
    slope, terms = 8 * (np.abs(d[0]) + np.exp(-log_scale)), 1 + np.abs(log_scale) + np.abs(value + log_scale)
    return [8 * terms, slope, slope, 16 * (1 + np.abs(d[2]))], np.abs(log_scale) <= 80


def location_scale(
    name: str,
    distribution: Callable[..., D.Distribution] | None,
    density: Callable[[Array], tuple[Array, Array, Array]] | None = None,
    **fields,
) -> Term:
    """A row, of the distribution's class in torch, made of (mean, scale), and of the density at mean 0 and scale 1 as a
    function of z: (-log p, its derivative, z times its derivative). Any field of the row may be given instead."""

    def exact(mean: Array, x: Array, log_scale: Array) -> tuple[Array, ...]:
        difference, log_scale = x - mean, np.maximum(log_scale, -700)  # below, 1 / scale is no float64
        precision = np.exp(-log_scale)
        z = np.where(difference == 0, 0, difference * precision)
        cost, slope, error = density(z)
        slope = np.where(difference == 0, difference, slope * precision)
        return -(log_scale + cost), slope, -slope, error - 1

    row = {
        "kinds": ("real", "data", "real"),
        "exact": exact,
        "difference": (1, 0),
        "bounds": _bounds,
        "distribution": distribution and (lambda m, s, **options: distribution(m, s.exp(), **options)),
        "regimes": _regimes,
    }
    return Term(name, **(row | fields))


def gaussian(mean: Array, x: Array, logvar: Array) -> tuple[Array, ...]:
    squared, slope = deviation(x - mean, logvar)
    log_2pi = np.log(8 * np.arctan(logvar.dtype.type(1)))
    return -(log_2pi + logvar + squared) / 2, slope, -slope, (squared - 1) / 2


def _gaussian_bounds(operands: Sequence[Array], value: Array, d: Sequence[Array]) -> tuple[list[Array], Array]:
    logvar, slope, squared = operands[2], 6 * np.abs(d[0]), np.abs(2 * d[2] + 1)
    terms = (reference.LOG_2PI + np.abs(logvar) + squared) / 2
    return [6 * terms, slope, slope, 4 * squared + np.abs(d[2])], np.abs(logvar) <= 80


def _gaussian_terms(mean: Tensor, x: Tensor, logvar: Tensor) -> Tensor:
    return 0.5 * (reference.LOG_2PI + logvar.abs() + (x - mean) ** 2 * torch.exp(-logvar))


def _eager_gaussian(mean: Tensor, x: Tensor, logvar: Tensor) -> Tensor:
    return -0.5 * (math.log(2 * math.pi) + logvar + (x - mean).pow(2) / logvar.exp())


def squared_error(mean: Array, x: Array) -> tuple[Array, ...]:
    difference = x - mean
    return -difference * difference, 2 * difference, -2 * difference


def _squared_error_bounds(operands: Sequence[Array], value: Array, d: Sequence[Array]) -> tuple[list[Array], Array]:
    return [2 * np.abs(value), np.abs(d[0]), np.abs(d[0])], np.abs(d[0]) < 1e18


def laplace(mean: Array, x: Array, log_scale: Array) -> tuple[Array, ...]:
    difference, precision = x - mean, np.exp(-log_scale)
    size = np.abs(difference)
    error = np.where(size == 0, 0, size * precision)
    slope = np.where(size > 0, np.sign(difference) * precision, difference)  # 0, or NaN
    return -(np.log(difference.dtype.type(2)) + log_scale + error), slope, -slope, error - 1


def _laplace_bounds(operands: Sequence[Array], value: Array, d: Sequence[Array]) -> tuple[list[Array], Array]:
    log_scale, slope, error = operands[2], 3 * np.abs(d[0]), np.abs(d[2] + 1)
    terms = np.log(2) + np.abs(log_scale) + error
    return [6 * terms, slope, slope, 6 * (1 + error)], np.abs(log_scale) <= 80


def _laplace_terms(mean: Tensor, x: Tensor, log_scale: Tensor) -> Tensor:
    return math.log(2) + log_scale.abs() + (x - mean).abs() * torch.exp(-log_scale)


def _laplace_slope(mean: Tensor, x: Tensor, log_scale: Tensor) -> Tensor:
    return 1 + (x - mean).abs() * torch.exp(-log_scale)


def _without_constant(exact: Callable[..., tuple[Array, ...]], row: Callable[..., likelihoods.Likelihood]) -> dict:
    """What the row of a density says without its constant."""

    def shifted(mean: Array, x: Array, scale: Array) -> tuple[Array, ...]:
        zero = np.zeros_like(scale)
        value, *derivatives = exact(mean, x, scale)
        return value - exact(zero, zero, zero)[0], *derivatives

    def call(mean: Tensor, x: Tensor, scale: Tensor, target_scale: float = 1.0, **options) -> Tensor:
        return row(constant=False, target_scale=target_scale).log_prob((mean, scale), x, **options)

    return {"exact": shifted, "call": call}


ROWS = (
    Term(
        "squared_error",
        ("real", "data"),
        squared_error,
        difference=(1, 0),
        bounds=_squared_error_bounds,
        call=lambda mean, x, target_scale=1.0, **options: likelihoods.SquaredError(target_scale).log_prob(
            mean, x, **options
        ),
        eager=lambda mean, x: -F.mse_loss(mean, x, reduction="none"),
        published=(Quantity("squared error", None, "u", 2, 2, lambda mean, x: (x - mean) ** 2),),
        place=4,
    ),
    location_scale(
        "gaussian_without_constant",
        None,
        bounds=_gaussian_bounds,
        eager=lambda m, x, logvar: -0.5 * (logvar + (x - m).pow(2) / logvar.exp()),
        place=4,
        **_without_constant(gaussian, likelihoods.Gaussian),
    ),
    location_scale(
        "laplace_without_constant",
        None,
        bounds=_laplace_bounds,
        eager=lambda m, x, log_scale: -(log_scale + (x - m).abs() / log_scale.exp()),
        place=5,
        **_without_constant(laplace, likelihoods.Laplace),
    ),
    location_scale(
        "gaussian",
        lambda m, variance, **options: D.Normal(m, variance.sqrt(), **options),
        exact=gaussian,
        bounds=_gaussian_bounds,
        call=VF.gaussian_log_likelihood,
        eager=_eager_gaussian,
        published=(Quantity("Gaussian", None, "u (sum of absolute terms)", 6, 8, _gaussian_terms),),
        place=4,
    ),
    location_scale(
        "laplace",
        D.Laplace,
        exact=laplace,
        bounds=_laplace_bounds,
        published=(
            Quantity("Laplace", None, "u (sum of absolute terms)", 6, 8, _laplace_terms),
            Quantity("its gradient by log_scale", 2, "u (1 + |x - m| / scale)", 6, 8, _laplace_slope),
        ),
        place=5,
    ),
)
