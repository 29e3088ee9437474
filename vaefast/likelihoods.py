"""p(x|z) as small modules. A likelihood knows the meaning of a decoder's output: its log-probability of data, its mean and
a sample. Where one term of the kernels computes it, `term` and `operands` let ELBOLoss fuse it with the KL."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from . import _checks, autograd

__all__ = ["Bernoulli", "Gaussian", "Likelihood", "by_name"]


class Likelihood(nn.Module):
    """What ELBOLoss and VAE ask of a likelihood.

    Args:
        target_scale: what x is multiplied by; 1 / 255 reads uint8 images as they are.
    """

    term: str  # of the kernels' list
    direct = False  # whether its operands are (recon_x, x) as they come

    def __init__(self, target_scale: float = 1.0) -> None:
        super().__init__()
        _checks.number(f"vaefast.likelihoods.{type(self).__name__}", "target_scale", target_scale)
        self.target_scale = float(target_scale)

    def operands(self, recon_x: Any, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """The operands of `term`, checked; a mask says which elements a scale may be estimated from."""
        raise NotImplementedError

    def log_prob(
        self, recon_x: Any, x: Tensor, *, mask: Tensor | None = None, batch_dims: int = 1, reduction: str = "none"
    ) -> Tensor:
        """log p(x) of shape (B,) in nats, for the decoder's output `recon_x`."""
        name = f"vaefast.likelihoods.{type(self).__name__}"
        operands = self.operands(recon_x, x, mask)
        _checks.reduction(name, reduction, (*_checks.REDUCTIONS, "elementwise"))
        batch_dims = _checks.batch_dims(name, batch_dims, "x", x)
        mask = _checks.mask(name, mask, "x", x)
        return autograd.row_sum(self.term, operands, mask, reduction, batch_dims, self.target_scale)

    def mean(self, recon_x: Any) -> Tensor:
        """E[x], on the scale that x has after target_scale."""
        raise NotImplementedError

    def sample(self, recon_x: Any, *, generator: torch.Generator | None = None) -> Tensor:
        """One draw of x, on the scale that x has after target_scale."""
        raise NotImplementedError


class Bernoulli(Likelihood):
    """x in {0, 1}, or [0, 1] as cross entropy, from logits.

    Args:
        probs: the decoder returns probabilities (it ends in a sigmoid).
        target_scale: see `Likelihood`.

    Example:
        >>> Bernoulli().log_prob(torch.zeros(1, 2), torch.ones(1, 2))
        tensor([-1.3863])
    """

    def __init__(self, probs: bool = False, target_scale: float = 1.0) -> None:
        super().__init__(target_scale)
        self.probs = probs
        self.direct = type(self) is Bernoulli
        self.term = "bernoulli_probs" if probs else "bernoulli"

    def operands(self, recon_x: Tensor, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return _checks.prediction("vaefast.likelihoods.Bernoulli", "recon_x", recon_x, x)

    def mean(self, recon_x: Tensor) -> Tensor:
        return recon_x if self.probs else torch.sigmoid(recon_x)

    def sample(self, recon_x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return torch.bernoulli(self.mean(recon_x), generator=generator)


class Gaussian(Likelihood):
    """Real x with independent normal errors. A decoder that returns a pair (mean, logvar) is heteroscedastic and needs
    none of the options.

    Args:
        scale: the fixed standard deviation.
        learn_scale: one learned standard deviation, starting at `scale`: the parameter `logvar` (sigma-VAE, Rybkin et
            al. 2021). Give it to the optimizer.
        optimal_scale: the standard deviation that maximizes the batch's likelihood, the root mean square error.
        target_scale: see `Likelihood`.

    Example:
        >>> Gaussian(scale=0.5).log_prob(torch.zeros(1, 1), torch.ones(1, 1))
        tensor([-2.2258])
    """

    term = "gaussian"

    def __init__(
        self,
        scale: float = 1.0,
        learn_scale: bool = False,
        optimal_scale: bool = False,
        target_scale: float = 1.0,
    ) -> None:
        super().__init__(target_scale)
        name = "vaefast.likelihoods.Gaussian"
        _checks.number(name, "scale", scale, minimum=0.0)
        if scale == 0:
            raise ValueError(f"{name}: scale must be positive, got {scale}")
        if learn_scale and optimal_scale:
            raise ValueError(f"{name}: learn_scale and optimal_scale exclude each other")
        self.optimal_scale = optimal_scale
        self.logvar: nn.Parameter | float = 2 * math.log(scale)
        if learn_scale:
            del self.logvar
            self.logvar = nn.Parameter(torch.tensor(2 * math.log(scale)))

    def operands(
        self, recon_x: Tensor | tuple[Tensor, Tensor], x: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        name = "vaefast.likelihoods.Gaussian"
        mean, own = self._split(recon_x)
        mean, x = _checks.prediction(name, "recon_x", mean, x)
        logvar: Tensor | float = self.logvar if own is None else own
        if own is None and self.optimal_scale:
            error = x.to(torch.promote_types(mean.dtype, torch.float32)) * self.target_scale - mean
            mask = _checks.mask(name, mask, "x", x)
            if mask is not None:
                kept = mask.expand(x.shape)
                logvar = (torch.where(kept, error, 0.0).square().sum() / kept.sum()).log()
            else:
                logvar = error.square().mean().log()
        return mean, x, _checks.parameter(name, "logvar", logvar, "recon_x", mean)

    def mean(self, recon_x: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        return self._split(recon_x)[0]

    def sample(self, recon_x: Tensor | tuple[Tensor, Tensor], *, generator: torch.Generator | None = None) -> Tensor:
        mean, own = self._split(recon_x)
        if own is None and self.optimal_scale:
            raise ValueError(
                "vaefast.likelihoods.Gaussian: the optimal scale is known beside data only; sample the mean"
            )
        logvar = torch.as_tensor(self.logvar if own is None else own, dtype=mean.dtype, device=mean.device)
        return autograd.rsample((mean, logvar.expand(mean.shape)), generator=generator)[0]

    @staticmethod
    def _split(recon_x: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor | None]:
        if isinstance(recon_x, (tuple, list)):
            if len(recon_x) != 2:
                raise ValueError(f"vaefast.likelihoods.Gaussian: expected (mean, logvar), got {len(recon_x)} tensors")
            return recon_x[0], recon_x[1]
        return recon_x, None


_NAMED: dict[str, Callable[..., Likelihood]] = {
    "bernoulli": Bernoulli,
    "bernoulli_probs": lambda **options: Bernoulli(probs=True, **options),
    "gaussian": Gaussian,
}


def by_name(likelihood: str | Likelihood, **options: float) -> Any:
    """The likelihood that a name stands for; an object stands for itself.

    Example:
        >>> by_name("gaussian")
        Gaussian()
    """
    if not isinstance(likelihood, str):
        if not hasattr(likelihood, "log_prob"):
            raise TypeError(f"vaefast: likelihood must be a name or have log_prob, got {type(likelihood).__name__}")
        return likelihood
    if likelihood not in _NAMED:
        raise ValueError(f"vaefast: likelihood must be one of {', '.join(map(repr, _NAMED))}, got {likelihood!r}")
    return _NAMED[likelihood](**options)
