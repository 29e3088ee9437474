"""Fake kernels: they give torch.compile and torch.export the shapes and dtypes of the operators' results."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..reference import MIXTURE
from . import library


def _compute_dtype(term: str, operands: Sequence[Tensor]) -> torch.dtype:
    if term == MIXTURE:
        _, _, mean, log_scale, _, *coupling = operands
        return _wide([operands[0], mean, log_scale, *coupling])
    return _wide(t for k, t in enumerate(operands) if k != library.TARGET[term])


def _wide(operands: Iterable[Tensor]) -> torch.dtype:
    return torch.float64 if any(t.dtype == torch.float64 for t in operands) else torch.float32


def _gradients(operands: Sequence[Tensor], gradients: int) -> list[Tensor]:
    return [t.new_empty(t.shape) for k, t in enumerate(operands) if gradients >> k & 1]


def _ordered(t: Tensor, batch_dims: int) -> Tensor:
    """A gradient of a mixture: the batch comes first, and the other dimensions have the operand's order."""
    if t.stride(-1) == 1 or t.numel() == 0:
        return t.new_empty(t.shape)
    event = torch.empty_like(t[(0,) * batch_dims])
    batch = t.new_empty(t.shape[:batch_dims], device="meta").stride()
    return t.new_empty_strided(t.shape, (*(n * event.numel() for n in batch), *event.stride()))


@torch.library.register_fake("vaefast::row_sum")
def _(
    term: str,
    operands: list[Tensor],
    mask: Tensor | None,
    coef: Tensor | None,
    reduction: str,
    batch_dims: int,
    target_scale: float,
    gradients: int,
    value: bool,
    spreads: int = 0,
) -> tuple[Tensor, list[Tensor]]:
    full = operands[0].shape
    each = (*full[:batch_dims], full[-1]) if term == MIXTURE else full
    shapes = {"none": full[:batch_dims], "elementwise": each}
    shape = shapes.get(reduction, ()) if value else (0,)
    out = operands[0].new_empty(shape, dtype=_compute_dtype(term, operands))
    if term == MIXTURE:
        return out, [_ordered(t, batch_dims) for k, t in enumerate(operands) if gradients >> k & 1]
    return out, _gradients(operands, gradients)


@torch.library.register_fake("vaefast::elbo")
def _(
    likelihood: str,
    operands: list[Tensor],
    latent: list[Tensor],
    mask: Tensor | None,
    weight: Tensor | None,
    kl_weight: Tensor | None,
    beta: float,
    reduction: str,
    batch_dims: int,
    target_scale: float,
    spreads: int,
    gradients: int,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    fit_dtype, kl_dtype = _compute_dtype(likelihood, operands), _wide(latent)
    batch = operands[0].shape[:batch_dims]
    loss = operands[0].new_empty((), dtype=torch.promote_types(fit_dtype, kl_dtype))
    fit = operands[0].new_empty(batch, dtype=fit_dtype)
    kl = latent[0].new_empty(batch, dtype=kl_dtype)
    return loss, fit, kl, _gradients([*operands, *latent], gradients)


@torch.library.register_fake("vaefast::rsample")
def _(
    latent: list[Tensor],
    key: Tensor | None,
    num_samples: int,
    kl: bool,
    batch_dims: int,
    generator: torch.Generator | None,
    spreads: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    mu = latent[0]
    z = mu.new_empty(mu.shape if num_samples < 0 else (num_samples, *mu.shape))
    sums = mu.new_empty(mu.shape[:batch_dims] if kl else (0,), dtype=_wide(latent))
    return z, sums, mu.new_empty((2,), dtype=torch.int64)


@torch.library.register_fake("vaefast::rsample_backward")
def _(
    latent: list[Tensor],
    key: Tensor,
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    num_samples: int,
    batch_dims: int,
    gradients: int,
    spreads: int = 0,
) -> list[Tensor]:
    return _gradients(latent, gradients)


@torch.library.register_fake("vaefast::scale_")
def _(tensors: list[Tensor], factor: Tensor) -> None:
    return None
