"""Importance weights of several samples, composed of the fused terms. Public as part of vaefast.functional; everything in
nats.

K is the number of samples of z for one x, and B is the batch. log_w, of shape (K, B), is what `log_weights` returns:
log p(x|z_k) + log p(z_k) - log q(z_k|x)."""

from typing import Any

import torch
from torch import Tensor

from .. import _checks, likelihoods
from ..likelihoods.base import CompositeLikelihood
from .log_likelihood import gaussian_log_prob


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
        recon_x: the decoder's output for z, shape (K, B, D), or a tuple of such tensors if the likelihood takes several.
        x: data, shape (B, D).
        z: samples of q(z|x), shape (K, B, L).
        mu, logvar: mean and log sigma^2 of q(z|x), shape (B, L).
        likelihood: as for `elbo`.
        prior_mu, prior_logvar: of p(z), broadcastable to mu; standard normal if None.
        prior: p(z) as an object with log_prob(z), such as vaefast.priors.VampPrior, in place of prior_mu and prior_logvar.
        mask: bool, broadcastable to x; elements that are False are missing.
        target_scale: factor that multiplies x, for likelihoods given by name.

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
    samples_dim: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns log p(x|z_k) and log p(z_k) - log q(z_k|x), the two parts of `log_weights`. `name` is the caller's, for
    errors. `samples_dim` is the dimension, 0 or 1, of the samples in z, recon_x and the results; None means 0 in a function
    that has no such option."""
    _checks.latent(name, mu, logvar)
    _checks.sample(name, z)
    _checks.same_device(name, "z", z, "mu", mu)
    axis = samples_dim or 0
    _check_samples(name, z, mu, samples_dim)
    _checks.dense(name, "x", x)
    _checks.same_batch(name, x, mu)
    _checks.same_device(name, "mu", mu, "x", x)
    p = likelihoods.by_name(likelihood)
    check_model(name, p)
    x, mask = _checks.matched(name, p, recon_x, x, mask, samples_dim=axis)
    mask = _checks.mask(name, mask, "x", x)
    first = recon_x[0] if isinstance(recon_x, (tuple, list)) and recon_x else recon_x
    shape = (*x.shape[:axis], z.shape[axis], *x.shape[axis:])
    if isinstance(first, Tensor):
        _check_prediction(name, p, first, shape, samples_dim)
    mask = None if mask is None else _aligned(mask, axis)
    fit = p.log_prob(recon_x, x.unsqueeze(axis).expand(shape), mask=mask, batch_dims=2)
    _checks.per_sample(name, "likelihood", fit, z.shape[:2])
    if prior is None:
        given = ("prior_mu", prior_mu), ("prior_logvar", prior_logvar)
        log_p = gaussian_log_prob(z, *(_prior_parameter(name, *each, z, mu, axis) for each in given), batch_dims=2)
    elif prior_mu is prior_logvar is None:
        _checks.prior(name, prior)
        flat = prior.log_prob(z.flatten(0, 1))
        _checks.per_sample(name, "prior", flat, torch.Size([z.shape[0] * z.shape[1]]))
        log_p = flat.unflatten(0, z.shape[:2])
    else:
        raise ValueError(f"{name}: prior and prior_mu, prior_logvar exclude each other")
    return fit, log_p - gaussian_log_prob(z, _aligned(mu, axis), _aligned(logvar, axis), batch_dims=2)


def _aligned(value: Tensor, axis: int) -> Tensor:
    """Returns a tensor of shape (B, ...) that broadcasts to one with samples in dimension `axis`."""
    return value.unsqueeze(axis) if axis and value.dim() else value


def _prior_parameter(function: str, name: str, value: Tensor | None, z: Tensor, mu: Tensor, axis: int) -> Tensor | None:
    if value is None:
        return None
    if axis == 0 or (isinstance(value, Tensor) and value.dim() == z.dim()):
        return _checks.parameter(function, name, value, "z", z)
    return _aligned(_checks.parameter(function, name, value, "mu", mu), axis)


def _without(value: Tensor, dim: int) -> tuple[int, ...]:
    """The shape without one of its dimensions."""
    return *value.shape[:dim], *value.shape[dim + 1 :]


def _check_samples(function: str, z: Tensor, mu: Tensor, samples_dim: int | None) -> None:
    """Checks that z has the shape of mu with the samples in one more dimension."""
    axis, own = samples_dim or 0, tuple(mu.shape)
    if z.dim() == mu.dim() + 1 and own and _without(z, axis) == own:
        return
    expected = [str(size) for size in mu.shape]
    expected.insert(axis, "K")
    option = "" if samples_dim is None else f" with samples_dim={axis}"
    advice = f"; write samples_dim={1 - axis}" if option and own and _without(z, 1 - axis) == own else ""
    raise ValueError(f"{function}: z must have shape ({', '.join(expected)}){option}, got {tuple(z.shape)}{advice}")


def _check_prediction(
    function: str, likelihood: Any, recon_x: Tensor, shape: tuple[int, ...], samples_dim: int | None
) -> None:
    """Checks that the decoder's first output has one prediction of x for each sample. A likelihood of one's own may take
    any shape, and that of a composite one is for itself to check, unless samples and batch have changed places."""
    option = "" if samples_dim is None else f" with samples_dim={samples_dim}"
    got = tuple(recon_x.shape)
    if getattr(likelihood, "fused", False) and got != shape:
        raise ValueError(
            f"{function}: recon_x must have shape {shape}, the shape of x for each sample of z{option}, got {got}"
        )
    if isinstance(likelihood, CompositeLikelihood) and got[:2] != shape[:2] and got[:2] == shape[1::-1]:
        raise ValueError(f"{function}: recon_x must have batch shape {shape[:2]}, that of z{option}, got {got[:2]}")


def check_model(function: str, likelihood: Any) -> None:
    """Raises ValueError if the likelihood is not a p(x|z), because it depends on x or lacks its constant. Then there is no
    log p(x) to bound."""
    if not getattr(likelihood, "normalized", True):
        raise ValueError(
            f"{function}: {likelihood!r} leaves out the constant of a density, so there is no log p(x); use Gaussian() or "
            "Laplace() of vaefast.likelihoods"
        )
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


def effective_sample_size(log_w: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2, between 1 and K: the number of samples that carry an estimate of log p(x) (Kong 1992).

    Args:
        log_w: shape (K, B).

    Returns:
        shape (B,).

    Example:
        >>> effective_sample_size(torch.zeros(4, 1))
        tensor([4.])
    """
    log_w = check_log_w("vaefast.functional.effective_sample_size", log_w, 2)
    return 1 / log_w.softmax(0).square().sum(0)
