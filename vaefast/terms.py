"""The terms that a VAE's loss is made of: samples, KL divergences, log-likelihoods, the ELBO. Public as part of
vaefast.functional, whose docstring has the conventions."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _checks, autograd, likelihoods, reference

__all__ = [
    "ELBO",
    "bernoulli_log_likelihood",
    "bernoulli_probs_log_likelihood",
    "elbo",
    "gaussian_kl",
    "gaussian_log_likelihood",
    "gaussian_log_prob",
    "reparameterize",
    "rsample_kl",
]

_REDUCTIONS = (*_checks.REDUCTIONS, "elementwise")


class ELBO(NamedTuple):
    """The evidence lower bound and its parts, each of shape (B,), in nats: elbo = log_likelihood - beta * kl."""

    elbo: Tensor
    log_likelihood: Tensor
    kl: Tensor


def reparameterize(
    mu: Tensor,
    logvar: Tensor,
    *,
    num_samples: int | None = None,
    generator: torch.Generator | None = None,
    eps: Tensor | None = None,
) -> Tensor:
    """Samples z = mu + exp(logvar / 2) * eps, eps ~ N(0, I), differentiably (Kingma and Welling 2014, section 2.4).

    The noise of an element depends on one draw from the generator and the element's index alone: not on the dtype, the
    number of threads or the strides. It is made by Philox4x32-10 and Box-Muller and never stored.

    Args:
        mu: means, any shape.
        logvar: log sigma^2, the shape of mu.
        num_samples: K for a result of shape (K, *mu.shape); None for one sample of the shape of mu.
        generator: a torch.Generator of the tensors' device; the device's default generator if None, which is the one that
            torch.utils.checkpoint restores: with another, a recomputed block raises RuntimeError.
        eps: the noise to use instead, broadcastable with mu, or of the result's shape; differentiable as well.

    Returns:
        z of the dtype of mu, of its shape or (num_samples, *mu.shape).

    Example:
        >>> mu, logvar = torch.zeros(2, 3), torch.full((2, 3), -20.0)
        >>> reparameterize(mu, logvar, num_samples=5).shape
        torch.Size([5, 2, 3])
    """
    name = "vaefast.functional.reparameterize"
    latent = _checks.latent(name, mu, logvar)
    _checks.num_samples(name, num_samples)
    _checks.generator(name, generator, mu.device)
    if eps is not None:
        return _with_noise(name, mu, logvar, num_samples, eps)
    return autograd.rsample(latent, num_samples, batch_dims=min(1, mu.dim()), generator=generator)[0]


def _with_noise(function: str, mu: Tensor, logvar: Tensor, num_samples: int | None, eps: Tensor) -> Tensor:
    _checks.tensor(function, "eps", eps)
    _checks.same_device(function, "eps", eps, "mu", mu)
    shape = mu.shape if num_samples is None else torch.Size((num_samples, *mu.shape))
    try:
        eps = eps.expand(shape)
    except RuntimeError:
        message = f"{function}: eps must be broadcastable to shape {tuple(shape)}, got {tuple(eps.shape)}"
        raise ValueError(message) from None
    return reference.reparameterize(mu, logvar, eps)


def rsample_kl(
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
    eps: Tensor | None = None,
    batch_dims: int = 1,
) -> tuple[Tensor, Tensor]:
    """`reparameterize` and `gaussian_kl` in one pass over mu and logvar.

    Args:
        mu, logvar: of q, shape (B, D).
        prior_mu, prior_logvar: of p, broadcastable to mu; standard normal if None.
        generator, eps: as in `reparameterize`.
        batch_dims: the number of leading dimensions that kl keeps.

    Returns:
        (z, kl): z of the shape of mu, kl of shape (B,), in nats.

    Example:
        >>> z, kl = rsample_kl(torch.ones(4, 1), torch.zeros(4, 1))
        >>> kl
        tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """
    name = "vaefast.functional.rsample_kl"
    latent = _checks.latent(name, mu, logvar, prior_mu, prior_logvar)
    batch_dims = _checks.batch_dims(name, batch_dims, "mu", mu)
    _checks.generator(name, generator, mu.device)
    if eps is not None:
        return _with_noise(name, mu, logvar, None, eps), _kl(latent, "none", batch_dims)
    return autograd.rsample(latent, kl=True, batch_dims=batch_dims, generator=generator)


def _kl(latent: Sequence[Tensor], reduction: str, batch_dims: int) -> Tensor:
    term = "gaussian_kl" if len(latent) == 2 else "gaussian_kl_pair"
    return autograd.row_sum(term, latent, None, reduction, batch_dims)


def gaussian_kl(
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    *,
    reduction: str = "none",
    batch_dims: int = 1,
) -> Tensor:
    r"""KL(q || p) of diagonal Gaussians, q = N(mu, exp(logvar)) and p standard normal unless given.

    With phi(x) = exp(x) - 1 - x and d = logvar - prior_logvar it is the sum over D of
    (phi(d) + (mu - prior_mu)^2 / exp(prior_logvar)) / 2 (Kingma and Welling 2014, appendix B, rearranged so that nothing
    cancels): never negative, and 0 only for q = p.

    Args:
        mu, logvar: of q, shape (B, D).
        prior_mu, prior_logvar: of p, broadcastable to mu; 0 if None.
        reduction: "none", "sum", "mean" or "elementwise".
        batch_dims: the number of leading dimensions that are the batch.

    Returns:
        nats, shape (B,), () or (B, D) according to `reduction`.

    Example:
        >>> gaussian_kl(torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]]))
        tensor([0.5000, 0.3591])
    """
    name = "vaefast.functional.gaussian_kl"
    latent = _checks.latent(name, mu, logvar, prior_mu, prior_logvar)
    _checks.reduction(name, reduction, _REDUCTIONS)
    return _kl(latent, reduction, _checks.batch_dims(name, batch_dims, "mu", mu))


def _log_likelihood(
    function: str,
    term: str,
    operands: Sequence[Tensor],
    reduction: str,
    batch_dims: int,
    mask: Tensor | None,
    target_scale: float,
) -> Tensor:
    _checks.reduction(function, reduction, _REDUCTIONS)
    _checks.number(function, "target_scale", target_scale)
    batch_dims = _checks.batch_dims(function, batch_dims, "x", operands[1])
    mask = _checks.mask(function, mask, "x", operands[1])
    return autograd.row_sum(term, operands, mask, reduction, batch_dims, float(target_scale))


def bernoulli_log_likelihood(
    logits: Tensor,
    x: Tensor,
    *,
    reduction: str = "none",
    batch_dims: int = 1,
    mask: Tensor | None = None,
    target_scale: float = 1.0,
) -> Tensor:
    """log p(x) of a Bernoulli given by logits: the sum over D of x * l - log(1 + exp(l)).

    It is computed split by the sign of l, so that both parts of it have one sign. x in (0, 1) is taken as the usual cross
    entropy; for a normalized density of such x see the continuous Bernoulli of Loaiza-Ganem and Cunningham 2019.

    Args:
        logits: shape (B, D).
        x: targets in [0, 1] of the shape of logits: floating point, bool or uint8.
        reduction: "none", "sum", "mean" or "elementwise".
        batch_dims: the number of leading dimensions that are the batch.
        mask: bool, broadcastable to logits; where it is False an element counts for nothing, even if it is NaN.
        target_scale: what x is multiplied by: 1 / 255 for uint8 images, which are then read as they are.

    Returns:
        nats, shape (B,), () or (B, D) according to `reduction`.

    Example:
        >>> image = torch.tensor([[0, 128, 255]], dtype=torch.uint8)
        >>> bernoulli_log_likelihood(torch.zeros(1, 3), image, target_scale=1 / 255)
        tensor([-2.0794])
    """
    name = "vaefast.functional.bernoulli_log_likelihood"
    operands = _checks.prediction(name, "logits", logits, x)
    return _log_likelihood(name, "bernoulli", operands, reduction, batch_dims, mask, target_scale)


def bernoulli_probs_log_likelihood(
    probs: Tensor,
    x: Tensor,
    *,
    reduction: str = "none",
    batch_dims: int = 1,
    mask: Tensor | None = None,
    target_scale: float = 1.0,
) -> Tensor:
    """`bernoulli_log_likelihood` from probabilities, for decoders that end in a sigmoid.

    Logarithms are clamped at -100, as torch.nn.functional.binary_cross_entropy has it. Logits lose nothing near 0 and 1
    and are to be preferred.

    Args:
        probs: in [0, 1], shape (B, D).
        x, reduction, batch_dims, mask, target_scale: as in `bernoulli_log_likelihood`.

    Returns:
        nats, shape (B,), () or (B, D) according to `reduction`.

    Example:
        >>> bernoulli_probs_log_likelihood(torch.tensor([[0.5, 0.0]]), torch.ones(1, 2))
        tensor([-100.6931])
    """
    name = "vaefast.functional.bernoulli_probs_log_likelihood"
    operands = _checks.prediction(name, "probs", probs, x)
    return _log_likelihood(name, "bernoulli_probs", operands, reduction, batch_dims, mask, target_scale)


def gaussian_log_likelihood(
    mean: Tensor,
    x: Tensor,
    logvar: Tensor | float = 0.0,
    *,
    reduction: str = "none",
    batch_dims: int = 1,
    mask: Tensor | None = None,
    target_scale: float = 1.0,
) -> Tensor:
    """log N(x; mean, exp(logvar)): the sum over D of -(log(2 pi) + logvar + (x - mean)^2 / exp(logvar)) / 2.

    Args:
        mean: shape (B, D).
        x: of the shape of mean: floating point, bool or uint8.
        logvar: log sigma^2: a number, a tensor of one element, or one broadcastable to mean. Not clamped.
        reduction, batch_dims, mask, target_scale: as in `bernoulli_log_likelihood`.

    Returns:
        nats, shape (B,), () or (B, D) according to `reduction`.

    Example:
        >>> gaussian_log_likelihood(torch.zeros(1, 2), torch.zeros(1, 2))
        tensor([-1.8379])
    """
    name = "vaefast.functional.gaussian_log_likelihood"
    mean, x = _checks.prediction(name, "mean", mean, x)
    operands = (mean, x, _checks.parameter(name, "logvar", logvar, "mean", mean))
    return _log_likelihood(name, "gaussian", operands, reduction, batch_dims, mask, target_scale)


def gaussian_log_prob(
    z: Tensor, mu: Tensor | None = None, logvar: Tensor | None = None, *, batch_dims: int = 1
) -> Tensor:
    """log N(z; mu, exp(logvar)), summed over all but the batch dimensions.

    Args:
        z: shape (B, D), or (K, B, D) with batch_dims=2.
        mu, logvar: broadcastable to z; standard if None.
        batch_dims: the number of leading dimensions that the result keeps.

    Returns:
        nats, shape (B,), or (K, B) with batch_dims=2.

    Example:
        >>> gaussian_log_prob(torch.zeros(7, 4, 2), batch_dims=2).shape
        torch.Size([7, 4])
    """
    name = "vaefast.functional.gaussian_log_prob"
    _checks.tensor(name, "z", z)
    parameters = [
        _checks.parameter(name, parameter, 0.0 if value is None else value, "z", z)
        for parameter, value in (("mu", mu), ("logvar", logvar))
    ]
    batch_dims = _checks.batch_dims(name, batch_dims, "z", z)
    return autograd.row_sum("gaussian", (z, *parameters), batch_dims=batch_dims)


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
        recon_x: what the decoder made of that z: the likelihood's parameters, shape (B, D).
        x: data of the same shape.
        mu, logvar: of q(z|x), shape (B, L).
        likelihood: "bernoulli" (logits), "bernoulli_probs", "gaussian" (a mean, or a pair (mean, logvar)), another name
            that `likelihoods.by_name` knows, or an object of vaefast.likelihoods.
        beta: weight of the KL (Higgins et al. 2017): a number or a 0-dimensional tensor.
        prior_mu, prior_logvar: of p(z), broadcastable to mu; standard normal if None.
        mask: bool, broadcastable to x; elements that are False are missing.
        target_scale: what x is multiplied by, for likelihoods given by name.
        batch_dims: the number of leading dimensions that are the batch.

    Returns:
        ELBO(elbo, log_likelihood, kl), each of shape (B,), differentiable.

    Example:
        >>> elbo(torch.zeros(2, 3), torch.ones(2, 3), torch.ones(2, 1), torch.zeros(2, 1)).elbo
        tensor([-2.5794, -2.5794])
    """
    name = "vaefast.functional.elbo"
    latent = _checks.latent(name, mu, logvar, prior_mu, prior_logvar)
    beta = _checks.beta(name, beta, "mu", mu)
    p = likelihoods.by_name(likelihood, target_scale=target_scale)
    log_likelihood = p.log_prob(recon_x, x, mask=mask, batch_dims=batch_dims)
    _checks.same_device(name, "mu", mu, "x", _checks.instance(name, "x", x))
    kl = _kl(latent, "none", _checks.batch_dims(name, batch_dims, "mu", mu))
    if log_likelihood.shape != kl.shape:
        raise ValueError(
            f"{name}: x has batch shape {tuple(log_likelihood.shape)} but mu has batch shape {tuple(kl.shape)}"
        )
    return ELBO(log_likelihood - beta * kl, log_likelihood, kl)
