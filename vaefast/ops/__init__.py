"""The operators as functions of tensors that are known to fit together: each runs a fused kernel where that is right, and
the plain formula of reference.py elsewhere.

library loads the compiled operators, fake gives them shapes for torch.compile, dispatch decides between kernel and formula,
vjp holds what the backward passes share. term, loss, sample and linear are the operations, one to a file."""

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
