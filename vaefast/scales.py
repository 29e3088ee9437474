"""Log-variances of encoders that return a scale in another form. Public as part of vaefast.functional."""

import torch
from torch import Tensor
from torch.nn import functional as F

from . import _checks

__all__ = ["logvar_from_scale", "logvar_from_softplus"]


def logvar_from_scale(scale: Tensor) -> Tensor:
    """log sigma^2 of a standard deviation: 2 log scale, for encoders that return sigma.

    Args:
        scale: positive, any shape.

    Example:
        >>> logvar_from_scale(torch.tensor([1.0, 2.0]))
        tensor([0.0000, 1.3863])
    """
    _checks.tensor("vaefast.functional.logvar_from_scale", "scale", scale)
    return 2 * scale.log()


def logvar_from_softplus(raw: Tensor) -> Tensor:
    """log sigma^2 of sigma = softplus(raw), for encoders that keep sigma positive in this way.

    Finite for every finite `raw`: where exp(raw) is small, log softplus(raw) is raw and a little less.

    Args:
        raw: any shape.

    Example:
        >>> logvar_from_softplus(torch.tensor([-100.0, 0.0, 100.0]))
        tensor([-200.0000,   -0.7330,    9.2103])
    """
    _checks.tensor("vaefast.functional.logvar_from_softplus", "raw", raw)
    wide = raw.to(torch.promote_types(raw.dtype, torch.float32))
    small = wide < -10
    # log1p(e^r) = e^r (1 - e^r / 2 + e^2r / 3 - ...)
    tail = wide.clamp(max=-10).exp()
    near = wide + torch.log1p(tail * (tail / 3 - 0.5))
    softplus = -F.logsigmoid(-wide.clamp(min=-10))
    return (2 * torch.where(small, near, torch.log(softplus))).to(raw.dtype)
