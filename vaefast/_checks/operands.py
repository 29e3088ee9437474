"""What the operands of an operation may be together: latents, a prediction beside data, a likelihood's parameters."""

import torch
from torch import Tensor

from .options import number
from .tensors import broadcast, instance, same_shape, tensor


def same_batch(function: str, x: Tensor, mu: Tensor) -> torch.Size:
    """The batch, which is the first dimension of data and latents."""
    if x.shape[:1] != mu.shape[:1] or x.dim() == 0:
        raise ValueError(
            f"{function}: x has shape {tuple(x.shape)} but mu has shape {tuple(mu.shape)}; "
            "the first dimension of both is the batch"
        )
    return x.shape[:1]


def sample(function: str, z: object) -> None:
    """A sample of q(z|x) that no loss with gradient="dreg" has taken: such a loss changes the gradient that z receives."""
    tensor(function, "z", z)
    if getattr(z, "_vaefast_dreg", False) and torch.is_grad_enabled():
        raise ValueError(f"{function}: z belongs to a gradient='dreg' loss, which weights its gradient; sample it anew")


def encoded(function: str, value: object) -> tuple[Tensor, Tensor]:
    """(mu, logvar) of what an encoder returned: such a pair, or one tensor that is split in two along dimension 1."""
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
    """The KL's operands: (mu, logvar), and where one is given the prior's, which broadcast to mu."""
    tensor(function, "mu", mu)
    tensor(function, "logvar", logvar)
    same_shape(function, "logvar", logvar, "mu", mu)
    if prior_mu is None and prior_logvar is None:
        return mu, logvar
    priors = (("prior_mu", prior_mu), ("prior_logvar", prior_logvar))
    return mu, logvar, *(parameter(function, name, 0.0 if p is None else p, "mu", mu) for name, p in priors)


def prediction(function: str, name: str, value: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """A likelihood's operands: the decoder's output, and data of its shape."""
    tensor(function, name, value)
    tensor(function, "x", x, target=True)
    same_shape(function, "x", x, name, value)
    return value, x


def parameter(function: str, name: str, value: Tensor | float, other_name: str, other: Tensor) -> Tensor:
    """A number, or a tensor broadcastable to `other`, as an operand beside it."""
    if isinstance(value, Tensor):
        tensor(function, name, value)
        return broadcast(function, name, value, other_name, other)
    value = number(function, name, value)
    dtype = torch.float64 if other.dtype is torch.float64 else torch.float32
    return other.new_full((), value, dtype=dtype)
