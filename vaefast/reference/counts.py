"""The terms of counts. They compute in float64 whatever their operands are, because log-gammas are large and their
differences are small. A count below 0 has the value -inf and no gradient."""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from .formulas import LOG_2PI, log_sigmoid, term


def _count_term(formula: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A term of float64, with the rule for counts below 0."""

    @functools.wraps(formula)
    def of_any(first: Tensor, x: Tensor, *rest: Tensor) -> Tensor:
        wide = [t.double() for t in (first, x.clamp(0, 1e30), *rest)]  # x may be NaN
        return torch.where(x < 0, -math.inf, formula(*wide)).to(first.dtype)

    return term(of_any)


def _bounded(logarithm: Tensor) -> Tensor:
    """A logarithm that may be infinite, as a number that makes no inf - inf."""
    return logarithm.clamp(-1e30, 1e30)


def _exp(logarithm: Tensor) -> Tensor:
    """Bounded, so that it makes no inf - inf; its derivative is not lost there."""
    value = logarithm.clamp(max=700).exp()
    return torch.where(logarithm > 700, value.detach() * (1 + logarithm - logarithm.detach()), value)


def _poisson(rate: Tensor, log_rate: Tensor, x: Tensor) -> Tensor:
    return x * _bounded(log_rate) - rate - torch.lgamma(x + 1)


@_count_term
def poisson(log_rate: Tensor, x: Tensor) -> Tensor:
    return _poisson(_exp(log_rate), log_rate, x)


@_count_term
def poisson_rate(rate: Tensor, x: Tensor) -> Tensor:
    log_rate = torch.where(rate == 0, torch.where(x == 0, 1.0, 0.0), rate).log()
    return torch.where(rate >= 0, _poisson(rate, log_rate, x), math.nan)


def _stirling(t: Tensor) -> Tensor:
    """log Gamma(h) - ((h - 1/2) log h - h + log(2 pi) / 2) for h = 1 / t."""
    near = t > 1 / 30
    h = 1 / torch.where(near, t, 1.0)
    some = torch.lgamma(h) - ((h - 0.5) * h.log() - h + LOG_2PI / 2)
    w = t * t
    return torch.where(near, some, t * (1 / 12 - w * (1 / 360 - w * (1 / 1260 - w * (1 / 1680 - w / 1188)))))


def _deficit(t: Tensor) -> Tensor:
    """1 - log1p(t) / t for |t| < 0.3, 0 elsewhere."""
    small, tiny = t.abs() < 0.3, t.abs() < 1e-5
    some = torch.where(small & ~tiny, t, 0.1)
    series = t * (1 / 2 - t * (1 / 3 - t / 4))
    return torch.where(tiny, series, torch.where(small, 1 - torch.log1p(some) / some, 0.0))


def _positive_count(log_mean: Tensor, log_theta: Tensor, x: Tensor) -> Tensor:
    """log of the negative binomial's probability of x > 0, and its derivative by x at 0. With q = m / (m + r) = 1 - p and
    n = x + r, it is
    x log(q (1 + n) / (1 + x)) + r log(p (1 + n) / (1 + r)) and what remains of Stirling's formula at 1 + x, 1 + r and
    1 + n. Both logarithms are log1p of t and of v. Everything is divided by max(1, r)."""
    large, less = log_theta > 0, log_mean < log_theta
    odds = log_mean - log_theta
    e, ratio = torch.where(large, -log_theta, log_theta).exp(), torch.where(less, odds, -odds).exp()
    r, one = torch.where(large, 1.0, e), torch.where(large, e, 1.0)
    p, q = torch.sigmoid(-odds), torch.sigmoid(odds)
    smaller = torch.where(less, log_mean, log_theta).clamp(max=700).exp()
    excess = (torch.where(less, x, x * ratio) - smaller) / (1 + ratio)  # (x - m) p
    lower, upper, total = r + one, r + one + x * one, (r + x * one).clamp(min=1e-300)
    t, v = -(excess + p) / (1 + x), (excess - q) * one / lower
    log_t = log_sigmoid(odds) + torch.where(large, log_theta, 0.0) + (upper / (1 + x)).log()
    log_v = log_sigmoid(-odds) + (upper / lower).log()
    x_part = torch.where(t.abs() < 0.3, -t * (1 + x * _deficit(t)), x * log_t + excess + p)
    rv = (excess - q) * r / lower
    far = rv - log_theta.clamp(max=700).exp() * log_v
    r_part = torch.where(v.abs() < 0.3, rv * _deficit(v), far) + v
    logs = (upper / lower).log() + (upper / (1 + x)).log() - (upper.log() + 2 * total.log())
    corrections = _stirling(one / upper) - _stirling(one / lower) - _stirling(1 / (1 + x)) - LOG_2PI / 2
    return x_part - r_part + 0.5 * logs + corrections + torch.where(large, 0.0, log_theta)


def _with_zeros(at_0: Tensor, log_mean: Tensor, log_theta: Tensor, x: Tensor) -> Tensor:
    """`at_0` where x is 0. Its derivative by x, which it lacks, is that of the counts' formula."""
    slope = _positive_count(log_mean.detach(), log_theta.detach(), x)
    return torch.where(x == 0, at_0 + (slope - slope.detach()), _positive_count(log_mean, log_theta, x))


def _negative_binomial(log_mean: Tensor, log_theta: Tensor, x: Tensor) -> Tensor:
    log_mean, log_theta = _bounded(log_mean), _bounded(log_theta)
    odds = log_mean - log_theta
    small = odds.clamp(max=0).exp().clamp(min=1e-300)
    less = -log_mean.clamp(max=700).exp() * torch.log1p(small) / small
    at_0 = torch.where(odds < 0, less, log_theta.clamp(max=700).exp() * log_sigmoid(-odds))
    return _with_zeros(at_0, log_mean, log_theta, x)


@_count_term
def negative_binomial(log_mean: Tensor, x: Tensor, log_theta: Tensor) -> Tensor:
    return _negative_binomial(log_mean, log_theta, x)


def _of_rates(mean: Tensor, theta: Tensor, x: Tensor) -> Tensor:
    """From the mean and theta themselves, which may be 0 where the count is 0."""
    zero, least = x == 0, theta.clamp(min=1e-300)
    at_0 = -theta * torch.where(mean < theta, torch.log1p(mean / least), (mean + least).log() - least.log())
    log_mean, log_theta = (_bounded(torch.where(zero, t.detach().clamp(min=1e-300), t).log()) for t in (mean, theta))
    return torch.where((mean >= 0) & (theta >= 0), _with_zeros(at_0, log_mean, log_theta, x), math.nan)


@_count_term
def negative_binomial_mean(mean: Tensor, x: Tensor, theta: Tensor) -> Tensor:
    return _of_rates(mean, theta, x)


def _zero_inflated(gate: Tensor, counted: Tensor, x: Tensor) -> Tensor:
    gate, counted = _bounded(gate), counted.clamp(min=-1e300)
    some = log_sigmoid(-gate) + counted
    return torch.where(x == 0, torch.logaddexp(log_sigmoid(gate), some), some)


@_count_term
def zero_inflated_negative_binomial(log_mean: Tensor, x: Tensor, log_theta: Tensor, gate: Tensor) -> Tensor:
    return _zero_inflated(gate, _negative_binomial(log_mean, log_theta, x), x)


@_count_term
def zero_inflated_negative_binomial_mean(mean: Tensor, x: Tensor, theta: Tensor, gate: Tensor) -> Tensor:
    return _zero_inflated(gate, _of_rates(mean, theta, x), x)
