"""Discretized logistic likelihoods, single or mixed, for images with a fixed number of levels."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .. import _checks
from ..ops import transformed
from ..reference.tails import discretized_logistic
from .base import CompositeLikelihood, FusedLikelihood, Likelihood


class _OnGrid(Likelihood):
    """What a single discretized logistic and a mixture of them share: the grid, and the distribution's mean."""

    support = (0.0, 1.0)
    defaults = {"levels": 256, **Likelihood.defaults}

    def __init__(self, levels: int = 256, target_scale: float = 1.0) -> None:
        super().__init__(target_scale)
        self.levels = _checks.integer(f"{self.name}: levels", levels, 2)
        self.half_width = 0.5 / (levels - 1)  # of a bin

    def _on_grid(self, x: Tensor) -> Tensor:
        return (x.clamp(0, 1) * (self.levels - 1)).round() / (self.levels - 1)

    def _grid_mean(self, mean: Tensor, log_scale: Tensor) -> Tensor:
        """E[x|z], computed as the sum over the bins' edges of the mass above each edge, divided by levels - 1."""
        wide = torch.promote_types(mean.dtype, torch.float32)
        center, precision = mean.to(wide), torch.exp(-log_scale.to(wide).clamp(min=-80))

        def mass_above(edges: Tensor, center: Tensor, precision: Tensor) -> Tensor:
            return torch.sigmoid((center[..., None] - edges) * precision[..., None]).sum(-1)

        total = torch.zeros_like(center)
        edges = (torch.arange(1, self.levels, dtype=wide, device=mean.device) - 0.5) / (self.levels - 1)
        for some in edges.split(16):  # all edges at once, or saved for backward, would take 256 times the memory
            of_these = functools.partial(mass_above, some, center, precision)
            total = total + (of_these() if transformed() else checkpoint(of_these, use_reentrant=False))
        return (total / (self.levels - 1)).to(mean.dtype)


class DiscretizedLogistic(_OnGrid, FusedLikelihood):
    """x in [0, 1] on a grid, such as 8-bit images, from (mean, log_scale). p(x|z) is the mass of a logistic distribution in
    the bin around x (Kingma et al. 2016, Salimans et al. 2017). The outer bins extend to infinity.

    Args:
        levels: number of points of the grid 0, 1 / (levels - 1), ..., 1.
        target_scale: see `Likelihood`; 1 / 255 for uint8 images.

    Example:
        >>> one = torch.zeros(1, 1)
        >>> DiscretizedLogistic(levels=2).log_prob((one + 0.5, one), one)  # half the mass is in each bin
        tensor([-0.6931])
    """

    term, parameters_expected = "discretized_logistic", ("mean", "log_scale")

    def operands(self, recon_x: Any, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        mean, log_scale = self.split(recon_x)
        mean, x = _checks.prediction(self.name, "mean", mean, x, counts=True)
        return mean, x, log_scale, _checks.parameter(self.name, "half_width", self.half_width, "mean", mean)

    def mean(self, recon_x: Any) -> Tensor:
        """E[x|z], the sum over the grid of each point times its mass."""
        return self._grid_mean(*torch.broadcast_tensors(*self.split(recon_x)))

    def sample(self, recon_x: Any, *, generator: torch.Generator | None = None) -> Tensor:
        mean, log_scale = torch.broadcast_tensors(*self.split(recon_x))
        u = torch.rand(mean.shape, generator=generator, device=mean.device, dtype=torch.float64).clamp(min=1e-16)
        drawn = self._on_grid(mean.double() + log_scale.double().exp() * torch.logit(u))
        return drawn.to(torch.promote_types(mean.dtype, torch.float32))


class DiscretizedLogisticMixture(_OnGrid, CompositeLikelihood):
    """A mixture of M discretized logistics for each element, from (logits, mean, log_scale). Each has shape (B, M, D) for x
    of shape (B, D): the components come after the batch (Salimans et al. 2017, without the coupling of color channels).

    Example:
        >>> parameters = tuple(torch.randn(3, 2, 5, 4, 4) * s for s in (1.0, 0.5, 1.0))
        >>> DiscretizedLogisticMixture().log_prob(parameters, torch.rand(3, 2, 4, 4), batch_dims=2).shape
        torch.Size([3, 2])
    """

    parameters_expected = ("logits", "mean", "log_scale")
    mixture = True

    def element(self, parameters: Sequence[Tensor], x: Tensor) -> Tensor:
        logits, mean, log_scale = parameters  # the last dimension is the components
        half = mean.new_tensor(self.half_width)
        return (logits.log_softmax(-1) + discretized_logistic(mean, x[..., None], log_scale, half)).logsumexp(-1)

    def mean(self, recon_x: Any) -> Tensor:
        logits, mean, log_scale = self.split(recon_x)
        return (logits.softmax(1) * self._grid_mean(mean, log_scale)).sum(1)

    def sample(self, recon_x: Any, *, generator: torch.Generator | None = None) -> Tensor:
        logits, mean, log_scale = (t.movedim(1, -1) for t in self.split(recon_x))
        flat = logits.softmax(-1).flatten(0, -2)
        which = torch.multinomial(flat, 1, generator=generator).view(*logits.shape[:-1], 1)
        chosen = mean.gather(-1, which)[..., 0], log_scale.gather(-1, which)[..., 0]
        return DiscretizedLogistic(self.levels).sample(chosen, generator=generator)
