"""The multinomial likelihood of counts that share a total."""

import math
from typing import Any

import torch
from torch import Tensor

from .. import _checks
from ..ops import poisson_of_shares, row_sum
from ..reference import reduced
from .base import CompositeLikelihood, Likelihood

# The logarithm of a total of 0. A rate of exp(-800) is 0, but a finite logarithm makes no inf - inf.
_LOG_OF_0 = -800.0
# Poisson's term bounds a logarithm of -inf by -1e30 or less. So what is below this is -inf.
_LEAST = -1e29


class Multinomial(CompositeLikelihood):
    """Counts x of D items, (B, D), that are n draws from one distribution over the items, from its logits, (B, D). n is the
    sum of x. The items are all elements after the batch, whatever their dimensions.

    The log-probability is log n! - sum_d log x_d! + sum_d x_d log softmax(logits)_d, with its coefficient, which has no
    gradient by the logits. Recommenders (Mult-VAE, Liang et al. 2018) and topic models (Miao et al. 2016) have this
    likelihood, often without the coefficient. It is computed as sum_d log Poisson(x_d; n softmax(logits)_d) -
    log Poisson(n; n): independent Poisson counts, given their sum, are multinomial.

    x may be of any integer or floating type. A negative count, or one of an item of probability 0, has the value -inf and
    gradients of 0. Without counts the value is 0. A masked item is left out of the distribution: what remains is the
    multinomial of the other items, given their sum.

    Args:
        total_count: n, at least 1, for `mean` and `sample`. `log_prob` takes n from x.
        target_scale: see `Likelihood`.

    Raises:
        ValueError: recon_x has no dimensions after the batch, x has another shape, or reduction is "elementwise": the
            elements are not independent.

    Example:
        >>> Multinomial().log_prob(torch.zeros(1, 2), torch.tensor([[1, 2]]))  # 3 of 8
        tensor([-0.9808])
    """

    parameters_expected = ("logits",)
    support, integral = (0.0, math.inf), True
    defaults = {"total_count": 1, **Likelihood.defaults}

    def __init__(self, total_count: int = 1, target_scale: float = 1.0) -> None:
        super().__init__(target_scale)
        self.total_count = _checks.integer(f"{self.name}: total_count", total_count, 1)

    def log_prob(
        self, recon_x: Any, x: Tensor, *, mask: Tensor | None = None, batch_dims: int = 1, reduction: str = "none"
    ) -> Tensor:
        (logits,) = self.split(recon_x)
        logits, x = _checks.prediction(self.name, "logits", logits, x, counts=True)
        if reduction == "elementwise":
            raise ValueError(
                f"{self.name}: reduction must not be 'elementwise', because the elements of one sample are not independent"
            )
        _checks.reduction(self.name, reduction)
        batch_dims = _checks.batch_dims(self.name, batch_dims, "x", x)
        mask = _checks.mask(self.name, mask, "x", x)
        logits = self._items(logits, batch_dims)
        if mask is not None:  # replaced before the formula, so that a masked NaN reaches neither value nor gradient
            hidden = (~mask).expand(x.shape)
            nothing = hidden.flatten(batch_dims).all(-1).view(*x.shape[:batch_dims], *(1,) * (x.dim() - batch_dims))
            logits = logits.masked_fill(hidden, -math.inf).masked_fill(nothing, 0.0)
            x = x.masked_fill(hidden, 0)
        logits, x = logits.flatten(batch_dims), x.flatten(batch_dims)
        total = (x.sum(-1, dtype=logits.dtype) * self.target_scale).clamp(0, 1e30)
        some = total != 0  # or NaN
        log_total = torch.where(some, torch.where(some, total, 1.0).log(), _LOG_OF_0)
        value = poisson_of_shares(logits, x, log_total, self.target_scale)
        value = value - row_sum("poisson", (log_total, total), None, "elementwise", batch_dims)
        return reduced(value.masked_fill(value < _LEAST, -math.inf), reduction, batch_dims)

    def _items(self, logits: Tensor, batch_dims: int = 1) -> Tensor:
        """The logits, wide, if there are dimensions of items."""
        if logits.dim() <= batch_dims:
            got = f"got shape {tuple(logits.shape)} with batch_dims={batch_dims}"
            raise ValueError(f"{self.name}: recon_x must have dimensions after the batch, {got}")
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def mean(self, recon_x: Any) -> Tensor:
        """total_count times the probabilities of the items, in the shape of the logits; by default, these themselves."""
        (logits,) = self.split(recon_x)
        shares = self._items(logits).flatten(1).softmax(-1).view(logits.shape)
        return (self.total_count * shares).to(logits.dtype)

    def sample(self, recon_x: Any, *, generator: torch.Generator | None = None) -> Tensor:
        """The counts of total_count draws."""
        (logits,) = self.split(recon_x)
        shares = self._items(logits).flatten(1).softmax(-1)
        drawn = torch.multinomial(shares, self.total_count, replacement=True, generator=generator)
        ones = torch.ones((), dtype=shares.dtype, device=shares.device).expand(drawn.shape)
        return torch.zeros_like(shares).scatter_add(1, drawn, ones).view(logits.shape)
