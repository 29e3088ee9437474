"""The likelihoods by name."""

from collections.abc import Callable
from typing import Any

import torch

from .base import Likelihood

# What `by_name` knows. The package's __init__ fills it, beside the imports of the classes.
NAMED: dict[str, Callable[..., Likelihood]] = {}


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
            raise ValueError(
                "vaefast: target_scale is for likelihoods given by name; write "
                f"{type(likelihood).__name__}(target_scale={target_scale:g})"
            )
        return likelihood
    if likelihood not in NAMED:
        raise ValueError(f"vaefast: likelihood must be one of {', '.join(map(repr, NAMED))}, got {likelihood!r}")
    return NAMED[likelihood](target_scale=target_scale)
