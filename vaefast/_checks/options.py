"""Checks of options: numbers, names, flags, and objects such as a generator or a prior."""

import math
import sys
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from .tensors import same_device, tensor, type_name

_LARGEST = sys.float_info.max
REDUCTIONS = ("none", "sum", "mean")
ALL_REDUCTIONS = (*REDUCTIONS, "elementwise")
_MEAN = "write 'mean', which is the mean over samples of per-sample sums"
_NO_MEAN = f"a mean over pixels or tokens does not exist here: {_MEAN}"
# Names that other libraries give to a reduction, and the advice that ends the error's sentence.
_OTHER_REDUCTIONS = {
    **dict.fromkeys(("batchmean", "batch", "batch_mean", "average", "avg"), _MEAN),
    **dict.fromkeys(("token_mean", "elementwise_mean"), _NO_MEAN),
}
# A private function of torch that tells whether a backward pass is running. If torch lacks it, the answer is always "no",
# and `generator` below does not notice a forward pass that torch.utils.checkpoint repeats.
_graph_task = getattr(torch._C, "_current_graph_task_id", lambda: -1)


def batch_dims(function: str, value: object, name: str, tensor: Tensor) -> int:
    """Returns the number of leading dimensions that the result keeps. It is 0 for a 0-dimensional tensor, which is one
    sample of one element."""
    value = integer(f"{function}: batch_dims", value, 0)
    if tensor.dim() == 0:
        return 0
    if value > tensor.dim():
        raise ValueError(
            f"{function}: batch_dims must be between 0 and {tensor.dim()}, the dimensions of {name}, got {value}"
        )
    return value


def flag(function: str, name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{function}: {name} must be a bool, got {type_name(value)}")
    return value


def choice(
    function: str, name: str, value: object, allowed: tuple[str, ...], advice: Mapping[str, str] | None = None
) -> None:
    """Checks for one of the names in `allowed`. `advice` says what to write in place of some other names."""
    if not isinstance(value, str) or value not in allowed:
        got = type_name(value) if isinstance(value, Tensor) else repr(value)
        hint = f"; {advice[value]}" if advice and isinstance(value, str) and value in advice else ""
        raise ValueError(f"{function}: {name} must be one of {', '.join(map(repr, allowed))}, got {got}{hint}")


# What people call our arguments.
_HABITS = {
    "beta": "kl_weight kld_weight kl_coef kl_coeff kl_scale kl_lambda lambda_kl kl_factor kl_beta w_kl weight_kl",
    "likelihood": "recon_loss reconstruction_loss recon loss_type loss distribution output_distribution",
    "reduction": "size_average reduce average",
    "logvar": "log_var log_variance logsigma2 log_sigma2 log_sigma_sq z_logvar z_log_var",
    "log_scale": "log_sigma logsigma log_std logstd log_stddev",
    "scale": "sigma std stddev sd z_std",
    "free_bits": "free_nats kl_min min_kl",
    "mask": "pad_mask padding_mask attention_mask",
    "likelihood=vaefast.likelihoods.Categorical(ignore_index=...)": "ignore_index pad_idx padding_idx pad_token_id",
    "weight": "weights sample_weight",
    "logvar=var.log()": "var variance",
    "likelihood=vaefast.likelihoods.Gaussian(scale=...)": "learn_scale optimal_scale constant",
    "prior=... and estimator='mc' where the loss is made": "prior",
    "mu=q.loc, scale=q.scale": "q qz posterior dist",
    "mu": "mean z_mean",
}
_OURS = {theirs: ours for ours, names in _HABITS.items() for theirs in names.split()}


def known(function: str, unknown: dict[str, Any]) -> None:
    """Raises TypeError for arguments that do not exist, and says what their names are here."""
    for name in unknown:
        answer = f"; write {ours}{'' if '=' in ours else '=...'}" if (ours := _OURS.get(name)) else ""
        raise TypeError(f"{function} has no argument {name}{answer}")


def reduction(function: str, value: object, allowed: tuple[str, ...] = REDUCTIONS) -> None:
    choice(function, "reduction", value, allowed, _OTHER_REDUCTIONS)


def number(function: str, name: str, value: object, *, minimum: float = -math.inf) -> float:
    """Returns a finite number of at least `minimum` as a Python int or float. A Fraction, for one, cannot multiply a
    tensor."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Real)):
        raise TypeError(f"{function}: {name} must be a number, got {type_name(value)}")
    if not (minimum <= value <= _LARGEST and value >= -_LARGEST):  # type: ignore[operator] # torch.compile traces this
        bound = "" if minimum == -math.inf else f" of at least {minimum:g}"
        raise ValueError(f"{function}: {name} must be a finite number{bound}, got {value}")
    is_own = type(value) is float or (type(value) is int and -(2**53) <= value <= 2**53)  # torch takes 64 bits only
    return value if is_own else float(value)  # type: ignore[return-value]


def integer(name: str, value: object, minimum: int) -> int:
    """Returns an int of at least `minimum`; numpy's ints are accepted. `name` holds the names of the function and of the
    argument, such as "vaefast.VAE.sample: n"."""
    if isinstance(value, bool) or not isinstance(value, (int, Integral)):
        raise TypeError(f"{name} must be an int, got {type_name(value)}")
    if value < minimum:
        raise ValueError(f"{name} must be an int of at least {minimum}, got {value}")
    return value if isinstance(value, int) else int(value)


def sizes(function: str, name: str, value: object, *, empty: bool = True) -> tuple[int, ...]:
    """Returns a shape or the widths of layers. Each is at most 2^20, so that a product of a few fits in 64 bits."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(f"{function}: {name} must be a sequence of ints, got {type_name(value)}")
    if len(value) == 0 and not empty:
        raise ValueError(f"{function}: {name} must hold at least one int, got {value!r}")
    whole = tuple(integer(f"{function}: each of {name}", size, 1) for size in value)
    if max(whole, default=0) > 2**20:
        raise ValueError(f"{function}: each of {name} must be an int of at most 2^20, got {max(whole)}")
    return whole


def positive(function: str, name: str, value: object) -> float:
    value = number(function, name, value)
    if not value > 0:
        raise ValueError(f"{function}: {name} must be positive, got {value}")
    return value


def interval(function: str, name: str, value: object) -> tuple[float, float]:
    """Returns the two ends of a range, in ascending order."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{function}: {name} must be two numbers, the least and the largest, got {value!r}")
    low, high = (float(number(function, f"each of {name}", end)) for end in value)
    if not low < high:
        raise ValueError(f"{function}: {name} must ascend, got {value!r}")
    return low, high


def beta(function: str, value: object, mu: Tensor | None = None, batch: torch.Size | None = None) -> float | Tensor:
    """Returns a number, or a floating tensor on the device of mu: 0-dimensional, which may also be on the CPU, or of shape
    `batch`. A tensor's value is not read, because on a GPU that would wait for the device."""
    if not isinstance(value, Tensor):
        return number(function, "beta", value, minimum=0.0)
    tensor(function, "beta", value)
    if value.dim() > 0 and value.numel() == 1:
        if mu is None:  # its elements and gradient may change before it is used
            return value
        value = value.reshape(())
    if value.dim() > 0 and (mu is None or value.shape != batch):
        each = "" if batch is None else f", or have the losses' shape {tuple(batch)}"
        raise ValueError(
            f"{function}: beta must be a number or a tensor of one element{each}, got shape {tuple(value.shape)}"
        )
    if mu is not None and (value.dim() > 0 or value.device.type != "cpu"):  # one number on the CPU serves any device
        same_device(function, "beta", value, "mu", mu)
    return value


def generator(function: str, value: object, device: torch.device) -> None:
    if value is None:
        return
    if not isinstance(value, torch.Generator):
        raise TypeError(f"{function}: generator must be a torch.Generator, got {type_name(value)}")
    if value.device != device and (value.device.type != device.type or None not in (value.device.index, device.index)):
        raise ValueError(f"{function}: generator is on {value.device} but the tensors are on {device}")
    if torch.is_grad_enabled() and not torch.compiler.is_compiling() and _graph_task() != -1:
        raise RuntimeError(
            f"{function}: a forward pass that runs again during a backward pass, as under torch.utils.checkpoint, cannot "
            "draw the same noise from generator; leave it out, because checkpoint restores the default one, or give eps"
        )


def num_samples(function: str, value: object) -> None:
    if value is not None:
        integer(f"{function}: num_samples, if not None,", value, 0)


def prior(function: str, value: object, methods: tuple[str, ...] = ("log_prob",)) -> None:
    """Checks an object that represents p(z): it has all of `methods` and is not a class."""
    if isinstance(value, type) or not all(hasattr(value, method) for method in methods):
        got = f"the class {value.__name__}" if isinstance(value, type) else type_name(value)
        raise TypeError(f"{function}: prior must be an object with {' and '.join(methods)}, got {got}")
