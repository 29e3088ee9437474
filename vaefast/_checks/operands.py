"""Checks of tensors that an operation takes together: latents, a prediction and its data, a likelihood's parameters."""

import torch
from torch import Tensor

from .options import number
from .tensors import broadcast, instance, same_shape, tensor


def same_batch(function: str, x: Tensor, mu: Tensor) -> torch.Size:
    """Returns the batch, which must be the first dimension of both x and mu."""
    if x.shape[:1] != mu.shape[:1] or x.dim() == 0:
        raise ValueError(
            f"{function}: x has shape {tuple(x.shape)} but mu has shape {tuple(mu.shape)}; "
            "the first dimension of both is the batch"
        )
    return x.shape[:1]


def sample(function: str, z: object) -> None:
    """Checks a sample of q(z|x). A loss with gradient="dreg" changes the gradient of its z, so no other loss may use it."""
    tensor(function, "z", z)
    if getattr(z, "_vaefast_dreg", False) and torch.is_grad_enabled():
        raise ValueError(f"{function}: z belongs to a gradient='dreg' loss, which weights its gradient; draw a new one")


def encoded(function: str, value: object) -> tuple[Tensor, Tensor]:
    """Returns (mu, logvar) from an encoder's output: a pair, or one tensor that is split in two along dimension 1."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{function}: an encoder must return (mu, logvar), got {len(value)} tensors")
        mu, logvar = (instance(function, "each of an encoder's (mu, logvar)", t) for t in value)
        return mu, logvar
    value = instance(function, "an encoder's output, if not (mu, logvar),", value)
    if value.dim() < 2 or value.shape[1] % 2:
        got = tuple(value.shape)
        raise ValueError(f"{function}: an encoder's single output must split in two along dimension 1, got {got}")
    mu, logvar = value.chunk(2, 1)
    return mu, logvar


def latent(
    function: str, mu: Tensor, logvar: Tensor, prior_mu: Tensor | None = None, prior_logvar: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Returns the KL's operands: (mu, logvar), followed by (prior_mu, prior_logvar) if either is given."""
    tensor(function, "mu", mu)
    tensor(function, "logvar", logvar)
    same_shape(function, "logvar", logvar, "mu", mu)
    if prior_mu is None and prior_logvar is None:
        return mu, logvar
    priors = (("prior_mu", prior_mu), ("prior_logvar", prior_logvar))
    return mu, logvar, *(parameter(function, name, 0.0 if p is None else p, "mu", mu) for name, p in priors)


def prediction(function: str, name: str, value: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the decoder's output and data of the same shape, both checked."""
    tensor(function, name, value)
    tensor(function, "x", x, target=True)
    same_shape(function, "x", x, name, value)
    return value, x


def parameter(function: str, name: str, value: Tensor | float, other_name: str, other: Tensor) -> Tensor:
    """Converts a number, or a tensor broadcastable to `other`, to an operand that fits `other`."""
    if isinstance(value, Tensor):
        tensor(function, name, value)
        return broadcast(function, name, value, other_name, other)
    value = number(function, name, value)
    dtype = torch.float64 if other.dtype is torch.float64 else torch.float32
    return other.new_full((), value, dtype=dtype)
