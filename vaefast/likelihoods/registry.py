"""The likelihoods by name."""

import difflib
from collections.abc import Callable
from typing import Any

import torch

from .base import Likelihood

# What `by_name` knows. The package's __init__ fills it, beside the imports of the classes.
NAMED: dict[str, Callable[..., Likelihood]] = {}

# What people write elsewhere, and what to write here.
_ANSWERS = {
    "bce binary_cross_entropy binary_crossentropy bceloss bce_loss": (
        '"bernoulli_probs" here, if the decoder ends in a sigmoid, or "bernoulli", if it returns logits'
    ),
    "bce_with_logits bcewithlogits bcewithlogitsloss binary_cross_entropy_with_logits logits bernoulli_logits bce_logits": (
        '"bernoulli" here, for a decoder that returns logits'
    ),
    "sigmoid probs probabilities bernoulli_sigmoid": '"bernoulli_probs" here, for a decoder that ends in a sigmoid',
    "l2 l2_loss mean_squared_error mse_loss mseloss squared_error": (
        '"mse" here, for the squared error itself, or "gaussian", for the log-density, which has half of it'
    ),
    "mae l1_loss l1loss mean_absolute_error absolute_error": (
        '"l1" here, for the absolute error itself, or "laplace", for the log-density'
    ),
    "normal gauss gaussian_nll gaussian_nll_loss gaussiannllloss gaussian_diag diagonal_gaussian": (
        '"gaussian" here, for a decoder that returns the mean or a pair (mean, logvar)'
    ),
    "laplacian": '"laplace" here',
    "cross_entropy crossentropy crossentropyloss cross_entropy_loss categorical_crossentropy "
    "sparse_categorical_crossentropy ce nll nll_loss nllloss softmax": (
        '"categorical" here, for logits of shape (B, C, T), or vaefast.likelihoods.Categorical(class_dim=-1), for '
        '(B, T, C); for counts of D items, "multinomial"'
    ),
    "nb": '"negative_binomial" here, for a decoder that returns (log_mean, log_theta)',
    "zinb": '"zero_inflated_negative_binomial" here, for a decoder that returns (log_mean, log_theta, gate)',
    "poisson_nll poisson_nll_loss poissonnllloss": '"poisson" here, for a decoder that returns log-rates',
    "student student_t students_t studentt t t_distribution": (
        "an object here, vaefast.likelihoods.StudentT(df=...), because it needs its degrees of freedom"
    ),
    "lognormal log-normal": '"log_normal" here, for a decoder that returns the mean of log x',
    "cb": '"continuous_bernoulli" here',
    "logistic dlogistic discretised_logistic": '"discretized_logistic" here, for a decoder that returns (mean, log_scale)',
}


def _unknown(name: str) -> str:
    """What the error says of an unknown name, in one sentence."""
    known = ", ".join(map(repr, NAMED))
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    for habits, answer in _ANSWERS.items():
        if plain in habits.split():
            return f'vaefast: likelihood "{name}" is {answer}; the names are {known}'
    near = difflib.get_close_matches(plain, NAMED, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return f"vaefast: likelihood must be one of {known}, got {name!r}{meant}"


def by_name(likelihood: str | Likelihood, *, target_scale: float = 1.0) -> Any:
    """Returns the likelihood with this name. An object is returned as it is.

    Args:
        likelihood: a name of vaefast.likelihoods.NAMES, or an object with log_prob.
        target_scale: see `Likelihood`; only for names, because an object has its own.

    Raises:
        TypeError: likelihood is a class, a torch.distributions object, or has no log_prob.
        ValueError: the name is unknown, or target_scale is given beside an object. The message answers common names of
            other libraries, such as "bce".

    Example:
        >>> by_name("gaussian")
        Gaussian()
    """
    if not isinstance(likelihood, str):
        if isinstance(likelihood, type):
            raise TypeError(f"vaefast: likelihood must be an object, {likelihood.__name__}(), not the class")
        if not hasattr(likelihood, "log_prob"):
            said = f"vaefast: likelihood must be a name or have log_prob, got {type(likelihood).__name__}"
            raise TypeError(said + "; its names include 'bernoulli', 'gaussian', 'mse' and 'l1'")
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
        raise ValueError(_unknown(likelihood))
    return NAMED[likelihood](target_scale=target_scale)
