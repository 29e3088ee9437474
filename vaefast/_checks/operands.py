"""Checks of tensors that an operation takes together: latents, a prediction and its data, a likelihood's parameters."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .options import number
from .tensors import INTEGERS, READ, broadcast, instance, same_shape, tensor

# The forms of a Gaussian's spread, by the names of their arguments.
SPREADS = ("logvar", "log_scale", "scale")


def same_batch(function: str, x: Tensor, mu: Tensor, batch_dims: int = 1) -> torch.Size:
    """Returns the batch, which must be the first dimensions of both x and mu."""
    if x.shape[:batch_dims] != mu.shape[:batch_dims] or min(x.dim(), mu.dim()) < batch_dims:
        first = "first dimension of both is" if batch_dims == 1 else f"first {batch_dims} dimensions of both are"
        raise ValueError(
            f"{function}: x has shape {tuple(x.shape)} but mu has shape {tuple(mu.shape)}; the {first} the batch"
        )
    return x.shape[:batch_dims]


def matched(
    function: str,
    likelihood: Any,
    recon_x: Any,
    x: Tensor,
    mask: Any,
    batch_dims: int = 1,
    samples_dim: int | None = None,
) -> tuple[Any, Any]:
    """Returns x and mask in the shape of the prediction, where a likelihood of independent elements allows it: one of both
    is flat, or they differ by dimensions of size 1. The elements then have the same order, whatever they are. recon_x has
    samples_dim as a dimension more than x."""
    first = recon_x[0] if isinstance(recon_x, (tuple, list)) and recon_x else recon_x
    if not (isinstance(first, Tensor) and isinstance(x, Tensor) and getattr(likelihood, "elementwise", False)):
        return x, mask
    if first.is_nested or x.is_nested or first.shape == x.shape:  # the likelihood refuses what is nested
        return x, mask
    ours, theirs, each = first.shape, x.shape, ""
    if samples_dim is not None:
        ours, each = torch.Size((*ours[:samples_dim], *ours[samples_dim + 1 :])), " for each sample of z"
        if ours == theirs or ours[:batch_dims] != theirs[:batch_dims]:  # the caller knows what samples there are
            return x, mask
    events = ours[batch_dims:], theirs[batch_dims:]
    same = math.prod(ours) == math.prod(theirs)  # numel() would make a constant of a symbolic size
    flat = min(map(len, events)) <= 1
    if not (
        ours[:batch_dims] == theirs[:batch_dims]
        and min(len(ours), len(theirs)) >= batch_dims
        and same
        and (flat or [n for n in events[0] if n != 1] == [n for n in events[1] if n != 1])
    ):
        raise ValueError(
            f"{function}: recon_x has shape {tuple(first.shape)}, {math.prod(ours)} elements{each}, and x has shape "
            f"{tuple(theirs)}, {math.prod(theirs)} elements; {_advice(ours, theirs, batch_dims)}"
        )
    if isinstance(mask, Tensor) and mask.dtype is torch.bool:
        mask = broadcast(function, "mask", mask, "x", x)
        mask = mask if mask.dim() == 0 else mask.reshape(ours)
    return x.reshape(ours), mask


def _advice(ours: torch.Size, theirs: torch.Size, batch_dims: int) -> str:
    """What to do about a prediction and data whose shapes do not go together."""
    if math.prod(ours) != math.prod(theirs):
        return "a decoder must return one number for each element of x: change its last layer, or crop or resize x"
    if ours[:batch_dims] != theirs[:batch_dims]:
        return f"their first {'dimension is' if batch_dims == 1 else f'{batch_dims} dimensions are'} the batch"
    if sorted(ours) == sorted(theirs):
        return "permute one to the order of the other, such as x.permute(0, 3, 1, 2) for channels that are last"
    return f"if their elements have one order, flatten both: recon_x.flatten({batch_dims}) and x.flatten({batch_dims})"


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
    function: str,
    mu: Tensor,
    logvar: Tensor | None,
    prior_mu: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    log_scale: Tensor | None = None,
    scale: Tensor | None = None,
    prior_log_scale: Tensor | None = None,
    prior_scale: Tensor | None = None,
) -> tuple[tuple[Tensor, ...], tuple[str, ...]]:
    """Returns the KL's operands, and how the spreads are given. The operands are mu and q's spread, followed by those of
    the prior if either is given. The second result is () if all spreads are logvars."""
    tensor(function, "mu", mu)
    kind, own = _one_of(function, "", (logvar, log_scale, scale))
    if own is None:
        raise TypeError(f"{function}: one of logvar, log_scale and scale must be given")
    tensor(function, kind, own)
    same_shape(function, kind, own, "mu", mu)
    if prior_mu is prior_logvar is prior_log_scale is prior_scale is None:
        return (mu, own), () if kind == "logvar" else (kind,)
    other, given = _one_of(function, "prior_", (prior_logvar, prior_log_scale, prior_scale))
    if given is None:
        other, given = kind, 1.0 if kind == "scale" else 0.0
    mean = parameter(function, "prior_mu", 0.0 if prior_mu is None else prior_mu, "mu", mu)
    sides = [(kind, own), (other, parameter(function, f"prior_{other}", given, "mu", mu))]
    if (kind == "scale") != (other == "scale"):  # the kernels take both by sigma, or neither
        sides = [_by_logarithm(*side) for side in sides]
    (kind, own), (other, theirs) = sides
    return (mu, own, mean, theirs), () if kind == other == "logvar" else (kind, other)


def _one_of(function: str, prefix: str, spread: Sequence[Any]) -> tuple[str, Any]:
    """Returns the form and the value of the one spread that is given, and ("logvar", None) if none is."""
    given = [(name, value) for name, value in zip(SPREADS, spread, strict=True) if value is not None]
    if len(given) > 1:
        names = " and ".join(prefix + name for name, _ in given)
        raise ValueError(f"{function}: {names} exclude each other; they are forms of one spread")
    return given[0] if given else ("logvar", None)


def _by_logarithm(kind: str, spread: Tensor) -> tuple[str, Tensor]:
    if kind != "scale":
        return kind, spread
    return "log_scale", spread.to(torch.promote_types(spread.dtype, torch.float32)).log()


def prediction(function: str, name: str, value: Tensor, x: Tensor, *, counts: bool = False) -> tuple[Tensor, Tensor]:
    """Returns the decoder's output and data of the same shape, both checked. Counts may be integers of any type."""
    tensor(function, name, value)
    tensor(function, "x", x, target=True, counts=counts)
    same_shape(function, "x", x, name, value)
    return value, readable(x)


def readable(x: Tensor) -> Tensor:
    """Data of a dtype that kernels read."""
    if x.dtype not in INTEGERS - READ:
        return x
    return x.to(torch.float64 if x.dtype == torch.uint64 else torch.int64)


def parameter(
    function: str, name: str, value: Tensor | float, other_name: str, other: Tensor, *, expand: bool = True
) -> Tensor:
    """Converts a number, or a tensor broadcastable to `other`, to an operand that fits `other`. Without `expand` the tensor
    keeps its shape, and the kernel reads it by stride."""
    if isinstance(value, Tensor):
        tensor(function, name, value)
        fits = broadcast(function, name, value, other_name, other)
        return fits if expand or fits.dim() == 0 else value
    value = number(function, name, value)
    dtype = torch.float64 if other.dtype is torch.float64 else torch.float32
    return other.new_full((), value, dtype=dtype)
