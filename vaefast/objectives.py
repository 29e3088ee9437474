"""Bounds on log p(x) from several samples, as compositions of the fused terms. Public as part of vaefast.functional;
everything in nats.

K is the number of samples of z for one x, B the batch. log_w of shape (K, B) is what `log_weights` returns:
log p(x|z_k) + log p(z_k) - log q(z_k|x)."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _checks, likelihoods
from .terms import gaussian_log_prob

__all__ = [
    "PIWAEBounds",
    "ciwae_bound",
    "iwae_bound",
    "log_weights",
    "miwae_bound",
    "piwae_bounds",
    "renyi_bound",
]


def log_weights(
    recon_x: Any,
    x: Tensor,
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    *,
    likelihood: Any = "bernoulli",
    prior_mu: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    prior: Any = None,
    mask: Tensor | None = None,
    target_scale: float = 1.0,
) -> Tensor:
    """log p(x|z_k) + log p(z_k) - log q(z_k|x), the logarithm of an importance weight (Burda et al. 2016, equation 8).

    Args:
        recon_x: what the decoder made of z, shape (K, B, D), or the likelihood's tuple of such.
        x: data, shape (B, D).
        z: samples of q(z|x), shape (K, B, L).
        mu, logvar: of q(z|x), shape (B, L).
        likelihood: as for `elbo`.
        prior_mu, prior_logvar: of p(z), broadcastable to mu; standard normal if None.
        prior: p(z) as an object with log_prob(z), such as vaefast.priors.VampPrior, instead.
        mask: bool, broadcastable to x; elements that are False are missing.
        target_scale: what x is multiplied by, for likelihoods given by name.

    Returns:
        nats, shape (K, B). Its mean over K is the K-sample ELBO with the KL estimated at the samples.

    Example:
        >>> mu, logvar = torch.zeros(4, 2), torch.zeros(4, 2)
        >>> z = mu + torch.randn(7, 4, 2)
        >>> log_weights(torch.zeros(7, 4, 3), torch.ones(4, 3), z, mu, logvar)[0]  # q is the prior: 3 log 1/2 remains
        tensor([-2.0794, -2.0794, -2.0794, -2.0794])
    """
    options = {"prior_mu": prior_mu, "prior_logvar": prior_logvar, "prior": prior, "mask": mask}
    name, p = "vaefast.functional.log_weights", likelihoods.by_name(likelihood, target_scale=target_scale)
    fit, ratio = fit_and_ratio(name, recon_x, x, z, mu, logvar, likelihood=p, **options)
    return fit + ratio


def fit_and_ratio(
    name: str,
    recon_x: Any,
    x: Tensor,
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    *,
    likelihood: Any,
    prior_mu: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    prior: Any = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The two terms of `log_weights`: log p(x|z_k), and log p(z_k) - log q(z_k|x); `name` is the caller's, for errors."""
    _checks.latent(name, mu, logvar)
    _checks.sample(name, z)
    _checks.same_device(name, "z", z, "mu", mu)
    if z.dim() != mu.dim() + 1 or z.shape[1:] != mu.shape or mu.dim() == 0:
        raise ValueError(f"{name}: z must have shape (K, {', '.join(map(str, mu.shape))}), got {tuple(z.shape)}")
    _checks.dense(name, "x", x)
    if x.dim() == 0 or x.shape[0] != mu.shape[0]:
        raise ValueError(
            f"{name}: x has shape {tuple(x.shape)} but mu has shape {tuple(mu.shape)}; the first dimension is the batch"
        )
    _checks.same_device(name, "mu", mu, "x", x)
    mask = _checks.mask(name, mask, "x", x)
    p = likelihoods.by_name(likelihood)
    check_model(name, p)
    first = recon_x[0] if isinstance(recon_x, (tuple, list)) and recon_x else recon_x
    shape = (z.shape[0], *x.shape)
    if getattr(p, "fused", False) and isinstance(first, Tensor) and first.shape != shape:
        raise ValueError(
            f"{name}: recon_x must have shape {shape}, the shape of x for each sample of z, got {tuple(first.shape)}"
        )
    fit = p.log_prob(recon_x, x.expand(z.shape[0], *x.shape), mask=mask, batch_dims=2)
    _checks.per_sample(name, "likelihood", fit, z.shape[:2])
    if prior is None:
        for parameter, value in (("prior_mu", prior_mu), ("prior_logvar", prior_logvar)):
            if value is not None:
                _checks.parameter(name, parameter, value, "z", z)
        log_p = gaussian_log_prob(z, prior_mu, prior_logvar, batch_dims=2)
    elif prior_mu is prior_logvar is None:
        _checks.prior(name, prior)
        flat = prior.log_prob(z.flatten(0, 1))
        _checks.per_sample(name, "prior", flat, torch.Size([z.shape[0] * z.shape[1]]))
        log_p = flat.unflatten(0, z.shape[:2])
    else:
        raise ValueError(f"{name}: prior and prior_mu, prior_logvar exclude each other")
    return fit, log_p - gaussian_log_prob(z, mu, logvar, batch_dims=2)


def check_model(function: str, likelihood: Any) -> None:
    """Whether the likelihood is a p(x|z), which log p(x) and its bounds are about."""
    if getattr(likelihood, "optimal_scale", False):
        raise ValueError(
            f"{function}: optimal_scale fits the scale to x, so this would not be p(x|z); give the scale, or learn it"
        )


def check_log_w(function: str, log_w: Tensor, dims: int) -> Tensor:
    _checks.tensor(function, "log_w", log_w)
    if log_w.dim() < dims or 0 in log_w.shape[: dims - 1]:
        shape = "(K, B)" if dims == 2 else "(M, K, B)"
        raise ValueError(f"{function}: log_w must have shape {shape}, with samples, got {tuple(log_w.shape)}")
    return log_w.to(torch.promote_types(log_w.dtype, torch.float32))


def iwae_bound(log_w: Tensor) -> Tensor:
    """log (1/K sum_k w_k): the importance-weighted bound on log p(x) (Burda et al. 2016); the ELBO for K = 1.

    The value is the bound and its gradient is the bound's gradient.

    Args:
        log_w: shape (K, B).

    Returns:
        nats, shape (B,).

    Example:
        >>> iwae_bound(torch.tensor([[1.0], [3.0]]).log())
        tensor([0.6931])
    """
    log_w = check_log_w("vaefast.functional.iwae_bound", log_w, 2)
    return log_w.logsumexp(0) - math.log(log_w.shape[0])


def renyi_bound(log_w: Tensor, alpha: float) -> Tensor:
    """log (1/K sum_k w_k^(1 - alpha)) / (1 - alpha): the variational Renyi bound (Li and Turner 2016, equation 7).

    alpha = 0 is IWAE, alpha = 1 the K-sample ELBO (the mean of log_w), and large alpha goes to the smallest log_w.

    Args:
        log_w: shape (K, B).
        alpha: a number.

    Returns:
        nats, shape (B,).

    Example:
        >>> renyi_bound(torch.tensor([[1.0], [4.0]]).log(), alpha=0.5)  # log 1.5^2
        tensor([0.8109])
    """
    name = "vaefast.functional.renyi_bound"
    log_w = check_log_w(name, log_w, 2)
    alpha = _checks.number(name, "alpha", alpha)
    mean, c = log_w.mean(0), 1 - alpha
    if c == 0:
        return mean
    bound = ((c * log_w).logsumexp(0) - math.log(log_w.shape[0])) / c
    if abs(c) > 0.01:
        return bound
    # Near alpha = 1 this is a small difference divided by a small number, and loses digits. The same formula for the
    # distances from the mean does not.
    center = mean.detach()
    scaled = c * (log_w - center)
    small = (scaled.abs() < 1).all(0)
    scaled = torch.where(small, scaled, 0.0)
    return torch.where(small, center + torch.log1p(torch.expm1(scaled).mean(0)) / c, bound)


def miwae_bound(log_w: Tensor) -> Tensor:
    """The mean over M of K-sample IWAE bounds (Rainforth et al. 2018).

    Args:
        log_w: shape (M, K, B): M groups of K samples.

    Returns:
        nats, shape (B,).

    Example:
        >>> miwae_bound(torch.tensor([[[1.0], [3.0]], [[2.0], [2.0]]]).log())
        tensor([0.6931])
    """
    log_w = check_log_w("vaefast.functional.miwae_bound", log_w, 3)
    return (log_w.logsumexp(1) - math.log(log_w.shape[1])).mean(0)


class PIWAEBounds(NamedTuple):
    """The two bounds of PIWAE, each of shape (B,), in nats."""

    decoder: Tensor
    encoder: Tensor


def piwae_bounds(log_w: Tensor) -> PIWAEBounds:
    """PIWAE (Rainforth et al. 2018): the decoder follows the IWAE bound of all M K samples, the encoder the MIWAE bound.

    Take each network's gradient from its own bound: `torch.autograd.grad(bounds.encoder.mean(), encoder.parameters())`.

    Args:
        log_w: shape (M, K, B).

    Example:
        >>> piwae_bounds(torch.zeros(2, 3, 1)).decoder
        tensor([0.])
    """
    log_w = check_log_w("vaefast.functional.piwae_bounds", log_w, 3)
    return PIWAEBounds(iwae_bound(log_w.flatten(0, 1)), miwae_bound(log_w))


def ciwae_bound(log_w: Tensor, beta: float) -> Tensor:
    """beta * ELBO + (1 - beta) * IWAE, from the same samples (CIWAE, Rainforth et al. 2018).

    Args:
        log_w: shape (K, B).
        beta: in [0, 1].

    Returns:
        nats, shape (B,).

    Example:
        >>> ciwae_bound(torch.tensor([[1.0], [3.0]]).log(), beta=0.0)
        tensor([0.6931])
    """
    name = "vaefast.functional.ciwae_bound"
    beta = _checks.number(name, "beta", beta, minimum=0.0)
    if beta > 1:
        raise ValueError(f"{name}: beta must be in [0, 1], got {beta}")
    if beta in (0, 1):  # a weight of 0 counts for nothing beside an infinite log_w, too
        return renyi_bound(log_w, beta)
    return beta * renyi_bound(log_w, 1.0) + (1 - beta) * iwae_bound(log_w)
