"""The operations, as functions of tensors that are already checked. Each runs a fused kernel where one applies, and the
composite elsewhere. The composite is the plain formula of vaefast/reference.

library loads the compiled operators. fake tells torch.compile their shapes. dispatch chooses between kernel and composite.
vjp holds helpers of the backward passes. term, loss, sample, labels, shares and linear are the operations, one per file."""

from . import fake  # registers the fake kernels
from .dispatch import transformed
from .labels import cross_entropy
from .library import build_info, cpu_isa, empty_cache, fast_elbo_loss
from .linear import linear_row_sum
from .loss import LossOptions, elbo_loss
from .sample import rsample
from .shares import poisson_of_shares
from .term import row_sum

__all__ = [
    "LossOptions",
    "build_info",
    "cpu_isa",
    "cross_entropy",
    "elbo_loss",
    "empty_cache",
    "fake",
    "fast_elbo_loss",
    "linear_row_sum",
    "poisson_of_shares",
    "row_sum",
    "rsample",
    "transformed",
]
