"""Likelihoods of discrete data, computed in plain torch. Public as part of vaefast.likelihoods; in nats."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from . import _checks
from ._likelihood import Likelihood
from ._paths import transformed

__all__ = [
    "Categorical",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "NegativeBinomial",
    "Poisson",
    "ZeroInflatedNegativeBinomial",
]


_INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64)


class CompositeLikelihood(Likelihood):
    """A likelihood of independent elements whose log-probability is plain torch.

    Subclasses say how many tensors a decoder returns and give `element`. Arithmetic is in `compute`, or in float64 where a
    parameter is; results are float32, or float64.
    """

    parameters_expected: tuple[str, ...]
    compute = torch.float32

    def element(self, parameters: Sequence[Tensor], x: Tensor) -> Tensor:
        """log p of each element of x."""
        raise NotImplementedError

    def split(self, recon_x: Any) -> tuple[Tensor, ...]:
        """The decoder's output as so many tensors, checked; the first gives the shape, the others broadcast to it."""
        expected = self.parameters_expected
        given = tuple(recon_x) if isinstance(recon_x, (tuple, list)) else (recon_x,)
        if len(given) != len(expected):
            raise ValueError(f"{self.name}: recon_x must be ({', '.join(expected)}), got {len(given)} tensors")
        for name, value in zip(expected, given, strict=True):
            _checks.tensor(self.name, name, value)
        others = (
            _checks.broadcast(self.name, n, v, expected[0], given[0])
            for n, v in zip(expected[1:], given[1:], strict=True)
        )
        return given[0], *(each.expand(given[0].shape) for each in others)

    def log_prob(
        self, recon_x: Any, x: Tensor, *, mask: Tensor | None = None, batch_dims: int = 1, reduction: str = "none"
    ) -> Tensor:
        parameters = self.split(recon_x)
        if isinstance(x, Tensor) and x.dtype in _INTEGERS:
            x = x.double()  # counts and labels
        _checks.tensor(self.name, "x", x, target=True)
        first = parameters[0]
        _checks.same_device(self.name, "x", x, self.parameters_expected[0], first)
        _checks.reduction(self.name, reduction, (*_checks.REDUCTIONS, "elementwise"))
        batch_dims = _checks.batch_dims(self.name, batch_dims, "x", x)
        shape = tuple(first.shape)
        if self.mixture:
            shape = (*shape[:batch_dims], *shape[batch_dims + 1 :]) if first.dim() > batch_dims else (-1,)
        if x.shape != torch.Size(shape):
            raise ValueError(f"{self.name}: recon_x is for data of shape {tuple(shape)}, got {tuple(x.shape)}")
        mask = _checks.mask(self.name, mask, "x", x)
        wide = torch.promote_types(first.dtype, torch.float32)
        compute = torch.promote_types(wide, self.compute)
        parameters = tuple(t.to(compute) for t in parameters)
        x = x.to(compute) * self.target_scale
        if mask is not None:  # replaced before the formula, so that a masked NaN reaches neither value nor gradient
            mask = mask.expand(x.shape)
            kept = mask.unsqueeze(batch_dims) if self.mixture else mask
            parameters = tuple(torch.where(kept, t, 0.0) for t in parameters)
            x = torch.where(mask, x, 0.0)
        if self.mixture:
            parameters = tuple(t.movedim(batch_dims, -1) for t in parameters)
        value = self.element(parameters, x)
        if mask is not None:
            value = torch.where(mask, value, 0.0)
        if reduction != "elementwise":
            value = value.flatten(batch_dims).sum(-1) if value.dim() > batch_dims else value
            if reduction != "none":
                value = value.sum() if reduction == "sum" else value.mean()
        return value.to(wide)


def _draw_counts(rate: Tensor, dtype: torch.dtype, generator: torch.Generator | None) -> Tensor:
    """Poisson's draws, in a type that has whole numbers of the usual sizes; a rate of no int64 is none of torch.poisson."""
    drawn = torch.poisson(rate.double().clamp(max=2.0**62), generator=generator)
    return drawn.to(torch.promote_types(dtype, torch.float32))


class Poisson(CompositeLikelihood):
    """Counts, from the logarithm of their rate: x log_rate - exp(log_rate) - log x!.

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
    """log Gamma(y) - ((y - 1/2) log y - y + log(2 pi) / 2), to float64's last digit for y >= 100."""
    w = 1 / (y * y)
    return (1 / 12 - w * (1 / 360 - w * (1 / 1260 - w / 1680))) / y


def _negative_binomial(log_mean: Tensor, log_count: Tensor, x: Tensor) -> Tensor:
    log_count = log_count.clamp(-300, 300)  # there r and 1 / r are finite, and the distribution is already its limit
    large = log_count > 5
    # log Gamma(x + r) - log Gamma(r) and what follows it, as they stand
    some = torch.where(large, 0.0, log_count)
    r, logits = some.exp(), log_mean - some
    successes = torch.where(x == 0, 0.0, x * F.logsigmoid(logits))
    plain = torch.lgamma(x + r) - torch.lgamma(r) + r * F.logsigmoid(-logits) + successes
    # For large r these are large numbers with a small sum. With Stirling's formula for log Gamma the large part, x log r,
    # cancels in the formula and is never computed. The limit is Poisson's x log m - m.
    many = torch.where(large, log_count, 10.0)
    r, mean_by_r = many.exp(), (torch.where(large, log_mean, 0.0) - many).exp()
    gamma = (r + x - 0.5) * torch.log1p(x / r) - x + (_stirling(r + x) - _stirling(r))
    limit = gamma + torch.where(x == 0, 0.0, x * log_mean) - (r + x) * torch.log1p(mean_by_r)
    return torch.where(large, limit, plain) - torch.lgamma(x + 1)


class NegativeBinomial(CompositeLikelihood):
    """Overdispersed counts, from (log_mean, log_count): mean m and inverse dispersion r, the variance being m + m^2 / r. r
    may be one for all samples, its logarithm of shape (D,).

    log Gamma(x + r) / (Gamma(r) x!) + r log(r / (r + m)) + x log(m / (r + m)), in float64 inside, because for large r it is
    a small difference of large numbers.

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
        log_count = log_count.clamp(-300, 300)  # as in its density
        scale = (log_mean - log_count).clamp(max=700).exp()  # finite, for it may be multiplied by 0
        rate = torch._standard_gamma(log_count.exp(), generator=generator) * scale
        return _draw_counts(rate, self.split(recon_x)[0].dtype, generator)


class ZeroInflatedNegativeBinomial(CompositeLikelihood):
    """Counts that are 0 more often than a negative binomial's, from (log_mean, log_count, gate): with probability
    sigmoid(gate) a 0, else NegativeBinomial(log_mean, log_count).

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


def _logistic_bin(mean: Tensor, log_scale: Tensor, x: Tensor, levels: int) -> Tensor:
    """log of a logistic's mass in the bin of width 1 / (levels - 1) around x; the first and the last are open."""
    log_scale = log_scale.clamp(min=-80)  # beyond, 1 / scale is no float
    half, precision = 0.5 / (levels - 1), torch.exp(-log_scale)
    low, high = (x - mean - half) * precision, (x - mean + half) * precision
    # sigmoid(high) - sigmoid(low) = sigmoid(high) sigmoid(-low) (1 - exp(low - high)), in which nothing cancels
    y = 2 * half * precision
    narrow = y < 1e-4
    far = torch.log(-torch.expm1(-torch.where(narrow, 1.0, y)))
    width = torch.where(narrow, math.log(2 * half) - log_scale - y / 2, far)
    first, last = x <= half, x >= 1 - half
    inside = ~(first | last)
    return (
        torch.where(last, 0.0, F.logsigmoid(high))
        + torch.where(first, 0.0, F.logsigmoid(-low))
        + torch.where(inside, width, 0.0)
    )


class DiscretizedLogistic(CompositeLikelihood):
    """x in [0, 1] on a grid, such as 8-bit images, from (mean, log_scale): the mass of a logistic distribution in the bin
    around x (Kingma et al. 2016, Salimans et al. 2017); the outer bins are open.

    Args:
        levels: of the grid 0, 1 / (levels - 1), ..., 1.
        target_scale: see `Likelihood`; 1 / 255 for uint8 images.

    Example:
        >>> one = torch.zeros(1, 1)
        >>> DiscretizedLogistic(levels=2).log_prob((one + 0.5, one), one)  # half of it lies on either side
        tensor([-0.6931])
    """

    parameters_expected: tuple[str, ...] = ("mean", "log_scale")
    support = (0.0, 1.0)
    defaults = {"levels": 256, **Likelihood.defaults}

    def __init__(self, levels: int = 256, target_scale: float = 1.0) -> None:
        super().__init__(target_scale)
        self.levels = _checks.integer(f"{self.name}: levels", levels, 2)

    def element(self, parameters: Sequence[Tensor], x: Tensor) -> Tensor:
        mean, log_scale = parameters
        return _logistic_bin(mean, log_scale, x, self.levels)

    def _on_grid(self, x: Tensor) -> Tensor:
        return (x.clamp(0, 1) * (self.levels - 1)).round() / (self.levels - 1)

    def mean(self, recon_x: Any) -> Tensor:
        """E[x], the sum over the grid of its points times their masses."""
        return self._grid_mean(*self.split(recon_x))

    def _grid_mean(self, mean: Tensor, log_scale: Tensor) -> Tensor:
        """The sum over the bins' edges of the mass above each, divided by levels - 1."""
        wide = torch.promote_types(mean.dtype, torch.float32)
        center, precision = mean.to(wide), torch.exp(-log_scale.to(wide).clamp(min=-80))

        def mass_above(edges: Tensor, center: Tensor, precision: Tensor) -> Tensor:
            return torch.sigmoid((center[..., None] - edges) * precision[..., None]).sum(-1)

        total = torch.zeros_like(center)
        edges = (torch.arange(1, self.levels, dtype=wide, device=mean.device) - 0.5) / (self.levels - 1)
        for some in edges.split(16):  # all at once, or kept for the backward pass, would take 256 times the memory
            of_these = functools.partial(mass_above, some, center, precision)
            total = total + (of_these() if transformed() else checkpoint(of_these, use_reentrant=False))
        return (total / (self.levels - 1)).to(mean.dtype)

    def sample(self, recon_x: Any, *, generator: torch.Generator | None = None) -> Tensor:
        mean, log_scale = self.split(recon_x)
        u = torch.rand(mean.shape, generator=generator, device=mean.device, dtype=torch.float64).clamp(min=1e-16)
        drawn = self._on_grid(mean.double() + log_scale.double().exp() * torch.logit(u))
        return drawn.to(torch.promote_types(mean.dtype, torch.float32))


class DiscretizedLogisticMixture(DiscretizedLogistic):
    """A mixture of discretized logistics for each element, from (logits, mean, log_scale), each of shape (B, M, D) for x of
    shape (B, D): M components after the batch's dimensions (Salimans et al. 2017, without the ties between channels).

    Example:
        >>> parameters = tuple(torch.randn(3, 2, 5, 4, 4) * s for s in (1.0, 0.5, 1.0))
        >>> DiscretizedLogisticMixture().log_prob(parameters, torch.rand(3, 2, 4, 4), batch_dims=2).shape
        torch.Size([3, 2])
    """

    parameters_expected = ("logits", "mean", "log_scale")
    mixture = True

    def element(self, parameters: Sequence[Tensor], x: Tensor) -> Tensor:
        logits, mean, log_scale = parameters  # the components last
        return (logits.log_softmax(-1) + _logistic_bin(mean, log_scale, x[..., None], self.levels)).logsumexp(-1)

    def mean(self, recon_x: Any) -> Tensor:
        logits, mean, log_scale = self.split(recon_x)
        return (logits.softmax(1) * self._grid_mean(mean, log_scale)).sum(1)

    def sample(self, recon_x: Any, *, generator: torch.Generator | None = None) -> Tensor:
        logits, mean, log_scale = (t.movedim(1, -1) for t in self.split(recon_x))
        flat = logits.softmax(-1).flatten(0, -2)
        which = torch.multinomial(flat, 1, generator=generator).view(*logits.shape[:-1], 1)
        chosen = mean.gather(-1, which)[..., 0], log_scale.gather(-1, which)[..., 0]
        return DiscretizedLogistic(self.levels).sample(chosen, generator=generator)


class Categorical(CompositeLikelihood):
    """Labels 0 ... C - 1, from logits of shape (B, C, D) for x of shape (B, D): the classes come after the batch's
    dimensions, as in torch.nn.functional.cross_entropy.

    Example:
        >>> Categorical().log_prob(torch.zeros(1, 4, 3), torch.tensor([[0, 3, 2]]))  # 3 log 1/4
        tensor([-4.1589])
    """

    parameters_expected = ("logits",)
    mixture = True
    integral = True

    def element(self, parameters: Sequence[Tensor], x: Tensor) -> Tensor:
        (logits,) = parameters
        known = (x >= 0) & (x < logits.shape[-1]) & (x == x.floor())
        if x.device.type == "cpu" and not torch.compiler.is_compiling() and not transformed() and not known.all():
            raise ValueError(f"{self.name}: x must hold labels, whole numbers from 0 to {logits.shape[-1] - 1}")
        labels = torch.where(known, x, 0).long()  # on a GPU looking at the values would wait for it
        return torch.where(known, logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0], math.nan)

    def mean(self, recon_x: Any) -> Tensor:
        """The probabilities of the classes, of the shape of the logits."""
        return self.split(recon_x)[0].softmax(1)

    def sample(self, recon_x: Any, *, generator: torch.Generator | None = None) -> Tensor:
        """Labels, int64."""
        probs = self.mean(recon_x).movedim(1, -1)
        return torch.multinomial(probs.flatten(0, -2), 1, generator=generator).view(probs.shape[:-1])
