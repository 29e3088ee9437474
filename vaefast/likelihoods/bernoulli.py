"""Bernoulli and continuous Bernoulli: data in [0, 1]."""

import torch
from torch import Tensor

from .. import _checks
from .base import FusedLikelihood, Likelihood


class Bernoulli(FusedLikelihood):
    """Binary x in {0, 1}, from logits. For x in (0, 1) the result is the cross entropy, which is not a normalized density.

    Args:
        probs: the decoder returns probabilities instead of logits (it ends in a sigmoid).
        target_scale: see `Likelihood`.

    Example:
        >>> Bernoulli().log_prob(torch.zeros(1, 2), torch.ones(1, 2))
        tensor([-1.3863])
    """

    numbers = ()
    defaults = {"probs": False, **Likelihood.defaults}

    def __init__(self, probs: bool = False, target_scale: float = 1.0) -> None:
        super().__init__(target_scale)
        self.probs = _checks.flag(self.name, "probs", probs)
        self.support = (0.0, 1.0)
        self.term = "bernoulli_probs" if probs else "bernoulli"

    def operands(self, recon_x: Tensor, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return _checks.prediction(self.name, "recon_x", recon_x, x)

    def mean(self, recon_x: Tensor) -> Tensor:
        _checks.tensor(self.name, "recon_x", recon_x)
        return recon_x if self.probs else torch.sigmoid(recon_x)

    def sample(self, recon_x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return torch.bernoulli(self.mean(recon_x), generator=generator)


class ContinuousBernoulli(FusedLikelihood):
    """x in [0, 1] with a normalized density, from logits l (Loaiza-Ganem and Cunningham 2019). It is the log-likelihood of
    the Bernoulli plus log C(l), where C(l) = l / tanh(l / 2).

    Args:
        target_scale: see `Likelihood`.

    Example:
        >>> ContinuousBernoulli().log_prob(torch.tensor([[5.0]]), torch.ones(1, 1))
        tensor([1.6162])
    """

    term = "continuous_bernoulli"
    numbers = ()
    support = (0.0, 1.0)

    def operands(self, recon_x: Tensor, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return _checks.prediction(self.name, "recon_x", recon_x, x)

    def mean(self, recon_x: Tensor) -> Tensor:
        """E[x|z] = 1 / (1 - exp(-l)) - 1 / l, and 1/2 at l = 0."""
        _checks.tensor(self.name, "recon_x", recon_x)
        logits = recon_x.to(torch.promote_types(recon_x.dtype, torch.float32))
        near = logits.abs() < 0.1
        far = torch.where(near, 1.0, logits)
        square = logits.square()
        series = 0.5 + logits * (1 / 12 - square * (1 / 720 - square * (1 / 30240 - square / 1209600)))
        return torch.where(near, series, -1 / torch.expm1(-far) - 1 / far).to(recon_x.dtype)

    def sample(self, recon_x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """One draw by the inverse of the distribution function, log(1 + u (exp(l) - 1)) / l for u uniform in [0, 1)."""
        _checks.tensor(self.name, "recon_x", recon_x)
        u = torch.rand(recon_x.shape, generator=generator, device=recon_x.device, dtype=torch.float64)
        logits = recon_x.double()
        size = torch.where(logits == 0, 1.0, logits.abs())
        x = 1 + torch.log1p((1 - u) * torch.expm1(-size)) / size  # for the logit |l|
        x = torch.where(logits < 0, 1 - x, x)
        return torch.where(logits == 0, u, x).clamp(0, 1).to(recon_x.dtype)
