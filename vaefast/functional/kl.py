"""The KL of Gaussians and its variants: balanced gradients, many layers. Public as part of vaefast.functional; everything
in nats."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _checks
from ..ops import kl_term, row_sum

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
    mu: Tensor, logvar: Tensor, prior_mu: Tensor, prior_logvar: Tensor, *, balance: float = 0.8, batch_dims: int = 1
) -> Tensor:
    """KL(q || p) with separate weights for the gradients of prior and posterior (KL balancing, Hafner et al. 2021).

    The value is the KL. It is computed as balance * KL(stop(q) || p) + (1 - balance) * KL(q || stop(p)), where stop() is
    detach(). So the gradient of p is multiplied by balance and that of q by 1 - balance.

    Args:
        mu, logvar: mean and log sigma^2 of q, shape (B, L).
        prior_mu, prior_logvar: of p, broadcastable to mu.
        balance: in [0, 1]; above 1/2 the prior moves to the posterior faster than the posterior to the prior.
        batch_dims: number of leading dimensions that the result keeps.

    Returns:
        nats, shape (B,).

    Example:
        >>> balanced_kl(torch.ones(2, 1), torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2, 1))
        tensor([0.5000, 0.5000])
    """
    name = "vaefast.functional.balanced_kl"
    balance = _checks.number(name, "balance", balance, minimum=0.0)
    if balance > 1:
        raise ValueError(f"{name}: balance must be in [0, 1], got {balance}")
    _checks.latent(name, mu, logvar, prior_mu, prior_logvar)
    _checks.tensor(name, "prior_mu", prior_mu)
    _checks.tensor(name, "prior_logvar", prior_logvar)
    to_prior = gaussian_kl(mu.detach(), logvar.detach(), prior_mu, prior_logvar, batch_dims=batch_dims)
    to_posterior = gaussian_kl(mu, logvar, prior_mu.detach(), prior_logvar.detach(), batch_dims=batch_dims)
    return balance * to_prior + (1 - balance) * to_posterior


def latent_kl(latent: Sequence[Tensor], reduction: str, batch_dims: int) -> Tensor:
    return row_sum(kl_term(latent), latent, None, reduction, batch_dims)


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
    cancels). It is never negative, and 0 only for q = p.

    Args:
        mu, logvar: mean and log sigma^2 of q, shape (B, D).
        prior_mu, prior_logvar: of p, broadcastable to mu; 0 if None.
        reduction: "none", "sum", "mean" or "elementwise".
        batch_dims: number of leading dimensions that are the batch.

    Returns:
        nats, shape (B,), () or (B, D) according to `reduction`.

    Example:
        >>> gaussian_kl(torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]]))
        tensor([0.5000, 0.3591])
    """
    name = "vaefast.functional.gaussian_kl"
    latent = _checks.latent(name, mu, logvar, prior_mu, prior_logvar)
    _checks.reduction(name, reduction, _checks.ALL_REDUCTIONS)
    return latent_kl(latent, reduction, _checks.batch_dims(name, batch_dims, "mu", mu))
