"""The stateless functions of vaefast. Results are in nats, and every likelihood includes its normalizing constant.

Shapes: the first `batch_dims` dimensions of a tensor are the batch, written B. The others are written D, and each sample's
sum runs over them. `reduction` is "none" for one number per sample (B), "sum" for the sum of everything, "mean" for the
mean over samples of the per-sample sums (never over D), and "elementwise" for no sum at all.

Dtypes: a call computes and returns float64 if an operand other than the data x is float64, else float32. Samples z have the
dtype of mu.

Errors: TypeError is raised for a wrong type or dtype, ValueError for a wrong shape, device or range, NotImplementedError
for a layout that is not supported. The values in a tensor are not checked. NaN and infinities propagate as in IEEE
arithmetic, and a difference that overflows counts as infinite.
"""

from .bounds import ELBO, PIWAEBounds, ciwae_bound, elbo, iwae_bound, miwae_bound, piwae_bounds, renyi_bound
from .diagnostics import KLParts, active_units, kl_decomposition
from .kl import balanced_kl, gaussian_kl, hierarchical_kl
from .log_likelihood import (
    bernoulli_log_likelihood,
    bernoulli_probs_log_likelihood,
    gaussian_log_likelihood,
    gaussian_log_prob,
    linear_bernoulli_log_likelihood,
)
from .penalties import capacity_kl, dip_penalty, free_bits_kl
from .sampling import logvar_from_log_scale, logvar_from_scale, logvar_from_softplus, reparameterize, rsample_kl
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
    "dip_penalty",
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
    "logvar_from_log_scale",
    "logvar_from_scale",
    "logvar_from_softplus",
    "miwae_bound",
    "piwae_bounds",
    "renyi_bound",
    "reparameterize",
    "rsample_kl",
]
