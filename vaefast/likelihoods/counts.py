"""Likelihoods of counts, computed in plain torch. Public as part of vaefast.likelihoods; in nats."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import CompositeLikelihood


def _draw_counts(rate: Tensor, dtype: torch.dtype, generator: torch.Generator | None) -> Tensor:
    """Draws from a Poisson distribution. The result is at least float32, because half precision lacks large whole numbers.
    The rate is clamped, because torch.poisson counts in int64."""
    drawn = torch.poisson(rate.double().clamp(max=2.0**62), generator=generator)
    return drawn.to(torch.promote_types(dtype, torch.float32))


class Poisson(CompositeLikelihood):
    """Counts, from the logarithm of their rate: x log_rate - exp(log_rate) - log x!.

    Args:
        target_scale: see `Likelihood`.

    Example:
        >>> Poisson().log_prob(torch.zeros(1, 2), torch.tensor([[0, 2]]))
        tensor([-2.6931])
    """

    parameters_expected = ("log_rate",)
    support, integral = (0.0, float("inf")), True
    compute = torch.float64

    def element(self, parameters: Sequence[Tensor], x: Tensor) -> Tensor:
        (log_rate,) = parameters
        return torch.where(x == 0, 0.0, x * log_rate) - log_rate.exp() - torch.lgamma(x + 1)

    def mean(self, recon_x: Any) -> Tensor:
        return self.split(recon_x)[0].exp()

    def sample(self, recon_x: Any, *, generator: torch.Generator | None = None) -> Tensor:
        (log_rate,) = self.split(recon_x)
        return _draw_counts(log_rate.double().exp(), log_rate.dtype, generator)


def _stirling(y: Tensor) -> Tensor:
    """log Gamma(y) - ((y - 1/2) log y - y + log(2 pi) / 2), exact to the last digit of float64 for y >= 100."""
    w = 1 / (y * y)
    return (1 / 12 - w * (1 / 360 - w * (1 / 1260 - w / 1680))) / y


def _negative_binomial(log_mean: Tensor, log_count: Tensor, x: Tensor) -> Tensor:
    log_count = log_count.clamp(-300, 300)  # keeps r and 1 / r finite; beyond, the limit is reached
    large = log_count > 5
    # For small r: the formula of NegativeBinomial as it stands.
    some = torch.where(large, 0.0, log_count)
    r, logits = some.exp(), log_mean - some
    successes = torch.where(x == 0, 0.0, x * F.logsigmoid(logits))
    plain = torch.lgamma(x + r) - torch.lgamma(r) + r * F.logsigmoid(-logits) + successes
    # For large r the terms are large and their sum is small. Stirling's formula for log Gamma lets the large part, x log r,
    # cancel on paper, so it is never computed. As r grows the result tends to Poisson's x log m - m.
    many = torch.where(large, log_count, 10.0)
    r, mean_by_r = many.exp(), (torch.where(large, log_mean, 0.0) - many).exp()
    gamma = (r + x - 0.5) * torch.log1p(x / r) - x + (_stirling(r + x) - _stirling(r))
    limit = gamma + torch.where(x == 0, 0.0, x * log_mean) - (r + x) * torch.log1p(mean_by_r)
    return torch.where(large, limit, plain) - torch.lgamma(x + 1)


class NegativeBinomial(CompositeLikelihood):
    """Overdispersed counts, from (log_mean, log_count). The mean is m = exp(log_mean), the inverse dispersion is
    r = exp(log_count), and the variance is m + m^2 / r. All samples may share r: then log_count has shape (D,).

    The log-probability is log(Gamma(x + r) / (Gamma(r) x!)) + r log(r / (r + m)) + x log(m / (r + m)). It is computed in
    float64, because for large r it is a small difference of large numbers. These are the mean and the inverse dispersion of
    the models of single cells (Lopez et al. 2018).

    Args:
        target_scale: see `Likelihood`.

    Example:
        >>> NegativeBinomial().log_prob((torch.zeros(1, 1), torch.zeros(1, 1)), torch.tensor([[1]]))  # 1/4
        tensor([-1.3863])
    """

    parameters_expected = ("log_mean", "log_count")
    support, integral = (0.0, float("inf")), True
    compute = torch.float64

    def element(self, parameters: Sequence[Tensor], x: Tensor) -> Tensor:
        log_mean, log_count = parameters
        return _negative_binomial(log_mean, log_count, x)

    def mean(self, recon_x: Any) -> Tensor:
        return self.split(recon_x)[0].exp()

    def sample(self, recon_x: Any, *, generator: torch.Generator | None = None) -> Tensor:
        log_mean, log_count = (t.double() for t in self.split(recon_x))
        log_count = log_count.clamp(-300, 300)  # as in the density
        scale = (log_mean - log_count).clamp(max=700).exp()  # finite, because it may be multiplied by 0
        rate = torch._standard_gamma(log_count.exp(), generator=generator) * scale
        return _draw_counts(rate, self.split(recon_x)[0].dtype, generator)


class ZeroInflatedNegativeBinomial(CompositeLikelihood):
    """Counts with excess zeros, from (log_mean, log_count, gate). x is 0 with probability sigmoid(gate), and else it is
    drawn from NegativeBinomial(log_mean, log_count) (Lopez et al. 2018).

    Args:
        target_scale: see `Likelihood`.

    Example:
        >>> one = torch.zeros(1, 1)
        >>> ZeroInflatedNegativeBinomial().log_prob((one, one, one), torch.tensor([[0]]))  # 1/2 + 1/2 1/2
        tensor([-0.2877])
    """

    parameters_expected = ("log_mean", "log_count", "gate")
    support, integral = (0.0, float("inf")), True
    compute = torch.float64

    def element(self, parameters: Sequence[Tensor], x: Tensor) -> Tensor:
        log_mean, log_count, gate = parameters
        counted = F.logsigmoid(-gate) + _negative_binomial(log_mean, log_count, x)
        return torch.where(x == 0, torch.logaddexp(F.logsigmoid(gate), counted), counted)

    def mean(self, recon_x: Any) -> Tensor:
        log_mean, _, gate = self.split(recon_x)
        return torch.sigmoid(-gate) * log_mean.exp()

    def sample(self, recon_x: Any, *, generator: torch.Generator | None = None) -> Tensor:
        log_mean, log_count, gate = self.split(recon_x)
        counted = NegativeBinomial().sample((log_mean, log_count), generator=generator)
        return torch.where(torch.bernoulli(torch.sigmoid(gate), generator=generator) > 0, 0.0, counted)
