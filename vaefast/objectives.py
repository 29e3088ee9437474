"""Objectives beyond the plain ELBO, as compositions of the fused terms: importance-weighted bounds, what is done to the KL
term. Public as part of vaefast.functional; everything in nats.

K is the number of samples of z for one x, B the batch. log_w of shape (K, B) is what `log_weights` returns:
log p(x|z_k) + log p(z_k) - log q(z_k|x)."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _checks, likelihoods
from .terms import gaussian_kl, gaussian_log_prob

__all__ = [
    "PIWAEBounds",
    "balanced_kl",
    "capacity_kl",
    "ciwae_bound",
    "free_bits_kl",
    "hierarchical_kl",
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

    Returns:
        nats, shape (K, B). Its mean over K is the K-sample ELBO with the KL estimated at the samples.

    Example:
        >>> mu, logvar = torch.zeros(4, 2), torch.zeros(4, 2)
        >>> z = mu + torch.randn(7, 4, 2)
        >>> log_weights(torch.zeros(7, 4, 3), torch.ones(4, 3), z, mu, logvar)[0]  # q is the prior: 3 log 1/2 remains
        tensor([-2.0794, -2.0794, -2.0794, -2.0794])
    """
    name = "vaefast.log_weights"
    _checks.latent(name, mu, logvar)
    _checks.tensor(name, "z", z)
    if z.dim() != mu.dim() + 1 or z.shape[1:] != mu.shape:
        raise ValueError(f"{name}: z must have shape (K, {', '.join(map(str, mu.shape))}), got {tuple(z.shape)}")
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: x must be a torch.Tensor, got {type(x).__name__}")
    if x.dim() == 0 or x.shape[0] != mu.shape[0]:
        raise ValueError(
            f"{name}: x has shape {tuple(x.shape)} but mu has shape {tuple(mu.shape)}; the first dimension is the batch"
        )
    p = likelihoods.by_name(likelihood)
    fit = p.log_prob(recon_x, x.expand(z.shape[0], *x.shape), mask=mask, batch_dims=2)
    _checks.per_sample(name, "likelihood", fit, z.shape[:2])
    if prior is None:
        log_p = gaussian_log_prob(z, prior_mu, prior_logvar, batch_dims=2)
    elif prior_mu is prior_logvar is None:
        flat = prior.log_prob(z.flatten(0, 1))
        _checks.per_sample(name, "prior", flat, torch.Size([z.shape[0] * z.shape[1]]))
        log_p = flat.unflatten(0, z.shape[:2])
    else:
        raise ValueError(f"{name}: prior and prior_mu, prior_logvar exclude each other")
    return fit + log_p - gaussian_log_prob(z, mu, logvar, batch_dims=2)


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
    log_w = check_log_w("vaefast.iwae_bound", log_w, 2)
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
    name = "vaefast.renyi_bound"
    log_w = check_log_w(name, log_w, 2)
    _checks.number(name, "alpha", alpha)
    mean, c = log_w.mean(0), 1 - alpha
    if c == 0:
        return mean
    bound = ((c * log_w).logsumexp(0) - math.log(log_w.shape[0])) / c
    if abs(c) > 0.01:
        return bound
    # Near alpha = 1 that is a small difference divided by a small number; about the mean nothing of it is lost.
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
    log_w = check_log_w("vaefast.miwae_bound", log_w, 3)
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
    log_w = check_log_w("vaefast.piwae_bounds", log_w, 3)
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
    name = "vaefast.ciwae_bound"
    _checks.number(name, "beta", beta, minimum=0.0)
    if beta > 1:
        raise ValueError(f"{name}: beta must be in [0, 1], got {beta}")
    if beta in (0, 1):  # a weight of 0 counts for nothing beside an infinite log_w, too
        return renyi_bound(log_w, beta)
    return beta * renyi_bound(log_w, 1.0) + (1 - beta) * iwae_bound(log_w)


_LARGE = 1 << 15  # elements of a layer that is worth a sweep of its own

FREE_BITS = ("dimension", "element", "total")


def free_bits_kl(kl: Tensor, free_bits: float, per: str = "dimension") -> Tensor:
    """The KL term with `free_bits` nats for free, in one of the three meanings that papers and code give it.

    Args:
        kl: of each sample and dimension, shape (B, L): `gaussian_kl(..., reduction="elementwise")`.
        free_bits: nats.
        per: "dimension": sum over dimensions of max(free_bits, mean over the batch) (Kingma et al. 2016, equation 15);
            "element": the maximum for each sample and dimension; "total": max(free_bits, mean over the batch of the sum)
            (Hafner et al. 2019).

    Returns:
        nats: a scalar for the batch, or of shape (B,) for "element".

    Example:
        >>> kl = torch.tensor([[0.0, 1.0], [0.4, 3.0]])
        >>> free_bits_kl(kl, 0.5), free_bits_kl(kl, 0.5, "element"), free_bits_kl(kl, 3.0, "total")
        (tensor(2.5000), tensor([1.5000, 3.5000]), tensor(3.))
    """
    name = "vaefast.free_bits_kl"
    _checks.tensor(name, "kl", kl)
    _checks.number(name, "free_bits", free_bits, minimum=0.0)
    _checks.choice(name, "per", per, FREE_BITS)
    if kl.dim() < 1:
        raise ValueError(f"{name}: kl must have shape (B, L), got {tuple(kl.shape)}")
    kl = kl.to(torch.promote_types(kl.dtype, torch.float32))
    if per == "element":
        return kl.clamp(min=free_bits).flatten(1).sum(1) if kl.dim() > 1 else kl.clamp(min=free_bits)
    means = kl.mean(0)
    return means.clamp(min=free_bits).sum() if per == "dimension" else means.sum().clamp(min=free_bits)


def capacity_kl(kl: Tensor, capacity: float | Tensor, gamma: float = 1000.0) -> Tensor:
    """gamma * |mean KL - capacity|: the KL term of Burgess et al. 2018, whose capacity grows during training.

    Args:
        kl: per sample, shape (B,).
        capacity: nats; a number or a 0-dimensional tensor.
        gamma: the penalty's weight.

    Returns:
        nats, a scalar.

    Example:
        >>> capacity_kl(torch.tensor([1.0, 2.0]), 2.0, gamma=10.0)
        tensor(5.)
    """
    name = "vaefast.capacity_kl"
    _checks.tensor(name, "kl", kl)
    _checks.number(name, "gamma", gamma, minimum=0.0)
    if not isinstance(capacity, Tensor):
        _checks.number(name, "capacity", capacity, minimum=0.0)
    elif capacity.dim() != 0:
        raise ValueError(f"{name}: capacity must be 0-dimensional, got shape {tuple(capacity.shape)}")
    if kl.dim() != 1:
        raise ValueError(f"{name}: kl must have shape (B,), got {tuple(kl.shape)}")
    return gamma * (kl.to(torch.promote_types(kl.dtype, torch.float32)).mean() - capacity).abs()


def hierarchical_kl(layers: Sequence[Sequence[Tensor]]) -> Tensor:
    """The sum of the KL divergences of a model's stochastic layers (Sonderby et al. 2016, Vahdat and Kautz 2020).

    Small layers, whose calls cost more than their arithmetic, are joined and take at most two sweeps, however many they
    are; layers of 2^15 elements and more are read where they lie, in a sweep each.

    Args:
        layers: for each layer (mu, logvar), with a standard normal prior, or (mu, logvar, prior_mu, prior_logvar); tensors
            of a layer have one shape (B, ...), and all layers one batch, dtype and device.

    Returns:
        nats, shape (B,).

    Example:
        >>> top, below = torch.ones(2, 3), torch.zeros(2, 4, 8, 8)
        >>> hierarchical_kl([(top, 0 * top), (below, below, below + 1, below)])  # 3 / 2 + 256 / 2
        tensor([129.5000, 129.5000])
    """
    name = "vaefast.hierarchical_kl"
    total: Tensor | None = None
    if not layers:
        raise ValueError(f"{name}: layers is empty")
    for k, layer in enumerate(layers):
        if len(layer) not in (2, 4):
            raise ValueError(
                f"{name}: layer {k} must be (mu, logvar) or with (prior_mu, prior_logvar), got {len(layer)} tensors"
            )
        for each, argument in zip(layer, ("mu", "logvar", "prior_mu", "prior_logvar"), strict=False):
            _checks.tensor(name, f"{argument} of layer {k}", each)
            _checks.same_shape(name, f"{argument} of layer {k}", each, f"mu of layer {k}", layer[0])
        if layer[0].dim() < 1 or layer[0].shape[0] != layers[0][0].shape[0]:
            raise ValueError(
                f"{name}: layer {k} has shape {tuple(layer[0].shape)}; the first dimension of all is the batch"
            )
    large = [layer for layer in layers if layer[0].numel() >= _LARGE]
    for arity in (2, 4):
        small = [layer for layer in layers if len(layer) == arity and layer[0].numel() < _LARGE]
        if small:
            large.append([torch.cat([layer[k].reshape(len(layer[k]), -1) for layer in small], 1) for k in range(arity)])
    for layer in large:
        kl = gaussian_kl(*layer)
        total = kl if total is None else total + kl
    assert total is not None
    return total


def balanced_kl(
    mu: Tensor, logvar: Tensor, prior_mu: Tensor, prior_logvar: Tensor, *, balance: float = 0.8, batch_dims: int = 1
) -> Tensor:
    """KL(q || p) whose gradient is `balance` parts the prior's and 1 - balance parts the posterior's (Hafner et al. 2021).

    balance * KL(stop(q) || p) + (1 - balance) * KL(q || stop(p)); the value is the KL.

    Args:
        mu, logvar: of q, shape (B, L).
        prior_mu, prior_logvar: of p, broadcastable to mu.
        balance: in [0, 1]; above 1/2 the prior is drawn to the posterior faster than the other way round.
        batch_dims: the number of leading dimensions that the result keeps.

    Returns:
        nats, shape (B,).

    Example:
        >>> balanced_kl(torch.ones(2, 1), torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2, 1))
        tensor([0.5000, 0.5000])
    """
    name = "vaefast.balanced_kl"
    _checks.number(name, "balance", balance, minimum=0.0)
    if balance > 1:
        raise ValueError(f"{name}: balance must be in [0, 1], got {balance}")
    _checks.latent(name, mu, logvar, prior_mu, prior_logvar)
    _checks.tensor(name, "prior_mu", prior_mu)
    _checks.tensor(name, "prior_logvar", prior_logvar)
    to_prior = gaussian_kl(mu.detach(), logvar.detach(), prior_mu, prior_logvar, batch_dims=batch_dims)
    to_posterior = gaussian_kl(mu, logvar, prior_mu.detach(), prior_logvar.detach(), batch_dims=batch_dims)
    return balance * to_prior + (1 - balance) * to_posterior
