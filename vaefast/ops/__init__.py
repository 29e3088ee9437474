"""The operations, as functions of tensors that are already checked. Each runs a fused kernel where one applies, and the
composite elsewhere. The composite is the plain formula of reference.py.

library loads the compiled operators. fake tells torch.compile their shapes. dispatch chooses between kernel and composite.
vjp holds helpers of the backward passes. term, loss, sample and linear are the operations, one per file."""

from . import fake as fake  # registers the fake kernels
from .dispatch import transformed as transformed
from .library import build_info as build_info
from .library import cached_bytes as cached_bytes
from .library import cpu_isa as cpu_isa
from .library import empty_cache as empty_cache
from .library import kl_term as kl_term
from .library import set_cpu_isa as set_cpu_isa
from .linear import linear_row_sum as linear_row_sum
from .loss import LossOptions as LossOptions
from .loss import elbo_loss as elbo_loss
from .loss import fast_elbo_loss as fast_elbo_loss
from .sample import rsample as rsample
from .term import row_sum as row_sum
