"""The KL of Gaussians and its variants: balanced gradients, many layers. Public as part of vaefast.functional; everything
in nats."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _checks
from ..ops import row_sum
from ..reference import kl_term

_LARGE = 1 << 15  # elements from which on a layer gets a sweep of its own


def hierarchical_kl(layers: Sequence[Sequence[Tensor]]) -> Tensor:
    """The sum of the KL divergences of a model's stochastic layers (Sonderby et al. 2016, Vahdat and Kautz 2020).

    Small layers are concatenated, because a call costs more than their arithmetic: however many they are, they take at most
    two sweeps. A layer of 2^15 elements or more is read in place, in a sweep of its own.

    Args:
        layers: one tuple per layer: (mu, logvar) for a standard normal prior, or (mu, logvar, prior_mu, prior_logvar).
            The tensors of a layer have one shape (B, ...). All layers have the same batch, dtype and device.

    Returns:
        nats, shape (B,).

    Example:
        >>> top, below = torch.ones(2, 3), torch.zeros(2, 4, 8, 8)
        >>> hierarchical_kl([(top, 0 * top), (below, below, below + 1, below)])  # 3 / 2 + 256 / 2
        tensor([129.5000, 129.5000])
    """
    name = "vaefast.functional.hierarchical_kl"
    total: Tensor | None = None
    if not isinstance(layers, Sequence):
        raise TypeError(f"{name}: layers must be a sequence of tuples of tensors, got {type(layers).__name__}")
    if not layers:
        raise ValueError(f"{name}: layers is empty")
    for k, layer in enumerate(layers):
        expected = f"{name}: layer {k} must be (mu, logvar) or (mu, logvar, prior_mu, prior_logvar)"
        if not isinstance(layer, (tuple, list)):
            raise TypeError(f"{expected}, got {type(layer).__name__}")
        if len(layer) not in (2, 4):
            raise ValueError(f"{expected}, got {len(layer)} tensors")
        for each, argument in zip(layer, ("mu", "logvar", "prior_mu", "prior_logvar"), strict=False):
            _checks.tensor(name, f"{argument} of layer {k}", each)
            _checks.same_shape(name, f"{argument} of layer {k}", each, f"mu of layer {k}", layer[0])
        if layer[0].dim() < 1 or layer[0].shape[0] != layers[0][0].shape[0]:
            raise ValueError(
                f"{name}: layer {k} has shape {tuple(layer[0].shape)}; the first dimension of all is the batch"
            )
        _checks.same_device(name, f"mu of layer {k}", layer[0], "that of layer 0", layers[0][0])
    large = [layer for layer in layers if layer[0].numel() >= _LARGE]
    for arity in (2, 4):
        small = [layer for layer in layers if len(layer) == arity and layer[0].numel() < _LARGE]
        if small:
            rows = [[t[:, None] if t.dim() == 1 else t.flatten(1) for t in layer] for layer in small]
            large.append([torch.cat([layer[k] for layer in rows], 1) for k in range(arity)])
    for layer in large:
        kl = gaussian_kl(*layer)
        total = kl if total is None else total + kl
    assert total is not None
    return total


def balanced_kl(
    mu: Tensor,
    logvar: Tensor | None = None,
    prior_mu: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    *,
    balance: float | None = None,
    posterior_weight: float | None = None,
    prior_weight: float | None = None,
    log_scale: Tensor | None = None,
    scale: Tensor | None = None,
    prior_log_scale: Tensor | None = None,
    prior_scale: Tensor | None = None,
    batch_dims: int = 1,
) -> Tensor:
    """KL(q || p) with separate weights for the gradients of prior and posterior (KL balancing, Hafner et al. 2021).

    The result is prior_weight * KL(stop(q) || p) + posterior_weight * KL(q || stop(p)), where stop() is detach(). So the
    gradient of p is multiplied by prior_weight, that of q by posterior_weight, and the value is the KL times their sum.

    Args:
        mu, logvar: mean and log sigma^2 of q, shape (B, L).
        prior_mu, prior_logvar: of p, broadcastable to mu.
        balance: in [0, 1]: the prior's weight; the posterior's is 1 - balance, so the value is the KL. 0.8 if none of the
            three is given. Above 1/2 the prior moves to the posterior faster than the posterior to the prior.
        posterior_weight, prior_weight: both weights, in place of balance (Hafner et al. 2023 have 0.1 and 0.5).
        log_scale, scale, prior_log_scale, prior_scale: in place of the logvars, as for `gaussian_kl`.
        batch_dims: number of leading dimensions that the result keeps.

    Returns:
        nats, shape (B,).

    Raises:
        TypeError: an argument is missing or not a tensor, or only one of the two weights is given.
        ValueError: shapes or devices do not match, a weight is negative, or balance is beside the weights.

    Example:
        >>> mu, scale = torch.ones(2, 1), torch.ones(2, 1)
        >>> balanced_kl(mu, prior_mu=0 * mu, scale=scale, prior_scale=scale)
        tensor([0.5000, 0.5000])
        >>> balanced_kl(mu, prior_mu=0 * mu, scale=scale, prior_scale=scale, posterior_weight=0.1, prior_weight=0.5)
        tensor([0.3000, 0.3000])
    """
    name = "vaefast.functional.balanced_kl"
    if posterior_weight is None and prior_weight is None:
        prior_weight = _checks.number(name, "balance", 0.8 if balance is None else balance, minimum=0.0)
        if prior_weight > 1:
            raise ValueError(f"{name}: balance must be in [0, 1], got {balance}")
        posterior_weight = 1 - prior_weight
    elif balance is not None:
        raise ValueError(f"{name}: balance and the weights exclude each other")
    else:
        posterior_weight = _checks.number(name, "posterior_weight", posterior_weight, minimum=0.0)
        prior_weight = _checks.number(name, "prior_weight", prior_weight, minimum=0.0)
    _checks.tensor(name, "prior_mu", prior_mu)
    if prior_logvar is prior_log_scale is prior_scale is None:
        raise TypeError(f"{name}: one of prior_logvar, prior_log_scale and prior_scale must be given")
    latent, spreads = _checks.latent(
        name, mu, logvar, prior_mu, prior_logvar, log_scale, scale, prior_log_scale, prior_scale
    )
    batch_dims = _checks.batch_dims(name, batch_dims, "mu", mu)
    detached = [t.detach() for t in latent]
    to_prior = latent_kl((*detached[:2], *latent[2:]), "none", batch_dims, spreads)
    to_posterior = latent_kl((*latent[:2], *detached[2:]), "none", batch_dims, spreads)
    return prior_weight * to_prior + posterior_weight * to_posterior


def latent_kl(latent: Sequence[Tensor], reduction: str, batch_dims: int, spreads: tuple[str, ...] = ()) -> Tensor:
    """The KL of operands that `_checks.latent` has returned."""
    return row_sum(kl_term(latent, spreads), latent, None, reduction, batch_dims, spreads=spreads)


def gaussian_kl(
    mu: Tensor,
    logvar: Tensor | None = None,
    prior_mu: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    *,
    log_scale: Tensor | None = None,
    scale: Tensor | None = None,
    prior_log_scale: Tensor | None = None,
    prior_scale: Tensor | None = None,
    reduction: str = "none",
    batch_dims: int = 1,
) -> Tensor:
    r"""KL(q || p) of diagonal Gaussians, q = N(mu, exp(logvar)) and p standard normal unless given.

    With phi(x) = exp(x) - 1 - x and d = logvar - prior_logvar it is the sum over D of
    (phi(d) + (mu - prior_mu)^2 / exp(prior_logvar)) / 2 (Kingma and Welling 2014, appendix B, rearranged so that nothing
    cancels). It is never negative, and 0 only for q = p.

    Args:
        mu, logvar: mean and log sigma^2 of q, shape (B, D).
        prior_mu, prior_logvar: of p, broadcastable to mu; 0 if None.
        log_scale, scale: log sigma, or sigma, of q, in place of logvar. The kernel reads it as it is.
        prior_log_scale, prior_scale: the same of p, in place of prior_logvar. p may have another form than q. If only
            one of both is a scale, its logarithm is computed first.
        reduction: "none", "sum", "mean" or "elementwise".
        batch_dims: number of leading dimensions that are the batch.

    Returns:
        nats, shape (B,), () or (B, D) according to `reduction`.

    Raises:
        TypeError: no form of q's spread is given, or an argument is not a floating-point tensor.
        ValueError: shapes or devices do not match, or two forms of one spread are given.

    Example:
        >>> gaussian_kl(torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]]))
        tensor([0.5000, 0.3591])
        >>> gaussian_kl(torch.tensor([[1.0], [0.0]]), log_scale=torch.tensor([[0.0], [0.5]]))
        tensor([0.5000, 0.3591])
    """
    name = "vaefast.functional.gaussian_kl"
    latent, spreads = _checks.latent(
        name, mu, logvar, prior_mu, prior_logvar, log_scale, scale, prior_log_scale, prior_scale
    )
    _checks.reduction(name, reduction, _checks.ALL_REDUCTIONS)
    return latent_kl(latent, reduction, _checks.batch_dims(name, batch_dims, "mu", mu), spreads)
