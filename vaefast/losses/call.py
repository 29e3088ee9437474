"""The arguments of one call of ELBOLoss, checked."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _checks
from ..ops import LossOptions


class Call(NamedTuple):
    operands: tuple[Tensor, ...] | None  # of the likelihood's term; None if no term computes it
    x: Tensor
    latent: tuple[Tensor, ...]  # (mu, spread) or (mu, spread, prior_mu, prior_spread), as options.spreads says
    batch: torch.Size
    z: Tensor | None
    options: LossOptions


def checked_call(
    function: str,
    likelihood: Any,
    recon_x: Any,
    x: Tensor,
    latent: tuple[Tensor | None, ...],
    z: Tensor | None,
    options: LossOptions,
    estimator: str,
    prior: Any,
) -> Call:
    """Checks everything except values. `latent` are the arguments of _checks.latent, and `prior` is the module's."""
    mask, weight, beta, reduction, batch_dims, target_scale, _ = options
    parameters, spreads = _checks.latent(function, *latent)  # type: ignore[arg-type] # it checks mu, too
    mu = parameters[0]
    _checks.reduction(function, reduction)
    _checks.instance(function, "x", x)
    x, mask = _checks.matched(function, likelihood, recon_x, x, mask, batch_dims)
    operands = likelihood.operands(recon_x, x, mask) if getattr(likelihood, "fused", False) else None
    if mu.device != x.device:
        _checks.same_device(function, "mu", mu, "x", x)
    batch = _checks.same_batch(function, x, mu, batch_dims)
    beta = _checks.beta(function, beta, mu, batch)
    if mask is not None:
        mask = _checks.mask(function, mask, "x", x)
    if weight is not None:
        _checks.weight(function, weight, batch, "x", x)
    if (z is None) == (estimator == "mc"):
        wrong = "needs z, the sample that was decoded" if z is None else "takes no z"
        raise ValueError(f"{function}: estimator={estimator!r} {wrong}")
    if prior is not None and len(parameters) > 2:
        raise ValueError(f"{function}: this loss was built with a prior; leave out prior_mu and prior_logvar")
    if z is not None:
        _checks.sample(function, z)
        _checks.same_shape(function, "z", z, "mu", mu)
    options = LossOptions(mask, weight, beta, reduction, batch_dims, target_scale, spreads)  # faster than _replace
    return Call(operands, x, parameters, batch, z, options)
