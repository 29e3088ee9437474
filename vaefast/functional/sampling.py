"""Reparameterized samples, and the log-variance of encoders that return another form of scale. Public as part of
vaefast.functional."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import _checks, reference
from ..ops import rsample
from .kl import latent_kl


def logvar_from_scale(scale: Tensor) -> Tensor:
    """log sigma^2 = 2 log scale, for encoders that return a standard deviation.

    Args:
        scale: positive, any shape.

    Example:
        >>> logvar_from_scale(torch.tensor([1.0, 2.0]))
        tensor([0.0000, 1.3863])
    """
    _checks.tensor("vaefast.functional.logvar_from_scale", "scale", scale)
    return 2 * scale.log()


def logvar_from_log_scale(log_scale: Tensor) -> Tensor:
    """log sigma^2 = 2 log_scale, for encoders that return log sigma.

    Args:
        log_scale: any shape.

    Example:
        >>> logvar_from_log_scale(torch.tensor([0.0, -1.5]))
        tensor([ 0., -3.])
    """
    _checks.tensor("vaefast.functional.logvar_from_log_scale", "log_scale", log_scale)
    return 2 * log_scale


def logvar_from_softplus(raw: Tensor, floor: float = 0.0) -> Tensor:
    """log sigma^2 of sigma = softplus(raw) + floor, for encoders that keep sigma positive by softplus.

    World models often add a floor of 0.1 (Hafner et al. 2019). Hierarchical models use softplus alone, or a small floor.
    The result is finite for every finite `raw`. Where softplus(raw) would be 0 by rounding, a series gives its logarithm.

    Args:
        raw: any shape.
        floor: the smallest sigma, a number of at least 0.

    Example:
        >>> logvar_from_softplus(torch.tensor([-100.0, 0.0, 100.0]))
        tensor([-200.0000,   -0.7330,    9.2103])
        >>> logvar_from_softplus(torch.tensor([-100.0, 0.0, 100.0]), floor=0.1)
        tensor([-4.6052, -0.4635,  9.2123])
    """
    name = "vaefast.functional.logvar_from_softplus"
    _checks.tensor(name, "raw", raw)
    floor = _checks.number(name, "floor", floor, minimum=0.0)
    wide = raw.to(torch.promote_types(raw.dtype, torch.float32))
    small = wide < -10
    # log1p(e^r) = e^r (1 - e^r / 2 + e^2r / 3 - ...)
    tail = wide.clamp(max=-10).exp()
    near = wide + torch.log1p(tail * (tail / 3 - 0.5))
    softplus = -F.logsigmoid(-wide.clamp(min=-10))
    log_sigma = torch.where(small, near, torch.log(softplus))
    if floor > 0:  # added in logarithms, because a small floor is 0 in float32
        log_sigma = torch.logaddexp(log_sigma, log_sigma.new_full((), math.log(floor)))
    return (2 * log_sigma).to(raw.dtype)


def as_logvars(latent: Sequence[Tensor], spreads: tuple[str, ...]) -> tuple[Tensor, ...]:
    """The operands that `_checks.latent` has returned, with each spread as log sigma^2."""
    result = list(latent)
    for k, spread in enumerate(spreads):
        if spread != "logvar":
            result[2 * k + 1] = 2 * (latent[2 * k + 1].log() if spread == "scale" else latent[2 * k + 1])
    return tuple(result)


def reparameterize(
    mu: Tensor,
    logvar: Tensor | None = None,
    *,
    log_scale: Tensor | None = None,
    scale: Tensor | None = None,
    num_samples: int | None = None,
    generator: torch.Generator | None = None,
    eps: Tensor | None = None,
) -> Tensor:
    """Samples z = mu + exp(logvar / 2) * eps, eps ~ N(0, I), differentiably (Kingma and Welling 2014, section 2.4).

    Each call draws one key from the generator. The noise of an element depends only on this key and the element's index,
    not on the dtype, the number of threads or the strides. Philox4x32-10 and Box-Muller compute it, and it is never stored.

    Args:
        mu: means, any shape.
        logvar: log sigma^2, the shape of mu.
        log_scale, scale: log sigma, or sigma, in place of logvar. The kernel reads it as it is.
        num_samples: K for a result of shape (K, *mu.shape); None for one sample of the shape of mu.
        generator: a torch.Generator on the tensors' device; the device's default generator if None. torch.utils.checkpoint
            restores only the default generator, so with another one a recomputed block raises RuntimeError.
        eps: the noise to use instead, broadcastable to the result's shape. It may require a gradient.

    Returns:
        z with the dtype of mu, and the shape of mu or (num_samples, *mu.shape).

    Raises:
        TypeError: no form of the spread is given, or an argument is not a floating-point tensor.
        ValueError: shapes or devices do not match, or two forms of the spread are given.

    Example:
        >>> mu, logvar = torch.zeros(2, 3), torch.full((2, 3), -20.0)
        >>> reparameterize(mu, logvar, num_samples=5).shape
        torch.Size([5, 2, 3])
        >>> reparameterize(mu, scale=torch.zeros(2, 3))[0]
        tensor([0., 0., 0.])
    """
    name = "vaefast.functional.reparameterize"
    latent, spreads = _checks.latent(name, mu, logvar, log_scale=log_scale, scale=scale)
    _checks.num_samples(name, num_samples)
    _checks.generator(name, generator, mu.device)
    if eps is not None:
        return _with_noise(name, latent, spreads, num_samples, eps)
    return rsample(latent, num_samples, batch_dims=min(1, mu.dim()), generator=generator, spreads=spreads)[0]


def _with_noise(
    function: str, latent: Sequence[Tensor], spreads: tuple[str, ...], num_samples: int | None, eps: Tensor
) -> Tensor:
    mu, spread, *_ = latent
    _checks.tensor(function, "eps", eps)
    _checks.same_device(function, "eps", eps, "mu", mu)
    shape = mu.shape if num_samples is None else torch.Size((num_samples, *mu.shape))
    try:
        eps = eps.expand(shape)
    except RuntimeError:
        message = f"{function}: eps must be broadcastable to shape {tuple(shape)}, got {tuple(eps.shape)}"
        raise ValueError(message) from None
    return reference.reparameterize(mu, spread, eps, spreads)


def rsample_kl(
    mu: Tensor,
    logvar: Tensor | None = None,
    prior_mu: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    *,
    log_scale: Tensor | None = None,
    scale: Tensor | None = None,
    prior_log_scale: Tensor | None = None,
    prior_scale: Tensor | None = None,
    generator: torch.Generator | None = None,
    eps: Tensor | None = None,
    batch_dims: int = 1,
) -> tuple[Tensor, Tensor]:
    """`reparameterize` and `gaussian_kl` in one pass over mu and logvar.

    Args:
        mu, logvar: mean and log sigma^2 of q, shape (B, D).
        prior_mu, prior_logvar: of p, broadcastable to mu; standard normal if None.
        log_scale, scale, prior_log_scale, prior_scale: in place of the logvars, as for `gaussian_kl`.
        generator, eps: as in `reparameterize`.
        batch_dims: number of leading dimensions that kl keeps.

    Returns:
        (z, kl): z of the shape of mu, kl of shape (B,), in nats.

    Example:
        >>> z, kl = rsample_kl(torch.ones(4, 1), torch.zeros(4, 1))
        >>> kl
        tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """
    name = "vaefast.functional.rsample_kl"
    latent, spreads = _checks.latent(
        name, mu, logvar, prior_mu, prior_logvar, log_scale, scale, prior_log_scale, prior_scale
    )
    batch_dims = _checks.batch_dims(name, batch_dims, "mu", mu)
    _checks.generator(name, generator, mu.device)
    if eps is not None:
        return _with_noise(name, latent, spreads, None, eps), latent_kl(latent, "none", batch_dims, spreads)
    return rsample(latent, kl=True, batch_dims=batch_dims, generator=generator, spreads=spreads)
