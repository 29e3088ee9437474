"""The stateless functions of vaefast. Everything is in nats; every likelihood includes its normalizing constant.

Shapes: the first `batch_dims` dimensions of a tensor are the batch, written B below; the others, written D, are the event
that a sample's sum runs over. `reduction` is "none" for one number per sample (B), "sum" for everything summed, "mean"
for the mean over samples of those per-sample sums (never over D), and "elementwise" for no sum at all.

A call computes, sums and answers in float64 if one of its operands other than the data x is float64, else in float32;
samples z have the dtype of mu. Values are not checked: NaN and infinities propagate as IEEE arithmetic has it, and a
difference that overflows counts as infinite. TypeError, ValueError and NotImplementedError name what is wrong with
an argument's type, its shape or range, and its layout.
"""

from . import diagnostics, kl, linear, objectives, scales, terms
from .diagnostics import *  # noqa: F403
from .kl import *  # noqa: F403
from .linear import *  # noqa: F403
from .objectives import *  # noqa: F403
from .scales import *  # noqa: F403
from .terms import *  # noqa: F403

__all__ = sorted(
    [*diagnostics.__all__, *kl.__all__, *linear.__all__, *objectives.__all__, *scales.__all__, *terms.__all__]
)
