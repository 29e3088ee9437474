"""What losses make of a KL or of the posterior's moments: free bits, a capacity, DIP-VAE's covariance. Public as part of
vaefast.functional; KLs in nats."""

from contextlib import nullcontext

import torch
from torch import Tensor

from .. import _checks
from ..reference import reduced

FREE_BITS = ("dimension", "element", "total", "sample")


def free_bits_kl(kl: Tensor, free_bits: float, per: str = "dimension", batch_dims: int = 1) -> Tensor:
    """The KL term with free bits: `free_bits` nats of it are not penalized. Papers and code define this in four ways.

    Args:
        kl: KL of each sample and dimension, shape (B, L): `gaussian_kl(..., reduction="elementwise")`. A KL of the batch's
            shape has one latent dimension per sample.
        free_bits: nats.
        per: "dimension": sum over dimensions of max(free_bits, mean over the batch) (Kingma et al. 2016, equation 15);
            "element": the maximum for each sample and dimension; "total": max(free_bits, mean over the batch of the sum)
            (Hafner et al. 2019); "sample": max(free_bits, sum over dimensions) for each sample.
        batch_dims: number of leading dimensions that are the batch: 2 for the states of sequences, (B, T, L).

    Returns:
        nats: a scalar for the batch, or of the batch's shape for "element" and "sample", such as (B,) or (B, T).

    Raises:
        TypeError: kl is not a floating-point tensor, or free_bits is not a number.
        ValueError: kl has fewer dimensions than the batch, free_bits is negative, or per is unknown.

    Example:
        >>> kl = torch.tensor([[0.0, 1.0], [0.4, 3.0]])
        >>> free_bits_kl(kl, 0.5), free_bits_kl(kl, 0.5, "element"), free_bits_kl(kl, 3.0, "total")
        (tensor(2.5000), tensor([1.5000, 3.5000]), tensor(3.))
        >>> free_bits_kl(torch.tensor([0.0, 4.0]), 2.0, "sample").mean()
        tensor(3.)
    """
    name = "vaefast.functional.free_bits_kl"
    _checks.tensor(name, "kl", kl)
    free_bits = _checks.number(name, "free_bits", free_bits, minimum=0.0)
    _checks.choice(name, "per", per, FREE_BITS)
    if kl.dim() < 1:
        raise ValueError(f"{name}: kl must have shape (B, L), got {tuple(kl.shape)}")
    batch_dims = _checks.batch_dims(name, batch_dims, "kl", kl)
    kl = kl.to(torch.promote_types(kl.dtype, torch.float32))
    if per == "element":
        return reduced(kl.clamp(min=free_bits), "none", batch_dims)
    if per == "sample":
        return reduced(kl, "none", batch_dims).clamp(min=free_bits)
    means = kl.mean(tuple(range(batch_dims))) if batch_dims else kl  # the mean over no dimensions would be over all
    return means.clamp(min=free_bits).sum() if per == "dimension" else means.sum().clamp(min=free_bits)


def capacity_kl(kl: Tensor, capacity: float | Tensor, gamma: float = 1000.0) -> Tensor:
    """gamma * |mean KL - capacity|: the KL term of Burgess et al. 2018, whose capacity grows during training.

    Args:
        kl: KL of each sample, shape (B,) or of another batch such as (B, T). Its dimensions are all averaged, so the sum
            over latent dimensions comes first.
        capacity: nats; a number or a tensor of one element.
        gamma: the penalty's weight.

    Returns:
        nats, a scalar.

    Raises:
        TypeError: kl is not a floating-point tensor, or capacity or gamma is not a number.
        ValueError: capacity has several elements or is on another device than kl; capacity or gamma is a negative number.

    Example:
        >>> capacity_kl(torch.tensor([1.0, 2.0]), 2.0, gamma=10.0)
        tensor(5.)
    """
    name = "vaefast.functional.capacity_kl"
    _checks.tensor(name, "kl", kl)
    gamma = _checks.number(name, "gamma", gamma, minimum=0.0)
    if not isinstance(capacity, Tensor):
        capacity = _checks.number(name, "capacity", capacity, minimum=0.0)
    else:
        capacity = _checks.dense(name, "capacity", capacity)
        if capacity.numel() != 1:
            raise ValueError(
                f"{name}: capacity must be a number or a tensor of one element, got shape {tuple(capacity.shape)}"
            )
        if capacity.device.type != "cpu":  # a 0-dimensional CPU tensor works with tensors of any device
            _checks.same_device(name, "capacity", capacity, "kl", kl)
        capacity = capacity.reshape(())
    return gamma * (kl.to(torch.promote_types(kl.dtype, torch.float32)).mean() - capacity).abs()


def dip_penalty(mu: Tensor, logvar: Tensor | None = None, *, off_diagonal: float, diagonal: float) -> Tensor:
    r"""off_diagonal * sum_{i != j} C_ij^2 + diagonal * sum_i (C_ii - 1)^2: DIP-VAE's penalty (Kumar et al. 2018).

    It draws the covariance C of the latent dimensions over the batch to the identity, and is added to the loss. Type I has
    C = Cov[mu]. Type II, with logvar, has the covariance of z: C = Cov[mu] + mean of diag(exp(logvar)). The covariance is
    divided by B, not by B - 1.

    Args:
        mu: means of q(z|x), shape (B, L).
        logvar: log sigma^2 of q(z|x), of the same shape, for type II; None for type I.
        off_diagonal, diagonal: weights, numbers of at least 0 (lambda_od and lambda_d).

    Returns:
        a scalar without a unit, differentiable; float64 if mu or logvar is float64, else float32.

    Raises:
        TypeError: mu or logvar is not a floating-point tensor, or a weight is not a number.
        ValueError: mu does not have shape (B, L) with at least one sample, logvar has another shape than mu, or a weight is
            negative.

    Example:
        >>> mu = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])  # variances of 1, and a covariance of 1
        >>> dip_penalty(mu, off_diagonal=10.0, diagonal=5.0)
        tensor(20.)
        >>> dip_penalty(mu, torch.zeros(2, 2), off_diagonal=10.0, diagonal=5.0)  # variances of 2
        tensor(30.)
    """
    name = "vaefast.functional.dip_penalty"
    _checks.tensor(name, "mu", mu)
    if logvar is not None:
        _checks.latent(name, mu, logvar)
    off_diagonal = _checks.number(name, "off_diagonal", off_diagonal, minimum=0.0)
    diagonal = _checks.number(name, "diagonal", diagonal, minimum=0.0)
    if mu.dim() != 2 or mu.shape[0] == 0:
        raise ValueError(f"{name}: mu must have shape (B, L) with B of at least 1, got {tuple(mu.shape)}")
    dtype = torch.promote_types(mu.dtype, torch.float32 if logvar is None else logvar.dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    centered = mu.to(dtype)
    centered = centered - centered.mean(0)
    device = mu.device.type
    cast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    with torch.autocast(device, enabled=False) if cast else nullcontext():  # it would multiply in half precision
        covariance = centered.T @ centered / len(centered)
    variance = covariance.diagonal()
    if logvar is not None:
        variance = variance + logvar.to(dtype).exp().mean(0)
    # Each pair once: the squares of all minus those of the diagonal would lose small covariances.
    return 2 * off_diagonal * covariance.triu(1).square().sum() + diagonal * (variance - 1).square().sum()
