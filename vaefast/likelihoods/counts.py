"""Likelihoods of counts. Public as part of vaefast.likelihoods; in nats."""

from typing import Any

import torch
from torch import Tensor

from .. import _checks
from .base import FusedLikelihood, Likelihood


def _draw_counts(rate: Tensor, dtype: torch.dtype, generator: torch.Generator | None) -> Tensor:
    """Draws from a Poisson distribution. The result is at least float32, because half precision lacks large whole numbers.
    The rate is clamped, because torch.poisson counts in int64."""
    drawn = torch.poisson(rate.double().clamp(max=2.0**62), generator=generator)
    return drawn.to(torch.promote_types(dtype, torch.float32))


class Counts(FusedLikelihood):
    """A likelihood of counts x = 0, 1, 2, ..., of any integer or floating type.

    The decoder returns the first parameter in the shape of x. Each other one may be broadcastable to it: a number, (D,) for
    each column, (B, 1) for each sample. The kernel reads it as it is and sums its gradient."""

    support, integral = (0.0, float("inf")), True
    defaults = {"log_parameters": True, **Likelihood.defaults}
    base: str  # the term's name for logarithms
    suffix: str  # what the name of the term for the parameters themselves ends in
    positive: tuple[str, ...]  # the parameters that are positive
    others: tuple[str, ...] = ()

    def __init__(self, log_parameters: bool = True, target_scale: float = 1.0) -> None:
        super().__init__(target_scale)
        self.log_parameters = _checks.flag(self.name, "log_parameters", log_parameters)
        self.term = self.base if log_parameters else f"{self.base}_{self.suffix}"
        names = (f"log_{name}" for name in self.positive) if log_parameters else self.positive
        self.parameters_expected = (*names, *self.others)

    def operands(self, recon_x: Any, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        first, *others = self.split(recon_x)
        first, x = _checks.prediction(self.name, self.parameters_expected[0], first, x, counts=True)
        return first, x, *others

    def rates(self, recon_x: Any) -> tuple[Tensor, ...]:
        """Returns the positive parameters themselves, and the others after them, all in the shape of the first."""
        given = torch.broadcast_tensors(*self.split(recon_x))
        count = len(self.positive)
        return *(t.exp() if self.log_parameters else t for t in given[:count]), *given[count:]


class Poisson(Counts):
    """Counts, from the logarithm of their rate: x log_rate - exp(log_rate) - log x!.

    Args:
        log_parameters: the decoder returns log_rate; False: the rate itself, at least 0.
        target_scale: see `Likelihood`.

    Example:
        >>> Poisson().log_prob(torch.zeros(1, 2), torch.tensor([[0, 2]]))
        tensor([-2.6931])
    """

    base, suffix, positive, numbers = "poisson", "rate", ("rate",), ()

    def mean(self, recon_x: Any) -> Tensor:
        return self.rates(recon_x)[0]

    def sample(self, recon_x: Any, *, generator: torch.Generator | None = None) -> Tensor:
        (given,) = self.split(recon_x)
        rate = given.double().exp() if self.log_parameters else given.double()
        return _draw_counts(rate, given.dtype, generator)


class NegativeBinomial(Counts):
    """Overdispersed counts, from (log_mean, log_theta). The mean is m = exp(log_mean), and theta = exp(log_theta) is the
    inverse dispersion: the variance is m + m^2 / theta. Genes or samples may share it: then log_theta has shape (D,) or
    (B, 1).

    The log-probability is log(Gamma(x + theta) / (Gamma(theta) x!)) + theta log(theta / (theta + m)) + x log(m / (theta +
    m)). These are the mean and the inverse dispersion of the models of single cells (Lopez et al. 2018); theta is
    `total_count` in torch.distributions.

    Args:
        log_parameters: the decoder returns logarithms; False: (mean, theta) themselves, at least 0.
        target_scale: see `Likelihood`.

    Example:
        >>> NegativeBinomial().log_prob((torch.zeros(1, 1), torch.zeros(1, 1)), torch.tensor([[1]]))  # 1/4
        tensor([-1.3863])
    """

    base, suffix, positive = "negative_binomial", "mean", ("mean", "theta")

    def mean(self, recon_x: Any) -> Tensor:
        return self.rates(recon_x)[0]

    def sample(self, recon_x: Any, *, generator: torch.Generator | None = None) -> Tensor:
        mean, theta, *_ = torch.broadcast_tensors(*self.split(recon_x))
        wide = [t.double() if self.log_parameters else t.double().log() for t in (mean, theta)]
        log_mean, log_theta = wide[0], wide[1].clamp(-300, 300)  # keeps theta and its inverse finite
        scale = (log_mean - log_theta).clamp(max=700).exp()  # finite, because it may be multiplied by 0
        rate = torch._standard_gamma(log_theta.exp(), generator=generator) * scale
        return _draw_counts(rate, mean.dtype, generator)


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    """Counts with excess zeros, from (log_mean, log_theta, gate). x is 0 with probability sigmoid(gate), and else it is
    drawn from NegativeBinomial (Lopez et al. 2018).

    Args:
        log_parameters: the decoder returns the logarithms of mean and theta; False: both themselves. The gate is a logit.
        target_scale: see `Likelihood`.

    Example:
        >>> one = torch.zeros(1, 1)
        >>> ZeroInflatedNegativeBinomial().log_prob((one, one, one), torch.tensor([[0]]))  # 1/2 + 1/2 1/2
        tensor([-0.2877])
    """

    base, others = "zero_inflated_negative_binomial", ("gate",)

    def mean(self, recon_x: Any) -> Tensor:
        mean, _, gate = self.rates(recon_x)
        return torch.sigmoid(-gate) * mean

    def sample(self, recon_x: Any, *, generator: torch.Generator | None = None) -> Tensor:
        counted = super().sample(recon_x, generator=generator)
        gate = self.split(recon_x)[2].expand(counted.shape)
        return torch.where(torch.bernoulli(torch.sigmoid(gate), generator=generator) > 0, 0.0, counted)
