"""The Gaussian and the Laplace likelihood, and the plain errors that are these without their constants. One term of the
kernels computes each, so ELBOLoss can fuse it with the KL. Public as part of vaefast.likelihoods."""

import math

import torch
from torch import Tensor, nn

from .. import _checks
from ..ops import rsample
from .base import FusedLikelihood, Likelihood


class Scaled(FusedLikelihood):
    """A likelihood of a mean and a scale. The scale is the decoder's second output, or an option: one fixed number, or one
    learned parameter."""

    second: str  # the name of the decoder's second output, and of the attribute that holds the fixed or learned scale
    per_log_scale = 1.0  # `second` is this times log(scale): 2 for a logvar, 1 for a log_scale
    defaults = {"scale": 1.0, "learn_scale": False, "optimal_scale": False, "constant": True, **Likelihood.defaults}

    def __init__(self, scale: float = 1.0, learn_scale: bool = False, target_scale: float = 1.0) -> None:
        super().__init__(target_scale)
        self.scale = _checks.positive(self.name, "scale", scale)
        self.learn_scale = _checks.flag(self.name, "learn_scale", learn_scale)
        value = self.per_log_scale * math.log(self.scale)
        setattr(self, self.second, nn.Parameter(torch.tensor(value)) if learn_scale else value)

    def _set_constant(self, constant: bool) -> None:
        self.constant = self.normalized = _checks.flag(self.name, "constant", constant)
        if not constant:
            self.term += "_without_constant"

    def _fixed(self) -> tuple[float, ...] | None:
        """The parameter of the scale if it is a fixed number, else None."""
        value = getattr(self, self.second)
        is_fixed = isinstance(value, float) and math.isfinite(value) and not getattr(self, "optimal_scale", False)
        return (value,) if is_fixed else None

    def split(  # type: ignore[override] # the second may be missing
        self, recon_x: Tensor | tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
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

    def parameter(self, own: Tensor | None, mean: Tensor) -> Tensor:
        """The scale's parameter, checked: the decoder's own, or the option's."""
        value: Tensor | float = getattr(self, self.second) if own is None else own
        return _checks.parameter(self.name, self.second, value, "recon_x", mean, expand=False)

    def operands(
        self, recon_x: Tensor | tuple[Tensor, Tensor], x: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, own = self.split(recon_x)
        mean, x = _checks.prediction(self.name, "recon_x", mean, x)
        return mean, x, self.parameter(own, mean)

    def mean(self, recon_x: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        return self.split(recon_x)[0]

    def quantile(self, u: Tensor) -> Tensor:
        """The quantile at probability u + 1/2 of the distribution with mean 0 and scale 1, for u in [-1/2, 1/2). `sample`
        applies it to uniform numbers."""
        raise NotImplementedError

    def sample(self, recon_x: Tensor | tuple[Tensor, Tensor], *, generator: torch.Generator | None = None) -> Tensor:
        mean, own = self.split(recon_x)
        u = torch.rand(mean.shape, generator=generator, device=mean.device, dtype=torch.float64) - 0.5
        return (mean + self.parameter(own, mean).exp() * self.quantile(u)).to(mean.dtype)


class Gaussian(Scaled):
    """Real x with independent normal errors. The decoder returns the mean, or a pair (mean, logvar) with a variance for
    each element, or one that is broadcastable to the mean, such as (D,) for each column. With a pair, options of the scale
    raise ValueError.

    Args:
        scale: the fixed standard deviation.
        learn_scale: learn one standard deviation, which starts at `scale`, as the parameter `logvar` (sigma-VAE, Rybkin et
            al. 2021). Give the parameter to the optimizer. Start near the expected error, such as 0.3 for pixels: Adam
            moves `logvar` by about its learning rate per step, so from 1 the KL may collapse before the scale is right.
        optimal_scale: use the standard deviation that maximizes the batch's likelihood, the root mean square error. Such a
            scale depends on x, so there is no p(x|z): log p(x) and importance weights raise ValueError.
        target_scale: see `Likelihood`.
        constant: include -log(2 pi) / 2 per element. Without it the result is no log-density, so log p(x) and importance
            weights raise ValueError. -log sigma stays.

    Example:
        >>> Gaussian(scale=0.5).log_prob(torch.zeros(1, 1), torch.ones(1, 1))
        tensor([-2.2258])
    """

    term, second, per_log_scale = "gaussian", "logvar", 2.0
    numbers = property(Scaled._fixed)

    def __init__(
        self,
        scale: float = 1.0,
        learn_scale: bool = False,
        optimal_scale: bool = False,
        target_scale: float = 1.0,
        constant: bool = True,
    ) -> None:
        super().__init__(scale, learn_scale, target_scale)
        self._set_constant(constant)
        self.optimal_scale = _checks.flag(self.name, "optimal_scale", optimal_scale)
        if learn_scale and optimal_scale:
            raise ValueError(f"{self.name}: learn_scale and optimal_scale exclude each other")

    def operands(
        self, recon_x: Tensor | tuple[Tensor, Tensor], x: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, own = self.split(recon_x)
        mean, x = _checks.prediction(self.name, "recon_x", mean, x)
        if own is None and self.optimal_scale:
            error = x.to(torch.promote_types(mean.dtype, torch.float32)) * self.target_scale - mean
            mask = _checks.mask(self.name, mask, "x", x)
            if mask is not None:
                kept = mask.expand(x.shape)
                variance = torch.where(kept, error, 0.0).square().sum() / kept.sum()
            else:
                variance = error.square().mean()
            own = variance.clamp(min=torch.finfo(torch.float32).tiny).log()  # finite for a perfect reconstruction
        return mean, x, self.parameter(own, mean)

    def sample(self, recon_x: Tensor | tuple[Tensor, Tensor], *, generator: torch.Generator | None = None) -> Tensor:
        mean, own = self.split(recon_x)
        if own is None and self.optimal_scale:
            raise ValueError(f"{self.name}: optimal_scale is computed from x, so there is no sample; use the mean")
        return rsample((mean, self.parameter(own, mean).to(mean.dtype).expand(mean.shape)), generator=generator)[0]


class SquaredError(FusedLikelihood):
    """-(x - mean)^2, named "mse": minus the loss, summed, is torch.nn.functional.mse_loss(reduction="sum"). It is the
    Gaussian of variance 1/2 without its constant. `sample` draws from that Gaussian. The result is no log-density, so log
    p(x) and importance weights raise ValueError.

    Args:
        target_scale: see `Likelihood`.

    Example:
        >>> SquaredError().log_prob(torch.zeros(1, 2), torch.tensor([[1.0, 3.0]]))
        tensor([-10.])
    """

    term, numbers, normalized = "squared_error", (), False

    def operands(self, recon_x: Tensor, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return _checks.prediction(self.name, "recon_x", recon_x, x)

    def mean(self, recon_x: Tensor) -> Tensor:
        _checks.tensor(self.name, "recon_x", recon_x)
        return recon_x

    def sample(self, recon_x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return Gaussian(scale=math.sqrt(0.5)).sample(self.mean(recon_x), generator=generator)


class Laplace(Scaled):
    """Real x with independent Laplace errors: -log 2 - log_scale - |x - mean| exp(-log_scale). With a fixed scale this is
    an L1 loss. The decoder returns the mean, or a pair (mean, log_scale) with a scale for each element. With a pair,
    options of the scale raise ValueError.

    Args:
        scale: the fixed scale, the mean absolute error.
        learn_scale: learn one scale, which starts at `scale`, as the parameter `log_scale`. Give the parameter to the
            optimizer, and start near the expected error, as for `Gaussian`.
        target_scale: see `Likelihood`.
        constant: include -log 2 per element; see `Gaussian`. -log_scale stays.

    Example:
        >>> Laplace().log_prob(torch.zeros(1, 1), torch.ones(1, 1))
        tensor([-1.6931])
    """

    term, second = "laplace", "log_scale"
    numbers = property(Scaled._fixed)

    def __init__(
        self, scale: float = 1.0, learn_scale: bool = False, target_scale: float = 1.0, constant: bool = True
    ) -> None:
        super().__init__(scale, learn_scale, target_scale)
        self._set_constant(constant)

    def quantile(self, u: Tensor) -> Tensor:
        return -u.sign() * torch.log1p(-2 * u.abs())
