"""The compiled operators: loads the library, says clearly why it cannot, and registers the fake kernels that
torch.compile and torch.export trace with. Nothing else in the package touches torch.ops."""

import os
import platform
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_REBUILD = "Install vaefast again in this environment: pip install --no-build-isolation --force-reinstall --no-deps ."

try:
    from ._built_for import TORCH as _BUILT_FOR
except ImportError:
    _here = os.path.dirname(__file__)
    if os.path.exists(os.path.join(os.path.dirname(_here), "setup.py")):
        _REBUILD = (
            "These are vaefast's sources, which Python finds before an installed vaefast while it runs in their folder: "
            "run it elsewhere, or compile in place: pip install --no-build-isolation -e ."
        )
    raise ImportError(
        f"vaefast's compiled library is missing from {_here} (torch {torch.__version__} is running). {_REBUILD}"
    ) from None

if _BUILT_FOR.split(".")[:2] != torch.__version__.split(".")[:2]:
    raise ImportError(
        f"vaefast was compiled for torch {_BUILT_FOR}, but torch {torch.__version__} is running. {_REBUILD}"
    )
try:
    from . import _C
except ImportError as error:
    raise ImportError(
        f"vaefast's compiled library, made for torch {_BUILT_FOR}, does not load in Python "
        f"{platform.python_version()} with torch {torch.__version__}. {_REBUILD} (The loader says: {error})"
    ) from error

build_info = _C.build_info
cpu_isa = _C.cpu_isa
set_cpu_isa = _C.set_cpu_isa
cached_bytes = _C.cached_bytes
fast_elbo_loss = _C.fast_elbo_loss

row_sum = torch.ops.vaefast.row_sum.default
elbo = torch.ops.vaefast.elbo.default
elbo_loss = torch.ops.vaefast.elbo_loss.default  # elbo's loss alone, with a derivative; eager only
elbo_ = torch.ops.vaefast.elbo_.default
rsample = torch.ops.vaefast.rsample.default
rsample_backward = torch.ops.vaefast.rsample_backward.default
scale_ = torch.ops.vaefast.scale_.default

sample_and_kl = torch.ops.vaefast.sample_and_kl.default  # rsample with a derivative; eager only

_library = torch.library.Library("vaefast", "FRAGMENT")


def implement(name: str, function: Callable[..., list[Tensor]]) -> None:
    """Registers what the derivatives in C++ call where more is asked of them than one plain backward pass."""
    for key in ("CompositeImplicitAutograd", "Batched", "FuncTorchBatchedDecomposition"):
        _library.impl(name, function, key)


# With a kernel; meta tensors have shapes only.
DEVICES = frozenset({"meta", *build_info()["devices"]})


def empty_cache() -> None:
    """Gives back the memory that freed gradients and samples have left for the next ones, at most 256 MiB.

    Example:
        >>> empty_cache()
        >>> cached_bytes()
        0
    """
    _C.empty_cache()


def _target(term: str) -> int:
    """The operand that holds data, which does not decide the compute type."""
    return -1 if term.startswith("gaussian_kl") else 1


def _compute_dtype(term: str, operands: Sequence[Tensor]) -> torch.dtype:
    wide = any(t.dtype == torch.float64 for k, t in enumerate(operands) if k != _target(term))
    return torch.float64 if wide else torch.float32


def _gradients(operands: Sequence[Tensor], gradients: int) -> list[Tensor]:
    return [t.new_empty(t.shape) for k, t in enumerate(operands) if gradients >> k & 1]


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
) -> tuple[Tensor, list[Tensor]]:
    full = operands[0].shape
    shapes = {"none": full[:batch_dims], "elementwise": full}
    shape = shapes.get(reduction, ()) if value else (0,)
    out = operands[0].new_empty(shape, dtype=_compute_dtype(term, operands))
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
    gradients: int,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    fit_dtype, kl_dtype = _compute_dtype(likelihood, operands), _compute_dtype("gaussian_kl", latent)
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
) -> tuple[Tensor, Tensor, Tensor]:
    mu = latent[0]
    z = mu.new_empty(mu.shape if num_samples < 0 else (num_samples, *mu.shape))
    sums = mu.new_empty(mu.shape[:batch_dims] if kl else (0,), dtype=_compute_dtype("gaussian_kl", latent))
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
) -> list[Tensor]:
    return _gradients(latent, gradients)


@torch.library.register_fake("vaefast::scale_")
def _(tensors: list[Tensor], factor: Tensor) -> None:
    return None
