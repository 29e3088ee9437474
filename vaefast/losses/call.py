"""The arguments of one call of ELBOLoss, checked."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _checks
from ..ops import LossOptions


class Call(NamedTuple):
    operands: tuple[Tensor, ...] | None  # of the likelihood's term; None if no term computes it
    latent: tuple[Tensor, ...]  # (mu, logvar) or (mu, logvar, prior_mu, prior_logvar)
    batch: torch.Size
    z: Tensor | None
    options: LossOptions


def checked_call(
    function: str,
    likelihood: Any,
    recon_x: Any,
    x: Tensor,
    latent: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    z: Tensor | None,
    options: LossOptions,
    estimator: str,
    prior: Any,
) -> Call:
    """Checks everything except values. `latent` is (mu, logvar, prior_mu, prior_logvar), and `prior` is the module's."""
    mu, _, prior_mu, prior_logvar = latent
    mask, weight, beta, reduction, batch_dims, target_scale = options
    parameters = _checks.latent(function, *latent)
    beta = _checks.beta(function, beta, "mu", mu)
    _checks.reduction(function, reduction)
    _checks.instance(function, "x", x)
    operands = likelihood.operands(recon_x, x, mask) if getattr(likelihood, "fused", False) else None
    if mu.device != x.device:
        _checks.same_device(function, "mu", mu, "x", x)
    batch = _checks.same_batch(function, x, mu)
    if mask is not None:
        mask = _checks.mask(function, mask, "x", x)
    if weight is not None:
        _checks.weight(function, weight, batch, "x", x)
    if (z is None) == (estimator == "mc"):
        wrong = "needs z, the sample that was decoded" if z is None else "takes no z"
        raise ValueError(f"{function}: estimator={estimator!r} {wrong}")
    if prior is not None and not (prior_mu is prior_logvar is None):
        raise ValueError(f"{function}: this loss was built with a prior; leave out prior_mu and prior_logvar")
    if z is not None:
        _checks.sample(function, z)
        _checks.same_shape(function, "z", z, "mu", mu)
    options = LossOptions(mask, weight, beta, reduction, batch_dims, target_scale)  # faster than _replace
    return Call(operands, parameters, batch, z, options)
