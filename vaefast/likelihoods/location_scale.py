"""The Gaussian and the Laplace likelihood. One term of the kernels computes each, so ELBOLoss can fuse it with the KL.
Public as part of vaefast.likelihoods."""

import math

import torch
from torch import Tensor, nn

from .. import _checks
from ..ops import rsample
from .base import FusedLikelihood, Likelihood


class Scaled(FusedLikelihood):
    """A likelihood whose scale is the decoder's second output, or an option."""

    second: str  # the name of the second output
    defaults = {"scale": 1.0, "learn_scale": False, "optimal_scale": False, **Likelihood.defaults}

    def __init__(self, scale: float, learn_scale: bool, target_scale: float) -> None:
        super().__init__(target_scale)
        self.scale = _checks.positive(self.name, "scale", scale)
        self.learn_scale = _checks.flag(self.name, "learn_scale", learn_scale)

    def _fixed(self) -> tuple[float, ...] | None:
        """The parameter of the scale if it is a fixed number, else None."""
        value = getattr(self, self.second)
        is_fixed = isinstance(value, float) and math.isfinite(value) and not getattr(self, "optimal_scale", False)
        return (value,) if is_fixed else None

    def split(self, recon_x: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Returns (mean, second output) of a decoder's output. The second is None if the decoder returns the mean alone."""
        if not isinstance(recon_x, (tuple, list)):
            _checks.tensor(self.name, "recon_x", recon_x)
            return recon_x, None
        if len(recon_x) != 2:
            raise ValueError(f"{self.name}: expected (mean, {self.second}), got {len(recon_x)} tensors")
        for option in ("scale", "learn_scale", "optimal_scale"):
            if getattr(self, option, self.defaults[option]) != self.defaults[option]:
                raise ValueError(
                    f"{self.name}: recon_x must be the mean alone where {option} is given, got a pair (mean, {self.second})"
                )
        _checks.tensor(self.name, "recon_x", recon_x[0])
        return recon_x[0], recon_x[1]

    def mean(self, recon_x: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        return self.split(recon_x)[0]


class Gaussian(Scaled):
    """Real x with independent normal errors. The decoder returns the mean, or a pair (mean, logvar) with a variance for
    each element. With a pair, options of the scale raise ValueError.

    Args:
        scale: the fixed standard deviation.
        learn_scale: learn one standard deviation, which starts at `scale`, as the parameter `logvar` (sigma-VAE, Rybkin et
            al. 2021). Give the parameter to the optimizer. Start near the expected error, such as 0.3 for pixels: Adam
            moves `logvar` by about its learning rate per step, so from 1 the KL may collapse before the scale is right.
        optimal_scale: use the standard deviation that maximizes the batch's likelihood, the root mean square error. Such a
            scale depends on x, so there is no p(x|z): log p(x) and importance weights raise ValueError.
        target_scale: see `Likelihood`.

    Example:
        >>> Gaussian(scale=0.5).log_prob(torch.zeros(1, 1), torch.ones(1, 1))
        tensor([-2.2258])
    """

    term, second = "gaussian", "logvar"
    numbers = property(Scaled._fixed)

    def __init__(
        self,
        scale: float = 1.0,
        learn_scale: bool = False,
        optimal_scale: bool = False,
        target_scale: float = 1.0,
    ) -> None:
        super().__init__(scale, learn_scale, target_scale)
        self.optimal_scale = _checks.flag(self.name, "optimal_scale", optimal_scale)
        if learn_scale and optimal_scale:
            raise ValueError(f"{self.name}: learn_scale and optimal_scale exclude each other")
        self.logvar: nn.Parameter | float = 2 * math.log(self.scale)
        if learn_scale:
            del self.logvar
            self.logvar = nn.Parameter(torch.tensor(2 * math.log(self.scale)))

    def operands(
        self, recon_x: Tensor | tuple[Tensor, Tensor], x: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, own = self.split(recon_x)
        mean, x = _checks.prediction(self.name, "recon_x", mean, x)
        logvar: Tensor | float = self.logvar if own is None else own
        if own is None and self.optimal_scale:
            error = x.to(torch.promote_types(mean.dtype, torch.float32)) * self.target_scale - mean
            mask = _checks.mask(self.name, mask, "x", x)
            if mask is not None:
                kept = mask.expand(x.shape)
                variance = torch.where(kept, error, 0.0).square().sum() / kept.sum()
            else:
                variance = error.square().mean()
            logvar = variance.clamp(min=torch.finfo(torch.float32).tiny).log()  # finite for a perfect reconstruction
        return mean, x, _checks.parameter(self.name, "logvar", logvar, "recon_x", mean)

    def sample(self, recon_x: Tensor | tuple[Tensor, Tensor], *, generator: torch.Generator | None = None) -> Tensor:
        mean, own = self.split(recon_x)
        if own is None and self.optimal_scale:
            raise ValueError(f"{self.name}: optimal_scale is computed from x, so there is no sample; use the mean")
        logvar = _checks.parameter(self.name, "logvar", self.logvar if own is None else own, "recon_x", mean)
        return rsample((mean, logvar.to(mean.dtype).expand(mean.shape)), generator=generator)[0]


class Laplace(Scaled):
    """Real x with independent Laplace errors: -log 2 - log_scale - |x - mean| exp(-log_scale). With a fixed scale this is
    an L1 loss. The decoder returns the mean, or a pair (mean, log_scale) with a scale for each element. With a pair,
    options of the scale raise ValueError.

    Args:
        scale: the fixed scale, the mean absolute error.
        learn_scale: learn one scale, which starts at `scale`, as the parameter `log_scale`. Give the parameter to the
            optimizer, and start near the expected error, as for `Gaussian`.
        target_scale: see `Likelihood`.

    Example:
        >>> Laplace().log_prob(torch.zeros(1, 1), torch.ones(1, 1))
        tensor([-1.6931])
    """

    term, second = "laplace", "log_scale"
    numbers = property(Scaled._fixed)

    def __init__(self, scale: float = 1.0, learn_scale: bool = False, target_scale: float = 1.0) -> None:
        super().__init__(scale, learn_scale, target_scale)
        self.log_scale: nn.Parameter | float = math.log(self.scale)
        if learn_scale:
            del self.log_scale
            self.log_scale = nn.Parameter(torch.tensor(math.log(self.scale)))

    def operands(
        self, recon_x: Tensor | tuple[Tensor, Tensor], x: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, own = self.split(recon_x)
        mean, x = _checks.prediction(self.name, "recon_x", mean, x)
        log_scale: Tensor | float = self.log_scale if own is None else own
        return mean, x, _checks.parameter(self.name, "log_scale", log_scale, "recon_x", mean)

    def sample(self, recon_x: Tensor | tuple[Tensor, Tensor], *, generator: torch.Generator | None = None) -> Tensor:
        mean, own = self.split(recon_x)
        u = torch.rand(mean.shape, generator=generator, device=mean.device, dtype=torch.float64) - 0.5
        log_scale = self.log_scale if own is None else own
        scale = _checks.parameter(self.name, "log_scale", log_scale, "recon_x", mean).exp()
        return (mean - scale * u.sign() * torch.log1p(-2 * u.abs())).to(mean.dtype)
