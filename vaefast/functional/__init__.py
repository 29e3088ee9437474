"""The stateless functions of vaefast. Everything is in nats; every likelihood includes its normalizing constant.

Shapes: the first `batch_dims` dimensions of a tensor are the batch, written B below; the others, written D, are the event
that a sample's sum runs over. `reduction` is "none" for one number per sample (B), "sum" for everything summed, "mean"
for the mean over samples of those per-sample sums (never over D), and "elementwise" for no sum at all.

A call computes, sums and answers in float64 if one of its operands other than the data x is float64, else in float32;
samples z have the dtype of mu. Values are not checked: NaN and infinities propagate as IEEE arithmetic has it, and a
difference that overflows counts as infinite. TypeError, ValueError and NotImplementedError name what is wrong with
an argument's type, its shape or range, and its layout.
"""

from .bounds import ELBO, PIWAEBounds, ciwae_bound, elbo, iwae_bound, miwae_bound, piwae_bounds, renyi_bound
from .diagnostics import KLParts, active_units, kl_decomposition
from .kl import balanced_kl, capacity_kl, free_bits_kl, gaussian_kl, hierarchical_kl
from .log_likelihood import (
    bernoulli_log_likelihood,
    bernoulli_probs_log_likelihood,
    gaussian_log_likelihood,
    gaussian_log_prob,
    linear_bernoulli_log_likelihood,
)
from .sampling import logvar_from_scale, logvar_from_softplus, reparameterize, rsample_kl
from .weights import effective_sample_size, log_weights

__all__ = [
    "ELBO",
    "KLParts",
    "PIWAEBounds",
    "active_units",
    "balanced_kl",
    "bernoulli_log_likelihood",
    "bernoulli_probs_log_likelihood",
    "capacity_kl",
    "ciwae_bound",
    "effective_sample_size",
    "elbo",
    "free_bits_kl",
    "gaussian_kl",
    "gaussian_log_likelihood",
    "gaussian_log_prob",
    "hierarchical_kl",
    "iwae_bound",
    "kl_decomposition",
    "linear_bernoulli_log_likelihood",
    "log_weights",
    "logvar_from_scale",
    "logvar_from_softplus",
    "miwae_bound",
    "piwae_bounds",
    "renyi_bound",
    "reparameterize",
    "rsample_kl",
]
