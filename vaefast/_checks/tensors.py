"""Checks of a single tensor, and of one tensor against another."""

import torch
from torch import Tensor

_FLOATS = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})
_TARGETS = _FLOATS | {torch.uint8, torch.bool}
READ = frozenset({torch.int16, torch.int32, torch.int64})  # the further integers that kernels read
INTEGERS = READ | {torch.int8, torch.uint16, torch.uint32, torch.uint64}


def instance(function: str, name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        normal = isinstance(value, torch.distributions.Normal)
        advice = "; give its mean and scale, q.loc and scale=q.scale" if normal else ""
        raise TypeError(f"{function}: {name} must be a torch.Tensor, got {type_name(value)}{advice}")
    return value


def dense(function: str, name: str, value: object) -> Tensor:
    value = instance(function, name, value)
    if value.layout is not torch.strided or value.is_nested:
        advice = "; pad it, or pass its values()" if value.is_nested else f", got {value.layout}"
        kind = "a nested tensor" if value.is_nested else "not a dense strided tensor"
        raise NotImplementedError(f"{function}: {name} is {kind}{advice}")
    return value


def tensor(function: str, name: str, value: object, *, target: bool = False, counts: bool = False) -> None:
    """Checks for a dense strided tensor of a dtype that the library computes with. A target may also be bool or uint8, and
    counts any integers."""
    value = dense(function, name, value)
    known = _FLOATS | (_TARGETS if target or counts else frozenset()) | (INTEGERS if counts else frozenset())
    if value.dtype not in known:
        if value.is_quantized:
            raise NotImplementedError(f"{function}: {name} must not be quantized, got {value.dtype}")
        others = ", bool or integers" if counts else ", bool or uint8" if target else ""
        expected = "float32, float64, bfloat16 or float16" + others
        raise TypeError(f"{function}: {name} must be {expected}, got {value.dtype}")


def same_device(function: str, name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if value.device != other.device:
        raise ValueError(f"{function}: {name} is on {value.device} but {other_name} is on {other.device}")


def same_shape(function: str, name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if value.shape != other.shape:
        raise ValueError(
            f"{function}: {name} must have the shape of {other_name}, {tuple(other.shape)}, got {tuple(value.shape)}"
        )
    if value.device != other.device:
        same_device(function, name, value, other_name, other)


def broadcast(function: str, name: str, value: Tensor, other_name: str, other: Tensor) -> Tensor:
    """Returns `value` expanded to the shape of `other`, or 0-dimensional if it has one element."""
    if value.numel() == 1 and value.device == other.device:
        return value.reshape(())
    same_device(function, name, value, other_name, other)
    try:
        return value.expand(other.shape)
    except RuntimeError:
        raise ValueError(
            f"{function}: {name} must be broadcastable to the shape of {other_name}, {tuple(other.shape)}, "
            f"got {tuple(value.shape)}{_trailing(value, other)}"
        ) from None


def _trailing(value: Tensor, other: Tensor) -> str:
    """What to write for a tensor that lacks the last dimensions of another."""
    missing = other.dim() - value.dim()
    if missing > 0 and value.shape == other.shape[: value.dim()]:
        return f"; add {'a dimension' if missing == 1 else 'dimensions'} at its end: [...{', None' * missing}]"
    return ""


def mask(function: str, value: object, other_name: str, other: Tensor) -> Tensor | None:
    if value is None:
        return None
    if not isinstance(value, Tensor) or value.dtype is not torch.bool:
        got = value.dtype if isinstance(value, Tensor) else type_name(value)
        raise TypeError(f"{function}: mask must be a bool tensor, got {got}; write mask.bool()")
    return broadcast(function, "mask", value, other_name, other)


def weight(function: str, value: Tensor, batch: torch.Size, other_name: str, other: Tensor) -> None:
    """Checks the samples' weights: shape `batch`, on the device of `other`."""
    tensor(function, "weight", value)
    if value.shape != batch:
        states = len(batch) == 1 and value.dim() == 2 and value.shape[:1] == batch
        advice = "; for a weight of each step say batch_dims=2" if states else ""
        raise ValueError(f"{function}: weight must have shape {tuple(batch)}, got {tuple(value.shape)}{advice}")
    same_device(function, "weight", value, other_name, other)


def per_sample(function: str, name: str, value: object, batch: torch.Size) -> None:
    if not isinstance(value, Tensor) or value.shape != batch:
        got = tuple(value.shape) if isinstance(value, Tensor) else type_name(value)
        raise ValueError(f"{function}: {name}.log_prob must return a tensor of shape {tuple(batch)}, got {got}")


def type_name(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
