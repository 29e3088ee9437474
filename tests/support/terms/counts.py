"""Terms of counts. The exact results come from a recurrence of the gamma function, not from the kernels' formula."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch import distributions as D
from torch.nn import functional as F

from vaefast import likelihoods

from .row import LONG, Array, Term
from .spread import normal

Ranges = Iterator[tuple[str, tuple[Tensor, ...]]]
_SHIFT = 40  # Stirling's series at y >= 40 is exact to the last digit of the longest type
_HALF_LOG_2PI = np.log(8 * np.arctan(LONG(1))) / 2


def _stirling(y: Array) -> Array:
    """log Gamma(y) - ((y - 1/2) log y - y + log(2 pi) / 2)."""
    w = 1 / (y * y)
    return (1 / LONG(12) - w * (1 / LONG(360) - w * (1 / LONG(1260) - w * (1 / LONG(1680) - w / LONG(1188))))) / y


def _digamma_rest(y: Array) -> Array:
    """psi(y) - log(y)."""
    w = 1 / (y * y)
    series = 1 / LONG(12) - w * (1 / LONG(120) - w * (1 / LONG(252) - w * (1 / LONG(240) - w * (5 / LONG(660)))))
    return -1 / (2 * y) - w * series


def _log_factorial(x: Array) -> tuple[Array, Array, Array]:
    """log x! as x times the first result plus the second minus y = x + 40, because these large parts cancel elsewhere; and
    the derivative."""
    product = sum(np.log1p(x / k) for k in range(1, _SHIFT)) + np.log(np.arange(1, _SHIFT).astype(LONG)).sum()
    y = x + _SHIFT
    log_y = np.log(y)
    rest = (_SHIFT - LONG(0.5)) * log_y + _HALF_LOG_2PI + _stirling(y) - product
    return log_y, rest, log_y + _digamma_rest(y) - sum(1 / (x + k) for k in range(1, _SHIFT))


def in_long(exact: Callable[..., tuple[Array, ...]]) -> Callable[..., tuple[Array, ...]]:
    """The results in the operands' type, computed in the longest one."""

    def of_any(*operands: Array) -> tuple[Array, ...]:
        with np.errstate(all="ignore"):
            return tuple(t.astype(operands[0].dtype) for t in exact(*(t.astype(LONG) for t in operands)))

    return of_any


def _of_counts(exact: Callable[..., tuple[Array, ...]]) -> Callable[..., tuple[Array, ...]]:
    """The results with the rule for counts below 0."""

    def of_any(first: Array, x: Array, *rest: Array) -> tuple[Array, ...]:
        value, *d = exact(first, np.minimum(np.maximum(x, 0), LONG(1e30)), *rest)
        return tuple(np.where(x < 0, fill, t) for fill, t in ((-np.inf, value), *((0, t) for t in d)))

    return in_long(of_any)


def _bounded(logarithm: Array) -> Array:
    """So that no number of the longest type overflows, and infinite ones make no inf - inf."""
    return np.clip(logarithm, -5000, 5000)


@_of_counts
def poisson(log_rate: Array, x: Array) -> tuple[Array, ...]:
    log_rate = _bounded(log_rate)
    rate, (log_y, rest, slope) = np.exp(log_rate), _log_factorial(x)
    return x * (log_rate - log_y) + (x - rate) + _SHIFT - rest, x - rate, log_rate - slope


@_of_counts
def poisson_rate(rate: Array, x: Array) -> tuple[Array, ...]:
    rate = np.where(rate >= 0, rate, np.nan)
    value, slope, by_x = poisson(np.log(rate), x)
    return np.where(x == 0, -rate, value), np.where(x == 0, -1, slope / rate), by_x


def _negative_binomial(log_mean: Array, x: Array, log_theta: Array) -> tuple[Array, ...]:
    a, b = _bounded(log_mean), _bounded(log_theta)
    r, zero = np.exp(b), x == 0
    xs = np.where(zero, 1, x)
    p, q = 1 / (1 + np.exp(a - b)), 1 / (1 + np.exp(b - a))
    softplus = np.maximum(a - b, 0) + np.log1p(np.exp(-np.abs(a - b)))
    log_p, log_q = -softplus, -(np.maximum(b - a, 0) + np.log1p(np.exp(-np.abs(a - b))))
    y, shifted, of_x = xs + r + _SHIFT, r + _SHIFT, xs + _SHIFT
    # log Gamma(x + r) - log Gamma(r), by as many factors, the first of which may be x / r for r = 0 in the longest type
    product = np.where(b < 0, np.log(r + xs) - b, np.log1p(xs / r))
    product = product + sum(np.log1p(xs / (r + k)) for k in range(1, _SHIFT))
    rest = _log_factorial(xs)[1]
    # x log(q y / of_x), in which x log y and log x! are
    large = xs * (np.log1p(r / of_x) + log_q) + (shifted - LONG(0.5)) * np.log1p(xs / shifted) + _SHIFT
    value = np.where(zero, r * log_p, large - rest + (_stirling(y) - _stirling(shifted)) - product + r * log_p)
    by_mean = (x - np.exp(a)) * p
    by_mean = np.where(a > b, x * p - r * q, by_mean)
    fractions = sum(r * xs / ((r + k) * (r + k + xs)) for k in range(1, _SHIFT)) + xs / (r + xs)
    digamma = r * np.log1p(xs / shifted) + r * (_digamma_rest(y) - _digamma_rest(shifted)) + fractions
    by_theta = np.where(zero, r * (log_p + q), digamma + r * log_p + r * q - xs * p)
    n = x + r
    psi = np.log(n + _SHIFT) + _digamma_rest(n + _SHIFT) - sum(1 / (n + k) for k in range(_SHIFT))
    return value, by_mean, log_q + psi - _log_factorial(x)[2], by_theta


negative_binomial = _of_counts(_negative_binomial)


@_of_counts
def negative_binomial_mean(mean: Array, x: Array, theta: Array) -> tuple[Array, ...]:
    m, r = (np.where(t >= 0, np.clip(t, LONG(10) ** -2000, 1e300), np.nan) for t in (mean, theta))
    value, by_mean, by_x, by_theta = _negative_binomial(np.log(m), x, np.log(r))
    p, odds = 1 / (1 + m / r), m / r
    by_theta = np.where(x == 0, odds / (1 + odds) - np.log1p(odds), by_theta / r)
    return value, np.where(x == 0, -p, by_mean / m), by_x, by_theta


def _inflated(counted: Array, x: Array, gate: Array) -> tuple[Array, Array, Array]:
    """log p(x), its derivative by `counted`, the log-probability of a count, and by the gate."""
    gate = _bounded(gate)
    log_open, log_closed = -np.logaddexp(0, -gate), -np.logaddexp(0, gate)
    share = 1 / (1 + np.exp(np.clip(gate - counted, -11000, 11000)))
    opened = np.exp(log_open)
    near = np.log1p(np.exp(log_closed) * np.expm1(counted))
    zero = np.where(counted > -1, near, np.logaddexp(log_open, log_closed + counted))
    by_gate = -opened * np.exp(log_closed) * np.expm1(counted) / np.exp(zero)
    by_gate = np.where(zero < -100, (1 - share) - opened, by_gate)
    return (
        np.where(x == 0, zero, log_closed + counted),
        np.where(x == 0, share, 1),
        np.where(x == 0, by_gate, -opened),
    )


@_of_counts
def zero_inflated_negative_binomial(log_mean: Array, x: Array, log_theta: Array, gate: Array) -> tuple[Array, ...]:
    counted, by_mean, by_x, by_theta = _negative_binomial(log_mean, x, log_theta)
    value, share, by_gate = _inflated(counted, x, gate)
    return value, share * by_mean, share * by_x, share * by_theta, by_gate


@_of_counts
def zero_inflated_negative_binomial_mean(mean: Array, x: Array, theta: Array, gate: Array) -> tuple[Array, ...]:
    counted, by_mean, by_x, by_theta = negative_binomial_mean(mean, x, theta)
    value, share, by_gate = _inflated(counted, x, gate)
    return value, share * by_mean, share * by_x, share * by_theta, by_gate


def _countable(x: Array) -> Array:
    return ((x == 0) | (x >= 0.5)) & (x <= 1e9)


def _poisson_bounds(operands: Sequence[Array], value: Array, d: Sequence[Array]) -> tuple[list[Array], Array]:
    log_rate, x = operands
    rate = np.exp(np.minimum(log_rate, 80))
    terms = 1 + np.abs(value) + np.abs(log_rate * d[0])
    by_x = 8 * (1 + np.abs(log_rate) + np.log1p(np.maximum(x, 0)))
    return [6 * terms, 2 * (x + rate), by_x], _countable(x) & (np.abs(log_rate) <= 80)


def _rate_bounds(operands: Sequence[Array], value: Array, d: Sequence[Array]) -> tuple[list[Array], Array]:
    rate, x = operands
    safe = np.maximum(rate, 1e-30)
    terms = 1 + np.abs(value) + np.abs(x - rate)
    by_x = 8 * (1 + np.abs(np.log(safe)) + np.log1p(np.maximum(x, 0)))
    return [12 * terms, 2 * (1 + x / safe), by_x], _countable(x) & (rate > 1e-30) & (rate < 1e30)


def _nb_bounds(operands: Sequence[Array], value: Array, d: Sequence[Array]) -> tuple[list[Array], Array]:
    """A mean and a dispersion are known to u times their logarithms, which moves the results as if these were off."""
    a, x, b, *gate = operands
    odds = np.clip(a - b, -80, 80)
    p, smaller = 1 / (1 + np.exp(odds)), np.exp(np.minimum(np.minimum(a, b), 80))
    g = np.maximum(x, 0) * p + smaller * np.maximum(p, 1 - p)
    logs = 1 + np.abs(a) + np.abs(b)
    cost = smaller * (1 + np.maximum(odds, 0))
    moved = np.minimum(g, np.abs(x * odds) + cost)
    size = 1 + np.abs(value) + moved * logs
    by_x = 16 * (logs + np.log1p(np.maximum(x, 0)) + np.abs(d[1]))
    slopes = [4 * g * logs, by_x, 8 * (np.abs(d[2]) + g) * logs]
    every = [8 * size, *slopes, *(8 * (1 + 0 * t) for t in gate)]
    proper = _countable(x) & (np.maximum(np.abs(a), np.abs(b)) <= 80)
    for t in gate:
        proper = proper & (np.abs(t) <= 80)
    return every, proper


def _nb_mean_bounds(operands: Sequence[Array], value: Array, d: Sequence[Array]) -> tuple[list[Array], Array]:
    mean, x, theta, *gate = operands
    m, r = np.clip(mean, 1e-30, 1e30), np.clip(theta, 1e-30, 1e30)
    every, proper = _nb_bounds([np.log(m), x, np.log(r), *gate], value, [d[0] * m, d[1], d[2] * r, *d[3:]])
    every[0], every[1], every[3] = 1.5 * every[0], every[1] / m, every[3] / r  # both logarithms are rounded, too
    return every, proper & (mean == m) & (theta == r)


def _counts_like(n: int, g: torch.Generator, log_mean: Tensor) -> dict[str, Tensor]:
    near = torch.poisson(log_mean.clamp(max=20).exp().double(), generator=g).float()
    zeros = torch.rand(n, generator=g) < 0.9
    return {"x ~ Poisson": near, "90 % zeros": near.masked_fill(zeros, 0.0)}


def _poisson_regimes(n: int, g: torch.Generator) -> Ranges:
    for name, log_rate in (("log rate ~ N", normal(n, g, 1.0)), ("log rate ~ 4 + 2 N", 4 + normal(n, g, 2.0))):
        for which, x in _counts_like(n, g, log_rate).items():
            yield f"{name}, {which}", (log_rate, x)


def _nb_regimes(n: int, g: torch.Generator) -> Ranges:
    for name, center, scale in (("log theta ~ N", 0.0, 1.0), ("log theta ~ 3 N", 0.0, 3.0), ("theta ~ 1e6", 14.0, 1.0)):
        log_mean, log_theta = normal(n, g, 1.5), center + normal(n, g, scale)
        for which, x in _counts_like(n, g, log_mean).items():
            yield f"{name}, {which}", (log_mean, x, log_theta)


def _zinb_regimes(n: int, g: torch.Generator) -> Ranges:
    for name, operands in _nb_regimes(n, g):
        yield name, (*operands, normal(n, g, 2.0))


def _rate_regimes(n: int, g: torch.Generator) -> Ranges:
    for name, (log_rate, x) in _poisson_regimes(n, g):  # float16 has no rate beyond 65504
        yield name, (log_rate.clamp(max=11).exp(), x)


def _rates(regimes: Callable[[int, torch.Generator], Ranges], positive: tuple[int, ...]):
    def of(n: int, g: torch.Generator) -> Ranges:
        for name, operands in regimes(n, g):
            yield name, tuple(t.exp() if k in positive else t for k, t in enumerate(operands))

    return of


def _eager_nb(mean: Tensor, x: Tensor, theta: Tensor, eps: float = 1e-8) -> Tensor:
    """As the models of single cells have it."""
    log_sum = torch.log(theta + mean + eps)
    return (
        theta * (torch.log(theta + eps) - log_sum)
        + x * (torch.log(mean + eps) - log_sum)
        + torch.lgamma(x + theta)
        - torch.lgamma(theta)
        - torch.lgamma(x + 1)
    )


def _eager_zinb(mean: Tensor, x: Tensor, theta: Tensor, gate: Tensor, eps: float = 1e-8) -> Tensor:
    log_theta, log_sum = torch.log(theta + eps), torch.log(theta + mean + eps)
    closed = F.softplus(-gate)
    no_count = -gate + theta * (log_theta - log_sum)
    counted = -closed + no_count + x * (torch.log(mean + eps) - log_sum)
    counted = counted + torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    return torch.where(x < eps, F.softplus(no_count) - closed, counted)


def _call(kind: type[likelihoods.Likelihood]) -> Callable[..., Tensor]:
    def call(first: Tensor, x: Tensor, *rest: Tensor, target_scale: float = 1.0, **options) -> Tensor:
        likelihood = kind(log_parameters=False, target_scale=target_scale)
        return likelihood.log_prob((first, *rest) if rest else first, x, **options)

    return call


def _nb_distribution(log_mean: Tensor, log_theta: Tensor, **options) -> D.Distribution:
    return D.NegativeBinomial(log_theta.exp(), logits=log_mean - log_theta, **options)


ROWS = (
    Term(
        "poisson",
        ("real", "count data"),
        poisson,
        bounds=_poisson_bounds,
        distribution=lambda log_rate, **options: D.Poisson(log_rate.exp(), **options),
        eager=lambda log_rate, x: -F.poisson_nll_loss(log_rate, x, full=False, reduction="none") - torch.lgamma(x + 1),
        regimes=_poisson_regimes,
        gradients=(0,),
        place=8,
    ),
    Term(
        "poisson_rate",
        ("rate", "count data"),
        poisson_rate,
        bounds=_rate_bounds,
        call=_call(likelihoods.Poisson),
        eager=lambda rate, x: D.Poisson(rate, validate_args=False).log_prob(x),
        regimes=_rate_regimes,
        gradients=(0,),
    ),
    Term(
        "negative_binomial",
        ("real", "count data", "real"),
        negative_binomial,
        bounds=_nb_bounds,
        distribution=_nb_distribution,
        eager=lambda log_mean, x, log_theta: _eager_nb(log_mean.exp(), x, log_theta.exp()),
        regimes=_nb_regimes,
        gradients=(0, 2),
        place=9,
    ),
    Term(
        "negative_binomial_mean",
        ("rate", "count data", "rate"),
        negative_binomial_mean,
        bounds=_nb_mean_bounds,
        call=_call(likelihoods.NegativeBinomial),
        eager=_eager_nb,
        regimes=_rates(_nb_regimes, (0, 2)),
        gradients=(0, 2),
    ),
    Term(
        "zero_inflated_negative_binomial",
        ("real", "count data", "real", "logits"),
        zero_inflated_negative_binomial,
        bounds=_nb_bounds,
        eager=lambda log_mean, x, log_theta, gate: _eager_zinb(log_mean.exp(), x, log_theta.exp(), gate),
        regimes=_zinb_regimes,
        gradients=(0, 2, 3),
        place=10,
    ),
    Term(
        "zero_inflated_negative_binomial_mean",
        ("rate", "count data", "rate", "logits"),
        zero_inflated_negative_binomial_mean,
        bounds=_nb_mean_bounds,
        call=_call(likelihoods.ZeroInflatedNegativeBinomial),
        eager=_eager_zinb,
        regimes=_rates(_zinb_regimes, (0, 2)),
        gradients=(0, 2, 3),
    ),
)
