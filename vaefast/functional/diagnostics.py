"""Diagnostics of a posterior: the parts of its KL, and the latent dimensions in use. Public as part of vaefast.functional;
KL in nats."""

from typing import NamedTuple

import torch
from torch import Tensor

from .. import _checks
from ..ops import row_sum
from .log_likelihood import gaussian_log_prob


class KLParts(NamedTuple):
    """The three parts of E[KL(q(z|x) || p(z))], each estimated per sample, shape (B,), in nats."""

    mutual_information: Tensor  # log q(z|x) - log q(z)
    total_correlation: Tensor  # log q(z) - sum_j log q(z_j)
    dimension_kl: Tensor  # sum_j log q(z_j) - log p(z_j)


def kl_decomposition(
    z: Tensor, mu: Tensor, logvar: Tensor, dataset_size: int, *, weights: str = "stratified"
) -> KLParts:
    """The three parts of the KL that beta-TC-VAE weights separately (Chen et al. 2018). The KL is their sum.

    The aggregate posterior q(z) = 1/N sum_n q(z|x_n) is estimated from the batch. "stratified" weights (their appendix
    C.2) give an unbiased estimate: 1/N for the sample's own posterior, 1/(B-1) for all others but one, and
    (N-B+1)/(N(B-1)) for that one. "weighted" means 1/(N B) for each (their equation 5), a biased estimate.

    Args:
        z: samples, shape (B, L).
        mu, logvar: mean and log sigma^2 of q(z|x), shape (B, L).
        dataset_size: N, the number of samples in the data set.
        weights: "stratified" or "weighted".

    Returns:
        KLParts, each (B,). A beta-TC loss is -log_likelihood + mutual_information + beta * total_correlation +
        dimension_kl.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: shapes do not match, B is less than 2, or dataset_size is less than B.

    Example:
        >>> mu, logvar = torch.zeros(4, 2), torch.zeros(4, 2)
        >>> parts = kl_decomposition(torch.randn(4, 2), mu, logvar, dataset_size=100)
        >>> bool((sum(parts).abs() < 1e-5).all())  # q is the prior
        True
    """
    name = "vaefast.functional.kl_decomposition"
    _checks.latent(name, mu, logvar)
    _checks.tensor(name, "z", z)
    _checks.same_shape(name, "z", z, "mu", mu)
    _checks.choice(name, "weights", weights, ("stratified", "weighted"))
    batch = mu.shape[0] if mu.dim() == 2 else 0
    _checks.integer(f"{name}: dataset_size", dataset_size, 1)
    if batch < 2 or dataset_size < batch:
        raise ValueError(
            f"{name}: z must have shape (B, L) with B of at least 2, and dataset_size must be at least B, "
            f"got z of shape {tuple(z.shape)} and dataset_size {dataset_size!r}"
        )
    log_q = _of_pairs(z, mu, logvar)
    own, others = 1 / dataset_size, 1 / (batch - 1)
    if weights == "weighted":
        w = torch.full((batch, batch), 1 / (dataset_size * batch), dtype=log_q.dtype, device=z.device)
    else:
        w = torch.full((batch, batch), others, dtype=log_q.dtype, device=z.device).fill_diagonal_(own)
        rows = torch.arange(batch, device=z.device)
        w[rows, (rows + 1) % batch] = (dataset_size - batch + 1) * own * others
    log_weight = w.log()
    q_z = (log_q.sum(2) + log_weight).logsumexp(1)
    q_each = (log_q + log_weight[..., None]).logsumexp(1).sum(1)
    q_given_x = gaussian_log_prob(z, mu, logvar)
    return KLParts(q_given_x - q_z, q_z - q_each, q_each - gaussian_log_prob(z))


def _of_pairs(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """log q(z_i|x_j) of each dimension, shape (B, B, L)."""
    wide = torch.float64 if torch.float64 in (z.dtype, mu.dtype, logvar.dtype) else torch.float32
    z, mu, logvar = (t.to(wide) for t in (z, mu, logvar))
    pairs = (mu.expand(len(z), *mu.shape), z[:, None].expand(len(z), *mu.shape), logvar.expand(len(z), *mu.shape))
    return row_sum("gaussian", pairs, reduction="elementwise")


def active_units(mu: Tensor, threshold: float = 0.01) -> Tensor:
    """Which latent dimensions are in use: the variance of E_q[z] over the data exceeds `threshold` (Burda et al. 2016).

    Args:
        mu: posterior means of many samples, shape (B, L).
        threshold: the variance that a dimension in use exceeds.

    Returns:
        bool, shape (L,).

    Example:
        >>> active_units(torch.tensor([[-1.0, 0.01], [1.0, 0.0]]))
        tensor([ True, False])
    """
    name = "vaefast.functional.active_units"
    _checks.tensor(name, "mu", mu)
    threshold = _checks.number(name, "threshold", threshold, minimum=0.0)
    if mu.dim() < 2 or mu.shape[0] < 2:
        raise ValueError(f"{name}: mu must have shape (B, L) with B of at least 2, got {tuple(mu.shape)}")
    return mu.var(0) > threshold
