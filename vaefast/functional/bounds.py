"""Bounds on log p(x): the ELBO from one sample of z, and tighter ones from the importance weights of several."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _checks, likelihoods
from .kl import latent_kl
from .weights import check_log_w


class ELBO(NamedTuple):
    """The evidence lower bound and its parts, each of shape (B,), in nats: elbo = log_likelihood - beta * kl."""

    elbo: Tensor
    log_likelihood: Tensor
    kl: Tensor


def elbo(
    recon_x: Any,
    x: Tensor,
    mu: Tensor,
    logvar: Tensor,
    *,
    likelihood: Any = "bernoulli",
    beta: float | Tensor = 1.0,
    prior_mu: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    mask: Tensor | None = None,
    target_scale: float = 1.0,
    batch_dims: int = 1,
) -> ELBO:
    """The evidence lower bound log p(x) >= E_q[log p(x|z)] - KL(q(z|x) || p(z)), per sample, from one sample of z.

    Args:
        recon_x: the decoder's output for that z: the likelihood's parameters, shape (B, D).
        x: data of the same shape, or of one that differs as `ELBOLoss` allows.
        mu, logvar: mean and log sigma^2 of q(z|x), shape (B, L).
        likelihood: "bernoulli" (logits), "bernoulli_probs", "gaussian" (a mean, or a pair (mean, logvar)), another name
            that `likelihoods.by_name` knows, or an object of vaefast.likelihoods.
        beta: weight of the KL (Higgins et al. 2017): a number, a 0-dimensional tensor, or a tensor of shape (B,).
        prior_mu, prior_logvar: of p(z), broadcastable to mu; standard normal if None.
        mask: bool, broadcastable to x; elements that are False are missing.
        target_scale: factor that multiplies x, for likelihoods given by name.
        batch_dims: number of leading dimensions that are the batch.

    Returns:
        ELBO(elbo, log_likelihood, kl), each of shape (B,), differentiable.

    Example:
        >>> elbo(torch.zeros(2, 3), torch.ones(2, 3), torch.ones(2, 1), torch.zeros(2, 1)).elbo
        tensor([-2.5794, -2.5794])
    """
    name = "vaefast.functional.elbo"
    latent, _ = _checks.latent(name, mu, logvar, prior_mu, prior_logvar)
    batch_dims = _checks.batch_dims(name, batch_dims, "mu", mu)
    beta = _checks.beta(name, beta, mu, mu.shape[:batch_dims])
    p = likelihoods.by_name(likelihood, target_scale=target_scale)
    x, mask = _checks.matched(name, p, recon_x, x, mask, batch_dims)
    log_likelihood = p.log_prob(recon_x, x, mask=mask, batch_dims=batch_dims)
    _checks.same_device(name, "mu", mu, "x", _checks.instance(name, "x", x))
    kl = latent_kl(latent, "none", batch_dims)
    if log_likelihood.shape != kl.shape:
        raise ValueError(
            f"{name}: x has batch shape {tuple(log_likelihood.shape)} but mu has batch shape {tuple(kl.shape)}"
        )
    return ELBO(log_likelihood - beta * kl, log_likelihood, kl)


def iwae_bound(log_w: Tensor) -> Tensor:
    """log (1/K sum_k w_k): the importance-weighted bound on log p(x) (Burda et al. 2016); the ELBO for K = 1.

    Its gradient is that of the bound. vaefast.IWAELoss has other estimators of the encoder's gradient.

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

    alpha = 0 is IWAE, and alpha = 1 is the K-sample ELBO, the mean of log_w. As alpha grows, the bound tends to the
    smallest log_w.

    Args:
        log_w: shape (K, B).
        alpha: order of the bound, a finite number.

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
    # Near alpha = 1 the bound is a small difference divided by a small number, and loses digits. The same formula for the
    # distances of log_w from its mean loses none.
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
    """PIWAE (Rainforth et al. 2018): the decoder maximizes the IWAE bound of all M K samples, the encoder the MIWAE bound.

    Take each network's gradient from its own bound: `torch.autograd.grad(bounds.encoder.mean(), encoder.parameters())`.

    Args:
        log_w: shape (M, K, B): M groups of K samples.

    Returns:
        PIWAEBounds(decoder, encoder), each in nats, shape (B,).

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
        beta: weight of the ELBO, in [0, 1].

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
    if beta in (0, 1):  # a weight of 0 times an infinite bound would be NaN
        return renyi_bound(log_w, beta)
    return beta * renyi_bound(log_w, 1.0) + (1 - beta) * iwae_bound(log_w)
