"""Loads the compiled library and names its operators. If loading fails, the ImportError says why. No other module uses
torch.ops."""

import os
import platform
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_REBUILD = "Install vaefast again in this environment: pip install --no-build-isolation --force-reinstall --no-deps ."

try:
    from .._built_for import TORCH as _BUILT_FOR
except ImportError:
    _here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if os.path.exists(os.path.join(os.path.dirname(_here), "setup.py")):
        _REBUILD = (
            "Python imported the folder of vaefast's sources, which is not compiled. Run Python in another folder, or "
            "compile in this one: pip install --no-build-isolation -e ."
        )
    raise ImportError(
        f"vaefast's compiled library is missing from {_here} (torch {torch.__version__} is running). {_REBUILD}"
    ) from None

if _BUILT_FOR.split(".")[:2] != torch.__version__.split(".")[:2]:
    raise ImportError(
        f"vaefast was compiled for torch {_BUILT_FOR}, but torch {torch.__version__} is running. {_REBUILD}"
    )
try:
    from .. import _C
except ImportError as error:
    raise ImportError(
        f"vaefast's compiled library, made for torch {_BUILT_FOR}, does not load in Python "
        f"{platform.python_version()} with torch {torch.__version__}. {_REBUILD} (The loader says: {error})"
    ) from error

set_cpu_isa = _C.set_cpu_isa
cached_bytes = _C.cached_bytes
fast_elbo_loss = _C.fast_elbo_loss  # the fast path: the loss in one call, or None if it does not apply; eager only

row_sum = torch.ops.vaefast.row_sum.default
reduced_term = torch.ops.vaefast.reduced_term.default  # row_sum's value with a derivative
elbo_loss = torch.ops.vaefast.elbo_loss.default  # the loss alone
elbo_parts = torch.ops.vaefast.elbo_parts.default  # (loss, log-likelihood, KL)
elbo_parts_ = torch.ops.vaefast.elbo_parts_.default  # the same in place
rsample = torch.ops.vaefast.rsample.default
rsample_backward = torch.ops.vaefast.rsample_backward.default
scale_ = torch.ops.vaefast.scale_.default
sample_and_kl = torch.ops.vaefast.sample_and_kl.default  # rsample with a derivative

_library = torch.library.Library("vaefast", "FRAGMENT")


def implement(name: str, function: Callable[..., list[Tensor]]) -> None:
    """Registers a function that the autograd nodes in C++ call for a second, differentiable or batched backward pass."""
    for key in ("CompositeImplicitAutograd", "Batched", "FuncTorchBatchedDecomposition"):
        _library.impl(name, function, key)


# The operand of each term that holds data, -1 for none.
TARGET: dict[str, int] = {term["name"]: term["target"] for term in _C.terms()}


_LOG_SCALE, _PRIOR_LOG_SCALE, _SCALE = 1, 2, 4  # Spreads in csrc/ops/ops.h


def spread_bits(spreads: Sequence[str]) -> int:
    """How the latents' spreads are given, for an operator. reference.kl_term says what `spreads` is."""
    if "scale" in spreads:
        return _SCALE
    return sum(
        bit for bit, spread in zip((_LOG_SCALE, _PRIOR_LOG_SCALE), spreads, strict=False) if spread == "log_scale"
    )


def spread_names(bits: int) -> tuple[str, str]:
    """The names for these bits, q's and the prior's; the second means nothing where there is no prior."""
    if bits == _SCALE:
        return ("scale", "scale")
    own, prior = (("log_scale" if bits & bit else "logvar") for bit in (_LOG_SCALE, _PRIOR_LOG_SCALE))
    return own, prior


def build_info() -> dict[str, Any]:
    """What the compiled library was made for.

    Returns:
        "torch": the version that it was compiled against. "devices": the types of device with kernels. "cuda_archs": the
        CUDA architectures, None in a build for the CPU. "cpu_isas": the instruction sets of this machine that have loops of
        their own. "openmp": whether sweeps use several threads. "terms": the number of operands of each term, by its name.

    Example:
        >>> build_info()["terms"]["gaussian"]  # mean, x, logvar
        3
    """
    return _C.build_info()


def cpu_isa() -> str:
    """The CPU instruction set in use: "baseline", "avx2" or "avx512". At first it is the best that the machine has.

    Example:
        >>> cpu_isa() in build_info()["cpu_isas"]
        True
    """
    return _C.cpu_isa()


# Device types with a kernel. The kernel for meta tensors computes shapes only.
DEVICES = frozenset({"meta", *build_info()["devices"]})


def empty_cache() -> None:
    """Frees the memory that vaefast keeps from past gradients and samples to reuse for new ones, at most 256 MiB.

    Example:
        >>> empty_cache()
    """
    _C.empty_cache()
