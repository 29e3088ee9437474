"""Every way that torch may call an operation, times every operation, each cell held against the same call of the
composite in plain torch: `python -m tests.matrix` prints the table (--inductor compiles with torch's default backend).

A cell is right, or it raises one of the sentences in RAISES. What it must never be is silently wrong."""

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .operations import Function, Operation
from .ways import INSIDE, OUTSIDE, WAYS

# (mode, operation) -> what it says; a pattern for either. Such a cell may be right (torch moves on), never wrong.
RAISES = {
    ("double_backward, compile.*", ".*"): "not currently support double backward|requires create_graph=False",
    # torch.func.vmap looks at the name of what it maps; a module's is its repr, which prints beta.
    ("vmap, compile dynamic", "ELBOLoss.*|IWAELoss"): "BUILD_STRING type error",
    (".*", "IWAELoss dreg"): "acts in the backward pass and does not support torch.func",
    (".*", "ELBOLoss inplace"): "with inplace=True the prediction holds its gradient now",
    ("jvp_over_autograd", ".*"): "cannot differentiate a backward pass of a graph that was made outside",
    ("compiled_autograd", "ELBOLoss inplace"): "any_leaf=True",  # torch's words for a leaf's alias that was written to
}


@dataclass(frozen=True)
class Mode:
    name: str
    run: Callable[[Function, tuple[Tensor, ...]], object]
    transform: Callable[[Function, tuple[Tensor, ...]], object]  # what the composite is asked for
    loose: bool = False


def modes(backend: str = "aot_eager") -> Iterator[Mode]:
    for transform in (*INSIDE, *OUTSIDE):
        yield Mode(f"{transform.__name__}, eager", transform, transform)
    for dynamic in (False, True):
        compiled = functools.partial(torch.compile, fullgraph=True, dynamic=dynamic, backend=backend)
        label = "compile dynamic" if dynamic else "compile"
        for transform in INSIDE:

            def inside(
                f: Function, args: tuple[Tensor, ...], t: Callable = transform, c: Callable = compiled
            ) -> object:
                torch._dynamo.reset()
                return c(lambda *a: t(f, a))(*args)

            yield Mode(f"{transform.__name__}, {label}", inside, transform)
        for transform in OUTSIDE:

            def outside(
                f: Function, args: tuple[Tensor, ...], t: Callable = transform, c: Callable = compiled
            ) -> object:
                torch._dynamo.reset()
                return t(c(f), args)

            yield Mode(f"{transform.__name__}, {label}", outside, transform)
    for way, expected in WAYS.items():
        yield Mode(way.__name__, way, expected, loose=way.__name__.startswith("autocast"))


def flatten(result: object) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return [t for part in result if part is not None for t in flatten(part)]


def cell(mode: Mode, operation: Operation) -> str:
    """ "right", or what was raised; AssertionError where the result is wrong."""
    args = operation.draw()
    expected = flatten(mode.transform(operation.composite, args))
    try:
        got = flatten(mode.run(operation.function, args))
    except Exception as error:
        if isinstance(error, AssertionError):
            raise
        return f"{type(error).__name__}: {error}"
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if mode.loose else {"rtol": 1e-9, "atol": 1e-11}
    torch.testing.assert_close(got, expected, **tolerance)
    return "right"


def outcome(mode: Mode, operation: Operation) -> tuple[str, str]:
    """("right" or "raises" or "wrong", what was said)."""
    try:
        said = cell(mode, operation)
    except AssertionError as error:
        return "wrong", str(error)
    if said == "right":
        return "right", ""
    allowed = any(
        re.fullmatch(where, mode.name) and re.fullmatch(what, operation.name) and re.search(sentence, said)
        for (where, what), sentence in RAISES.items()
    )
    return "raises" if allowed else "wrong", said


def one_process() -> None:
    """What DTensor needs."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
