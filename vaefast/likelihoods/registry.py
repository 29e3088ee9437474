"""The likelihoods by name."""

from collections.abc import Callable
from typing import Any

import torch

from .base import Likelihood
from .bernoulli import Bernoulli, ContinuousBernoulli
from .counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from .location_scale import Gaussian, Laplace
from .logistic import DiscretizedLogistic

_NAMED: dict[str, Callable[..., Likelihood]] = {
    "bernoulli": Bernoulli,
    "bernoulli_probs": lambda **options: Bernoulli(probs=True, **options),
    "gaussian": Gaussian,
    "laplace": Laplace,
    "continuous_bernoulli": ContinuousBernoulli,
    "discretized_logistic": DiscretizedLogistic,
    "poisson": Poisson,
    "negative_binomial": NegativeBinomial,
    "zero_inflated_negative_binomial": ZeroInflatedNegativeBinomial,
}
NAMES = tuple(_NAMED)


def by_name(likelihood: str | Likelihood, *, target_scale: float = 1.0) -> Any:
    """Returns the likelihood with this name. An object is returned as it is.

    Args:
        likelihood: a name of vaefast.likelihoods.NAMES, or an object with log_prob.
        target_scale: see `Likelihood`; only for names, because an object has its own.

    Raises:
        TypeError: likelihood is a class, a torch.distributions object, or has no log_prob.
        ValueError: the name is unknown, or target_scale is given beside an object.

    Example:
        >>> by_name("gaussian")
        Gaussian()
    """
    if not isinstance(likelihood, str):
        if isinstance(likelihood, type):
            raise TypeError(f"vaefast: likelihood must be an object, {likelihood.__name__}(), not the class")
        if not hasattr(likelihood, "log_prob"):
            raise TypeError(f"vaefast: likelihood must be a name or have log_prob, got {type(likelihood).__name__}")
        if isinstance(likelihood, torch.distributions.Distribution):
            raise TypeError(
                "vaefast: likelihood must take the decoder's output with each call, as vaefast.likelihoods.Gaussian() "
                f"does; torch.distributions.{type(likelihood).__name__} has its parameters already"
            )
        if target_scale != 1.0:
            raise ValueError("vaefast: give target_scale to the likelihood object")
        return likelihood
    if likelihood not in _NAMED:
        raise ValueError(f"vaefast: likelihood must be one of {', '.join(map(repr, _NAMED))}, got {likelihood!r}")
    return _NAMED[likelihood](target_scale=target_scale)
