"""A mixture of discretized logistics, with channels that are independent or depend on each other."""

import math
from typing import Any

import torch
from torch import Tensor

from .. import _checks
from ..ops import row_sum
from ..reference import MIXTURE
from .base import CompositeLikelihood
from .logistic import DiscretizedLogistic, OnGrid


class DiscretizedLogisticMixture(OnGrid, CompositeLikelihood):
    """A mixture of M discretized logistics, from (logits, mean, log_scale). The components come after the batch, as
    dimension 1 (Salimans et al. 2017). A kernel computes it and its gradients.

    With independent channels each element of x, of shape (B, ...), has its own mixture, and each parameter has shape
    (B, M, ...).

    With coupled channels x has shape (B, C, ...), and all channels of a pixel are of one component. The decoder returns
    (logits, mean, log_scale, coef) of shapes (B, M, ...), twice (B, M, C, ...) and (B, M, C (C - 1) / 2, ...). The mean of
    channel c is mean[c] + sum over b < c of tanh(coef[c, b]) (x[b] - middle), with coefficients in the order (1, 0),
    (2, 0), (2, 1), ... The middle is that of data_range. For C = 1 there is no coef. With reduction="elementwise" log_prob
    then has shape (B, 1, ...), and a mask must have it, too. With data_range=(-1, 1) this is the likelihood of PixelCNN++
    and its descendants.

    Args:
        levels: number of points of the grid, which divide data_range evenly and hold its ends.
        channels: "independent" or "coupled".
        target_scale: see `Likelihood`; 1 / 255 for uint8 images.
        data_range: the least and the largest x, such as (-1, 1). Means and scales are in the same unit.

    Example:
        >>> parameters = tuple(torch.randn(3, 2, 5, 4, 4) * s for s in (1.0, 0.5, 1.0))
        >>> DiscretizedLogisticMixture().log_prob(parameters, torch.rand(3, 2, 4, 4), batch_dims=2).shape
        torch.Size([3, 2])
        >>> x, logits = torch.rand(2, 3, 4, 4), torch.randn(2, 10, 4, 4)
        >>> mean, log_scale, coef = torch.rand(3, 2, 10, 3, 4, 4)
        >>> DiscretizedLogisticMixture(channels="coupled").log_prob((logits, mean, log_scale - 3, coef), x).shape
        torch.Size([2])
    """

    parameters_expected = ("logits", "mean", "log_scale")
    mixture = True
    defaults = {"channels": "independent", **OnGrid.defaults}

    def __init__(
        self,
        levels: int = 256,
        channels: str = "independent",
        target_scale: float = 1.0,
        data_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__(levels, target_scale, data_range)
        _checks.choice(self.name, "channels", channels, ("independent", "coupled"))
        self.channels = channels

    def _checked_parameters(self, recon_x: Any, batch_dims: int = 1) -> tuple[Tensor, ...]:
        """The decoder's tensors, checked. The means and scales have the channels as the dimension after the components; an
        independent element is a pixel of one channel."""
        at = batch_dims + 1  # of the channels
        given = tuple(recon_x) if isinstance(recon_x, (tuple, list)) else (recon_x,)
        if self.channels == "independent":
            logits, *others = self.split(recon_x)
            if logits.shape[self.component_at(logits, batch_dims)] == 0:
                raise ValueError(f"{self.name}: there must be a component, got logits of shape {tuple(logits.shape)}")
            return logits, *(t.unsqueeze(at) for t in others)
        if len(given) not in (3, 4):
            raise ValueError(f"{self.name}: recon_x must be (logits, mean, log_scale, coef), got {len(given)} tensors")
        for name, value in zip(("logits", "mean", "log_scale", "coef"), given, strict=False):
            _checks.tensor(self.name, name, value)
            _checks.same_device(self.name, name, value, "logits", given[0])
        logits, mean = given[:2]
        if mean.dim() <= at or (*mean.shape[:at], *mean.shape[at + 1 :]) != logits.shape:
            raise ValueError(
                f"{self.name}: mean must have shape (B, M, C, ...) for logits of shape (B, M, ...), got "
                f"{tuple(mean.shape)} for {tuple(logits.shape)}"
            )
        channels = mean.shape[at]
        if channels == 0 or mean.shape[batch_dims] == 0:
            raise ValueError(
                f"{self.name}: there must be a component and a channel, got a mean of shape {tuple(mean.shape)}"
            )
        expected = (*logits.shape[:at], channels * (channels - 1) // 2, *logits.shape[at:])
        if len(given) != (3 if channels == 1 else 4):
            raise ValueError(
                f"{self.name}: recon_x must be (logits, mean, log_scale{'' if channels == 1 else ', coef'}) for {channels} "
                f"channel{'' if channels == 1 else 's'}, got {len(given)} tensors"
            )
        if channels != 1 and given[3].shape != expected:
            raise ValueError(f"{self.name}: coef must have shape {expected}, got {tuple(given[3].shape)}")
        log_scale = _checks.broadcast(self.name, "log_scale", given[2], "mean", mean).expand(mean.shape)
        return logits, mean, log_scale, *given[3:]

    def log_prob(
        self, recon_x: Any, x: Tensor, *, mask: Tensor | None = None, batch_dims: int = 1, reduction: str = "none"
    ) -> Tensor:
        _checks.tensor(self.name, "x", x, counts=True)
        at = _checks.batch_dims(self.name, batch_dims, "x", x)
        logits, mean, log_scale, *coef = self._checked_parameters(recon_x, at)
        coupled = self.channels == "coupled"
        self.checked(mean if coupled else logits, x, reduction, at)
        pixels = x.shape[at + coupled :]
        kept = None if mask is None else self._pixel_mask(mask, x, at).reshape(*x.shape[:at], math.prod(pixels))

        def flat(t: Tensor, dims: int) -> Tensor:
            return t.reshape(*t.shape[:dims], math.prod(pixels))

        data = flat(_checks.readable(x if coupled else x.unsqueeze(at)), at + 1)
        ends = self.data_range if self.data_range != (0.0, 1.0) else ()
        grid, *others = (_checks.parameter(self.name, "grid", n, "mean", mean) for n in (self.half_width, *ends))
        if others:
            grid = torch.stack([grid, *others])
        operands = flat(logits, at + 1), data, *(flat(t, at + 2) for t in (mean, log_scale)), grid
        pairs = (flat(t, at + 2) for t in coef)
        value = row_sum(MIXTURE, (*operands, *pairs), kept, reduction, at, self.target_scale)
        if reduction != "elementwise":
            return value
        return value.reshape((*x.shape[:at], *((1,) if coupled else ()), *pixels))

    def cost(self, recon_x: Any, x: Tensor, **options: Any) -> Tensor:
        """Minus `log_prob`."""
        return -self.log_prob(recon_x, x, **options)

    def _pixel_mask(self, mask: Tensor, x: Tensor, at: int) -> Tensor:
        """The mask of the pixels, checked and expanded. For coupled channels it may have been expanded to them, too."""
        kept = _checks.mask(self.name, mask, "x", x)
        assert kept is not None
        kept = kept.expand(x.shape)
        if self.channels == "independent":
            return kept
        if kept.stride(at) != 0 and x.shape[at] != 1:
            shape, got = (*x.shape[:at], 1, *x.shape[at + 1 :]), tuple(mask.shape)
            raise ValueError(f"{self.name}: mask must be one for all channels of a pixel, of shape {shape}, got {got}")
        return kept.narrow(at, 0, 1)

    def mask_of(self, mask: Tensor, parameter: Tensor, batch_dims: int) -> Tensor:
        if self.channels == "independent":
            return super().mask_of(mask, parameter, batch_dims)
        pixels = mask.narrow(batch_dims, 0, 1)
        return pixels if parameter.dim() == mask.dim() else pixels.unsqueeze(batch_dims)

    def mean(self, recon_x: Any) -> Tensor:
        """E[x|z]. With coupled channels, each channel's is that for the means of the channels before it, which is exact but
        for the grid's ends."""
        dtype, (logits, mean, log_scale, *coef) = self._wide(recon_x)
        means: list[Tensor] = []
        for c in range(mean.shape[2]):
            center = self._center(mean[:, :, c], coef, means, 2)
            means.append(self._grid_mean(center, log_scale[:, :, c]))
        mixed = (logits.softmax(1).unsqueeze(2) * torch.stack(means, 2)).sum(1)
        return (mixed if self.channels == "coupled" else mixed.squeeze(1)).to(dtype)

    def _wide(self, recon_x: Any) -> tuple[torch.dtype, list[Tensor]]:
        """The dtype of the mean, and the parameters, checked, at least as float32: as log_prob computes with them."""
        given = self._checked_parameters(recon_x)
        return given[1].dtype, [t.to(torch.promote_types(t.dtype, torch.float32)) for t in given]

    def _center(self, mean: Tensor, coef: list[Tensor], before: list[Tensor], at: int) -> Tensor:
        """The mean of a channel, given the values of the channels before it. `at` is the dimension of the coefficients."""
        first = len(before) * (len(before) - 1) // 2
        for b, x in enumerate(before):
            mean = mean + coef[0].select(at, first + b).tanh() * (x - sum(self.data_range) / 2)
        return mean

    def sample(self, recon_x: Any, *, generator: torch.Generator | None = None) -> Tensor:
        _, (logits, *others) = self._wide(recon_x)
        shares = logits.softmax(1).movedim(1, -1)
        which = torch.multinomial(shares.flatten(0, -2), 1, generator=generator).view(
            logits.shape[0], 1, 1, *logits.shape[2:]
        )
        mean, log_scale, *coef = (t.take_along_dim(which, 1).squeeze(1) for t in others)  # (B, C, ...)
        single, drawn = DiscretizedLogistic(self.levels, data_range=self.data_range), list[Tensor]()
        for c in range(mean.shape[1]):
            center = self._center(mean[:, c], coef, drawn, 1)
            drawn.append(single.sample((center, log_scale[:, c]), generator=generator))
        return torch.stack(drawn, 1) if self.channels == "coupled" else drawn[0]
