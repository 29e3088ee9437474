"""What arguments may be, said once. A message names the function, the argument, what it got and what it expected."""

import math
import sys
from collections.abc import Sequence
from numbers import Integral, Real

import torch
from torch import Tensor

# A private name of torch, which says whether a backward pass is running. A torch without it says "no": then `generator`
# below does not notice a forward pass that torch.utils.checkpoint repeats.
_graph_task = getattr(torch._C, "_current_graph_task_id", lambda: -1)

_LARGEST = sys.float_info.max

REDUCTIONS = ("none", "sum", "mean")
_FLOATS = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})
_TARGETS = _FLOATS | {torch.uint8, torch.bool}


def instance(function: str, name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{function}: {name} must be a torch.Tensor, got {_type_name(value)}")
    return value


def dense(function: str, name: str, value: object) -> Tensor:
    value = instance(function, name, value)
    if value.layout is not torch.strided or value.is_nested:
        advice = "; pad it, or pass its values()" if value.is_nested else f", got {value.layout}"
        kind = "a nested tensor" if value.is_nested else "not a dense strided tensor"
        raise NotImplementedError(f"{function}: {name} is {kind}{advice}")
    return value


def tensor(function: str, name: str, value: object, *, target: bool = False) -> None:
    """A dense strided tensor of a dtype that the library computes with; a target may also be bool or uint8."""
    value = dense(function, name, value)
    if value.dtype not in (_TARGETS if target else _FLOATS):
        if value.is_quantized:
            raise NotImplementedError(f"{function}: {name} must not be quantized, got {value.dtype}")
        expected = "float32, float64, bfloat16 or float16" + (", bool or uint8" if target else "")
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
    """`value` expanded to the shape of `other`; one element stays one element."""
    if value.numel() == 1 and value.device == other.device:
        return value.reshape(())
    same_device(function, name, value, other_name, other)
    try:
        return value.expand(other.shape)
    except RuntimeError:
        raise ValueError(
            f"{function}: {name} must be broadcastable to the shape of {other_name}, {tuple(other.shape)}, "
            f"got {tuple(value.shape)}"
        ) from None


def mask(function: str, value: object, other_name: str, other: Tensor) -> Tensor | None:
    if value is None:
        return None
    if not isinstance(value, Tensor) or value.dtype is not torch.bool:
        got = value.dtype if isinstance(value, Tensor) else _type_name(value)
        raise TypeError(f"{function}: mask must be a bool tensor, got {got}")
    return broadcast(function, "mask", value, other_name, other)


def weight(function: str, value: Tensor, batch: torch.Size, other_name: str, other: Tensor) -> None:
    """A weight for each sample, on the device of another tensor."""
    tensor(function, "weight", value)
    if value.shape != batch:
        raise ValueError(f"{function}: weight must have shape {tuple(batch)}, got {tuple(value.shape)}")
    same_device(function, "weight", value, other_name, other)


def batch_dims(function: str, value: object, name: str, tensor: Tensor) -> int:
    """The number of leading dimensions that the result keeps. A 0-dimensional tensor is one sample of one element."""
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
        raise TypeError(f"{function}: {name} must be a bool, got {_type_name(value)}")
    return value


def choice(function: str, name: str, value: object, allowed: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in allowed:
        got = _type_name(value) if isinstance(value, Tensor) else repr(value)
        raise ValueError(f"{function}: {name} must be one of {', '.join(map(repr, allowed))}, got {got}")


def reduction(function: str, value: object, allowed: tuple[str, ...] = REDUCTIONS) -> None:
    choice(function, "reduction", value, allowed)


def number(function: str, name: str, value: object, *, minimum: float = -math.inf) -> float:
    """A finite number of at least `minimum`, as an int or a float of Python's own: a Fraction multiplies no tensor."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Real)):
        raise TypeError(f"{function}: {name} must be a number, got {_type_name(value)}")
    if not (minimum <= value <= _LARGEST and value >= -_LARGEST):  # type: ignore[operator] # torch.compile traces this
        bound = "" if minimum == -math.inf else f" of at least {minimum:g}"
        raise ValueError(f"{function}: {name} must be a finite number{bound}, got {value}")
    is_own = type(value) is float or (type(value) is int and -(2**53) <= value <= 2**53)  # torch takes no longer ints
    return value if is_own else float(value)  # type: ignore[return-value]


def integer(name: str, value: object, minimum: int) -> int:
    """An int of at least `minimum`, numpy's too; `name` is of function and argument, "vaefast.VAE.sample: n"."""
    if isinstance(value, bool) or not isinstance(value, (int, Integral)):
        raise TypeError(f"{name} must be an int, got {_type_name(value)}")
    if value < minimum:
        raise ValueError(f"{name} must be an int of at least {minimum}, got {value}")
    return value if isinstance(value, int) else int(value)


def sizes(function: str, name: str, value: object, *, empty: bool = True) -> tuple[int, ...]:
    """A shape, or the widths of layers; none of more than 2^20, so that products of a few stay within 64 bits."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(f"{function}: {name} must be a sequence of ints, got {_type_name(value)}")
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


def beta(function: str, value: object, other_name: str = "", other: Tensor | None = None) -> float | Tensor:
    """A number, or a 0-dimensional floating tensor whose value is not looked at, on the device of `other`."""
    if not isinstance(value, Tensor):
        return number(function, "beta", value, minimum=0.0)
    tensor(function, "beta", value)
    if value.dim() != 0:
        raise ValueError(f"{function}: beta must be a number or a 0-dimensional tensor, got shape {tuple(value.shape)}")
    if other is not None and value.device.type != "cpu":  # a 0-dimensional CPU tensor works with tensors of any device
        same_device(function, "beta", value, other_name, other)
    return value


def sample(function: str, z: object) -> None:
    """A sample of q(z|x) that no loss with gradient="dreg" has taken: such a loss changes the gradient that z receives."""
    tensor(function, "z", z)
    if getattr(z, "_vaefast_dreg", False) and torch.is_grad_enabled():
        raise ValueError(f"{function}: z belongs to a gradient='dreg' loss, which weights its gradient; sample it anew")


def per_sample(function: str, name: str, value: object, batch: torch.Size) -> None:
    if not isinstance(value, Tensor) or value.shape != batch:
        got = tuple(value.shape) if isinstance(value, Tensor) else _type_name(value)
        raise ValueError(f"{function}: {name}.log_prob must return a tensor of shape {tuple(batch)}, got {got}")


def generator(function: str, value: object, device: torch.device) -> None:
    if value is None:
        return
    if not isinstance(value, torch.Generator):
        raise TypeError(f"{function}: generator must be a torch.Generator, got {_type_name(value)}")
    if value.device != device and (value.device.type != device.type or None not in (value.device.index, device.index)):
        raise ValueError(f"{function}: generator is on {value.device} but the tensors are on {device}")
    if torch.is_grad_enabled() and not torch.compiler.is_compiling() and _graph_task() != -1:
        raise RuntimeError(
            f"{function}: a forward pass that runs again during a backward pass, as under torch.utils.checkpoint, cannot "
            "draw the same noise from generator; leave it out, for checkpoint restores the default one, or give eps"
        )


def num_samples(function: str, value: object) -> None:
    if value is not None:
        integer(f"{function}: num_samples, if not None,", value, 0)


def prior(function: str, value: object, methods: tuple[str, ...] = ("log_prob",)) -> None:
    """An object that stands for p(z)."""
    if isinstance(value, type) or not all(hasattr(value, method) for method in methods):
        got = f"the class {value.__name__}" if isinstance(value, type) else _type_name(value)
        raise TypeError(f"{function}: prior must be an object with {' and '.join(methods)}, got {got}")


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


def _type_name(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
