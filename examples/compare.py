"""A training before and after a change: the difference of losses and gradients, and the time of a step."""

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.benchmark import Timer

import vaefast
from vaefast import data

Step = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Side:
    """One way to train: a module, and a step that takes a batch, updates the module and returns the loss."""

    module: nn.Module
    step: Step


def side(module: nn.Module, loss: Step, optimizer: torch.optim.Optimizer | None = None) -> Side:
    """The plain training step of a module: gradients, Adam or the given optimizer."""
    optimizer = optimizer or torch.optim.Adam(module.parameters(), 1e-3)

    def step(x: Tensor) -> Tensor:
        optimizer.zero_grad()
        value = loss(x)
        value.backward()
        optimizer.step()
        return value.detach()

    return Side(module, step)


@dataclass(frozen=True)
class Pair:
    """A host's training as it is, and with vaefast.

    Args:
        host: what is trained.
        package: whose version is told.
        change: what differs in `after`.
        data: what both train on, `batch` samples at a time.
        reference: in the place of `before` where loss and gradients are compared: the same training with the right value,
            for a host whose own loss is not what it is called.
        noise: dotted name of the function that draws the host's noise, where it is vaefast that draws it in `after`.
    """

    host: str
    package: str
    change: str
    before: Side
    after: Side
    data: Tensor
    batch: int = 64
    reference: Side | None = None
    noise: str | None = None

    def batches(self, steps: int) -> list[Tensor]:
        return [self.data[torch.arange(k * self.batch, (k + 1) * self.batch) % len(self.data)] for k in range(steps)]


def digits(side: int = 8) -> Tensor:
    """scikit-learn's digits, (N, 1, side, side) in [0, 1]: 8 by 8, or each pixel 3 by 3 of them in a margin, 28 by 28."""
    x = data.Dataset.floats(data.load("digits").train)
    return x if side == 8 else F.pad(F.interpolate(x, scale_factor=3), (2, 2, 2, 2))


def vaefasts_noise(
    like: Any, *, generator: torch.Generator | None = None, dtype: torch.dtype | None = None, **_: Any
) -> Tensor:
    """What vaefast's samples add to the mean at this state of the generator, for hosts that ask for a shape."""
    zero = torch.zeros(like, dtype=dtype)
    return vaefast.functional.reparameterize(zero, zero, generator=generator)


def differences(pair: Pair, steps: int = 20) -> tuple[float, float]:
    """The largest relative differences of losses, and of gradients by any parameter, over so many training steps.

    Both sides start from the same weights and are given the same noise in every step. For the losses each then goes its
    own way. The gradients are from as many steps more, in which `after` takes the weights of the other before each: a
    rounding error carries a unit over the kink of its ReLU now and then, where one sample's gradient becomes another.
    """
    expected, actual = pair.reference or pair.before, pair.after
    loss = gradient = 0.0
    with mock.patch(pair.noise, vaefasts_noise) if pair.noise else nullcontext():
        for k, x in enumerate(pair.batches(2 * steps)):
            if k == 0 or k >= steps:
                actual.module.load_state_dict(expected.module.state_dict())
            values = []
            for each in (expected, actual):
                torch.manual_seed(k)
                values.append(each.step(x))
            loss = max(loss, relative(values[1], values[0]))
            if k >= steps:
                for p, q in zip(expected.module.parameters(), actual.module.parameters(), strict=True):
                    assert (p.grad is None) == (q.grad is None)
                    if p.grad is not None and q.grad is not None:  # else the loss does not depend on it
                        gradient = max(gradient, relative(q.grad, p.grad))
    return loss, gradient


def relative(actual: Tensor, expected: Tensor) -> float:
    """|actual - expected| / |expected|, in the Euclidean norm; 0 if both are 0."""
    distance = torch.linalg.vector_norm(actual.double() - expected.double())
    return float(distance / torch.linalg.vector_norm(expected.double())) if distance != 0 else 0.0


def milliseconds(pair: Pair, budget: float = 2.0) -> tuple[float, float]:
    """The median time of a training step before and after. They take turns, warm, so that a busy moment meets both."""
    x = pair.data[: pair.batch]
    timers = [
        Timer("step(x)", globals={"step": each.step, "x": x}, num_threads=torch.get_num_threads())
        for each in (pair.before, pair.after)
    ]
    times: list[list[float]] = [[], []]
    number = max(1, round(0.02 / max(timer.timeit(5).median for timer in timers)))
    start = time.perf_counter()
    while time.perf_counter() - start < budget or len(times[0]) < 5:
        for timer, each in zip(timers, times, strict=True):
            each.append(timer.timeit(number).median)
    before, after = (1e3 * statistics.median(each) for each in times)
    return before, after


def row(pair: Pair, steps: int = 20, budget: float = 2.0) -> dict[str, Any]:
    loss, gradient = differences(pair, steps)
    before, after = milliseconds(pair, budget)
    return {
        "host": pair.host,
        "package": pair.package,
        "version": version(pair.package),
        "change": pair.change,
        "batch": pair.batch,
        "steps": steps,
        "loss_difference": loss,
        "gradient_difference": gradient,
        "milliseconds": {"before": round(before, 4), "after": round(after, 4)},
    }
