"""Likelihoods with heavy tails: the log-normal, and Student's t. Public as part of vaefast.likelihoods; in nats."""

import math
from typing import Any

import torch
from torch import Tensor

from .. import _checks
from .location_scale import Scaled


class LogNormal(Scaled):
    """Positive x whose logarithm is normal: -log x - log_scale - log(2 pi) / 2 - ((log x - mean) / scale)^2 / 2. The
    decoder returns the mean of log x, or a pair (mean, log_scale) with a scale for each element, or one that is
    broadcastable to the mean. With a pair, options of the scale raise ValueError. x <= 0 has the value -inf and no
    gradient.

    Args:
        scale: the fixed standard deviation of log x.
        learn_scale: learn one scale, which starts at `scale`, as the parameter `log_scale`. Give the parameter to the
            optimizer, and start near the expected error, as for `Gaussian`.
        target_scale: see `Likelihood`.

    Example:
        >>> LogNormal().log_prob(torch.zeros(1, 1), torch.ones(1, 1))
        tensor([-0.9189])
    """

    term, second, support = "log_normal", "log_scale", (2.0**-149, float("inf"))
    numbers = property(Scaled._fixed)

    def mean(self, recon_x: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """E[x|z] = exp(mean + scale^2 / 2)."""
        center, own = self.split(recon_x)
        return (center + 0.5 * (2 * self.parameter(own, center)).exp()).exp().to(center.dtype)

    def sample(self, recon_x: Tensor | tuple[Tensor, Tensor], *, generator: torch.Generator | None = None) -> Tensor:
        center, own = self.split(recon_x)
        noise = torch.randn(center.shape, generator=generator, device=center.device, dtype=torch.float64)
        return (center + self.parameter(own, center).exp() * noise).exp().to(center.dtype)


class StudentT(Scaled):
    """Real x with independent errors of Student's t, for data with outliers. With z = (x - mean) / scale, log p(x|z) is log
    Gamma((df + 1) / 2) - log Gamma(df / 2) - log(pi df) / 2 - log_scale - (df + 1) / 2 log(1 + z^2 / df). The decoder
    returns the location, or a pair (mean, log_scale) with a scale for each element, or one that is broadcastable to it.
    With a pair, options of the scale raise ValueError.

    Args:
        df: degrees of freedom. With 1 it is Cauchy's distribution; as df grows it tends to the Gaussian.
        scale: the fixed scale.
        learn_scale: learn one scale, which starts at `scale`, as the parameter `log_scale`. Give the parameter to the
            optimizer, and start near the expected error, as for `Gaussian`.
        target_scale: see `Likelihood`.

    Example:
        >>> StudentT(df=1.0).log_prob(torch.zeros(1, 1), torch.zeros(1, 1))  # 1 / pi
        tensor([-1.1447])
    """

    term, second = "student_t", "log_scale"
    defaults = {"df": None, **Scaled.defaults}

    def __init__(self, df: float, scale: float = 1.0, learn_scale: bool = False, target_scale: float = 1.0) -> None:
        super().__init__(scale, learn_scale, target_scale)
        self.df = _checks.positive(self.name, "df", df)

    def _numbers(self) -> tuple[float, ...] | None:
        fixed = self._fixed()
        return None if fixed is None else (*fixed, self.df)

    numbers = property(_numbers)

    def operands(  # type: ignore[override] # one more
        self, recon_x: Tensor | tuple[Tensor, Tensor], x: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        mean, x, log_scale = super().operands(recon_x, x, mask)
        return mean, x, log_scale, _checks.parameter(self.name, "df", self.df, "recon_x", mean)

    def mean(self, recon_x: Any) -> Tensor:
        """The location, which is E[x|z] for df > 1 and the median for every df."""
        return super().mean(recon_x)

    def sample(self, recon_x: Tensor | tuple[Tensor, Tensor], *, generator: torch.Generator | None = None) -> Tensor:
        mean, own = self.split(recon_x)
        shape = torch.full(mean.shape, self.df / 2, dtype=torch.float64, device=mean.device)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=torch.float64)
        spread = math.sqrt(self.df / 2) * torch._standard_gamma(shape, generator=generator).rsqrt()
        return (mean + self.parameter(own, mean).exp() * noise * spread).to(mean.dtype)
