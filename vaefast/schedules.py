"""Schedules of beta, the weight of the KL, during training. They return 0-dimensional tensors, because the value of a
tensor may change every step without a recompilation of the loss.

>>> for step in range(3):
...     beta = linear(step, 2)  # criterion(recon_x, x, mu, logvar, beta=beta)
"""

import math

import torch
from torch import Tensor

from . import _checks

__all__ = ["cyclical", "linear", "sigmoid"]


def _check(function: str, step: float, start: float, stop: float, **lengths: float) -> None:
    _checks.number(function, "step", step, minimum=0.0)
    _checks.number(function, "start", start)
    _checks.number(function, "stop", stop)
    for name, value in lengths.items():
        _checks.positive(function, name, value)


def linear(step: float, warmup: float, *, start: float = 0.0, stop: float = 1.0) -> Tensor:
    """Moves linearly from `start` at step 0 to `stop` at step `warmup`, and stays there (Bowman et al. 2016).

    Args:
        step: number of training steps so far.
        warmup: steps until `stop` is reached.
        start, stop: first and last value.

    Returns:
        A 0-dimensional tensor of torch's default dtype.

    Raises:
        TypeError: an argument is not a number.
        ValueError: step is negative, warmup is not positive, or a number is not finite.

    Example:
        >>> linear(25, 100), linear(1000, 100)
        (tensor(0.2500), tensor(1.))
    """
    _check("vaefast.schedules.linear", step, start, stop, warmup=warmup)
    return torch.tensor(float(start + (stop - start) * min(1.0, step / warmup)))


def cyclical(step: float, period: float, *, ramp: float = 0.5, start: float = 0.0, stop: float = 1.0) -> Tensor:
    """Repeats every `period` steps: linearly from `start` to `stop`, then `stop` (Fu et al. 2019).

    Args:
        step: number of training steps so far.
        period: steps of one repetition.
        ramp: part of the period in which the value moves, in (0, 1].
        start, stop: first and last value of a period.

    Returns:
        A 0-dimensional tensor of torch's default dtype.

    Raises:
        TypeError: an argument is not a number.
        ValueError: step is negative, period is not positive, ramp is not in (0, 1], or a number is not finite.

    Example:
        >>> cyclical(25, 100), cyclical(75, 100), cyclical(125, 100)
        (tensor(0.5000), tensor(1.), tensor(0.5000))
    """
    _check("vaefast.schedules.cyclical", step, start, stop, period=period, ramp=ramp)
    if ramp > 1:
        raise ValueError(f"vaefast.schedules.cyclical: ramp is a part of the period, at most 1, got {ramp}")
    return linear(step % period, ramp * period, start=start, stop=stop)


def sigmoid(
    step: float, midpoint: float, *, width: float | None = None, start: float = 0.0, stop: float = 1.0
) -> Tensor:
    """start + (stop - start) / (1 + exp(-(step - midpoint) / width)), which is half way at `midpoint` (Bowman et al. 2016).

    Args:
        step: number of training steps so far.
        midpoint: the step at which the value is half way.
        width: steps in which the odds grow by a factor of e; a tenth of midpoint if None.
        start, stop: limits of the value.

    Returns:
        A 0-dimensional tensor of torch's default dtype.

    Raises:
        TypeError: an argument is not a number.
        ValueError: step is negative, midpoint or width is not positive, or a number is not finite.

    Example:
        >>> sigmoid(100, 100), sigmoid(1000, 100)
        (tensor(0.5000), tensor(1.))
    """
    name = "vaefast.schedules.sigmoid"
    _check(name, step, start, stop, midpoint=midpoint)
    width = midpoint / 10 if width is None else width
    _check(name, step, start, stop, width=width)
    return torch.tensor(start + (stop - start) * 0.5 * (1 + math.tanh((step - midpoint) / (2 * width))))
