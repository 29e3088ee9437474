"""The discretized logistic likelihood, for images with a fixed number of levels, and the grid of such data."""

import functools
import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .. import _checks
from ..ops import transformed
from .base import FusedLikelihood, Likelihood


class OnGrid(Likelihood):
    """What a single discretized logistic and a mixture of them share: the grid, and the distribution's mean."""

    defaults = {"levels": 256, **Likelihood.defaults, "data_range": (0.0, 1.0)}

    def __init__(
        self, levels: int = 256, target_scale: float = 1.0, data_range: tuple[float, float] = (0.0, 1.0)
    ) -> None:
        super().__init__(target_scale)
        self.levels = _checks.integer(f"{self.name}: levels", levels, 2)
        self.data_range = self.support = _checks.interval(self.name, "data_range", data_range)
        self.width = self.data_range[1] - self.data_range[0]
        self.half_width = 0.5 * self.width / (levels - 1)  # of a bin

    def _on_grid(self, x: Tensor) -> Tensor:
        low, high = self.data_range
        places = ((x.clamp(low, high) - low) * ((self.levels - 1) / self.width)).round()
        return low + self.width * (places / (self.levels - 1))

    def _in_unit(self, mean: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        """The parameters of the data moved to [0, 1]."""
        return (mean - self.data_range[0]) / self.width, log_scale - math.log(self.width)

    def _grid_mean(self, mean: Tensor, log_scale: Tensor) -> Tensor:
        """E[x|z]: on [0, 1] it is the sum over the bins' edges of the mass above each edge, divided by levels - 1."""
        wide = torch.promote_types(mean.dtype, torch.float32)
        center, log_scale = self._in_unit(mean.to(wide), log_scale.to(wide))
        precision = torch.exp(-log_scale.clamp(min=-80))

        def mass_above(edges: Tensor, center: Tensor, precision: Tensor) -> Tensor:
            return torch.sigmoid((center[..., None] - edges) * precision[..., None]).sum(-1)

        total = torch.zeros_like(center)
        edges = (torch.arange(1, self.levels, dtype=wide, device=mean.device) - 0.5) / (self.levels - 1)
        for some in edges.split(16):  # all edges at once, or saved for backward, would take 256 times the memory
            of_these = functools.partial(mass_above, some, center, precision)
            total = total + (of_these() if transformed() else checkpoint(of_these, use_reentrant=False))
        return (self.data_range[0] + self.width * (total / (self.levels - 1))).to(mean.dtype)


class DiscretizedLogistic(OnGrid, FusedLikelihood):
    """x in [0, 1] on a grid, such as 8-bit images, from (mean, log_scale). p(x|z) is the mass of a logistic distribution in
    the bin around x (Kingma et al. 2016, Salimans et al. 2017). The outer bins extend to infinity.

    Args:
        levels: number of points of the grid, which divide data_range evenly and hold its ends.
        target_scale: see `Likelihood`; 1 / 255 for uint8 images.
        data_range: the least and the largest x, such as (-1, 1). The mean and the scale are in the same unit. Data of
            another range than (0, 1) and their parameters are moved there, which takes a pass over each.

    Example:
        >>> one = torch.zeros(1, 1)
        >>> DiscretizedLogistic(levels=2).log_prob((one + 0.5, one), one)  # half the mass is in each bin
        tensor([-0.6931])
    """

    term, parameters_expected = "discretized_logistic", ("mean", "log_scale")

    def operands(self, recon_x: Any, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        mean, log_scale = self.split(recon_x)
        mean, x = _checks.prediction(self.name, "mean", mean, x, counts=True)
        if self.data_range != (0.0, 1.0):
            wide = torch.promote_types(mean.dtype, torch.float32)
            mean, log_scale = self._in_unit(mean.to(wide), log_scale.to(wide))
            x = (x.to(wide) - self.data_range[0] / self.target_scale) / self.width
        half = _checks.parameter(self.name, "half_width", 0.5 / (self.levels - 1), "mean", mean)
        return mean, x, log_scale, half

    def mean(self, recon_x: Any) -> Tensor:
        """E[x|z], the sum over the grid of each point times its mass."""
        return self._grid_mean(*torch.broadcast_tensors(*self.split(recon_x)))

    def sample(self, recon_x: Any, *, generator: torch.Generator | None = None) -> Tensor:
        mean, log_scale = torch.broadcast_tensors(*self.split(recon_x))
        u = torch.rand(mean.shape, generator=generator, device=mean.device, dtype=torch.float64).clamp(min=1e-16)
        drawn = self._on_grid(mean.double() + log_scale.double().exp() * torch.logit(u))
        return drawn.to(torch.promote_types(mean.dtype, torch.float32))
