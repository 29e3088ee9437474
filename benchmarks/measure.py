"""Times, bytes and counts. Variants are called in turn, so that a busy moment of the machine meets all of them, and each
three times, of which the third call is timed: the first finds the caches as the variant before left them, and in the
second malloc may still return to the system what that variant freed (1 ms for 9 MB)."""

import ctypes
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import vaefast
from vaefast import empty_cache

from .losses import variants

Step = Callable[[], object]


def medians(steps: dict[str, Step], budget: float, wait: Step) -> dict[str, dict[str, float]]:
    """Median and quartiles in microseconds of each step; `wait` returns when the device is done."""
    for step in steps.values():
        step(), step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    start = time.perf_counter()
    while time.perf_counter() - start < budget or len(times[next(iter(times))]) < 5:
        for name, step in steps.items():
            step(), step(), wait()
            begin = time.perf_counter()
            step()
            wait()
            times[name].append(1e6 * (time.perf_counter() - begin))
    quartiles = {name: statistics.quantiles(t, n=4) for name, t in times.items()}
    return {n: {"median": round(q[1], 2), "quartiles": [round(q[0], 2), round(q[2], 2)]} for n, q in quartiles.items()}


class Count(TorchDispatchMode):
    """How many operators a step calls."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators += 1
        return func(*args, **(kwargs or {}))


def operators(step: Step) -> int:
    with Count() as count:
        step()
    return count.operators


def peak_bytes(step: Step, device: str) -> int | None:
    """The most memory that a step holds beyond what was there before it."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return int(torch.cuda.max_memory_allocated() - before)
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    empty_cache()
    ctypes.CDLL(None).malloc_trim(0)  # what malloc keeps for later would hide what a step takes

    def kilobytes(key: str) -> int:
        return int(next(line for line in status.read_text().splitlines() if line.startswith(key)).split()[1])

    before = kilobytes("VmRSS")
    reset.write_text("5")  # the peak starts anew
    step()
    return 1024 * max(0, kilobytes("VmHWM") - before)


class Output(torch.autograd.Function):
    """A decoder's output, which a loss may overwrite: not a leaf, in memory that lies ready."""

    @staticmethod
    def forward(ctx: Any, leaf: Tensor, memory: Tensor) -> Tensor:
        return memory.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def loss(
    likelihood: str,
    batch: int,
    pixels: int,
    latents: int,
    dtype: torch.dtype,
    device: str,
    compiled: bool,
    budget: float,
) -> dict[str, Any]:
    """One row: every variant of the loss at one size, forward, and forward with backward."""
    make = dict(device=device, dtype=dtype)
    leaves = [torch.randn(batch, n, **make).requires_grad_() for n in (pixels, latents, latents)]
    x = torch.rand(batch, pixels, **make).round() if likelihood == "bernoulli" else torch.randn(batch, pixels, **make)
    losses = variants(likelihood, compiled)

    def forward(f: Callable[..., Tensor]) -> Step:
        return lambda: f(leaves[0], x, *leaves[1:])

    def both(f: Callable[..., Tensor]) -> Step:
        return lambda: torch.autograd.grad(f(leaves[0], x, *leaves[1:]), leaves)

    a, b, out = (torch.rand(batch, pixels, **make) for _ in range(3))
    floor: dict[str, Step] = {"floor": lambda: torch.add(a, b, out=out)}
    wait: Step = torch.cuda.synchronize if device == "cuda" else lambda: None
    steps = {name: both(f) for name, f in losses.items()}
    inplace, memory = vaefast.ELBOLoss(likelihood, inplace=True), leaves[0].detach().clone()
    steps["vaefast, in place"] = both(lambda recon_x, *rest: inplace(Output.apply(recon_x, memory), *rest))
    times = medians(steps | floor, budget, wait)
    forwards = medians({name: forward(f) for name, f in losses.items()}, budget / 2, wait)
    size = a.element_size()
    traffic = size * (3 * batch * pixels + 4 * batch * latents)  # operands read once, gradients written once
    bandwidth = 3 * size * batch * pixels / times["floor"]["median"]
    return {
        "likelihood": likelihood,
        "batch": batch,
        "pixels": pixels,
        "latents": latents,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "forward_and_backward_us": times,
        "forward_us": forwards,
        "operators": {name: operators(both(f)) for name, f in losses.items() if name != "compile"},
        "peak_bytes": {name: peak_bytes(step, device) for name, step in steps.items()},
        "gigabytes_per_second": round(traffic / times["vaefast"]["median"] / 1e3, 2),
        "percent_of_bandwidth": round(100 * traffic / times["vaefast"]["median"] / bandwidth, 1),
        "times_the_floor": {
            name: round(times[name]["median"] / times["floor"]["median"], 2)
            for name in ("vaefast", "vaefast, in place")
        },
    }


def sampling(elements: int, device: str, budget: float) -> dict[str, Any]:
    """One row: reparameterized samples, forward with backward."""
    shape = (elements // 64, 64)
    mu, logvar = (torch.randn(shape, device=device).requires_grad_() for _ in range(2))
    upstream = torch.randn(shape, device=device)

    def eager() -> Tensor:
        return mu + torch.exp(0.5 * logvar) * torch.randn_like(logvar)

    def both(f: Callable[[], Tensor]) -> Step:
        return lambda: torch.autograd.grad(f(), (mu, logvar), upstream)

    wait: Step = torch.cuda.synchronize if device == "cuda" else lambda: None
    steps = {"vaefast": both(lambda: vaefast.functional.reparameterize(mu, logvar)), "eager": both(eager)}
    return {"elements": shape[0] * 64, "forward_and_backward_us": medians(steps, budget, wait)}


def scaling(elements: int, budget: float) -> dict[str, Any]:
    """One row: the cost of a pixel of the loss, forward with backward, at any size."""
    shape = (elements // 1024, 1024)
    leaves = [torch.randn(shape[0], n).requires_grad_() for n in (1024, 16, 16)]
    x, criterion = torch.rand(shape).round(), vaefast.ELBOLoss()
    step = {"vaefast": lambda: torch.autograd.grad(criterion(leaves[0], x, *leaves[1:]), leaves)}
    times = medians(step, budget, lambda: None)
    nanoseconds = round(1e3 * times["vaefast"]["median"] / elements, 4)
    return {"elements": elements, "threads": torch.get_num_threads(), "nanoseconds_per_element": nanoseconds}


def linear(batch: int, hidden: int, outputs: int, device: str, budget: float) -> dict[str, Any]:
    """One row: a linear layer and its Bernoulli likelihood, in blocks and whole, forward with backward."""
    h, weight, bias = (torch.randn(n, device=device) for n in ((batch, hidden), (outputs, hidden), (outputs,)))
    leaves = [h.requires_grad_(), weight.div_(hidden**0.5).requires_grad_(), bias.requires_grad_()]
    x = torch.rand(batch, outputs, device=device).round()

    def in_blocks() -> Tensor:
        return vaefast.functional.linear_bernoulli_log_likelihood(*leaves, x, reduction="mean")

    def whole() -> Tensor:
        return vaefast.functional.bernoulli_log_likelihood(F.linear(*leaves), x, reduction="mean")

    def eager() -> Tensor:
        return -F.binary_cross_entropy_with_logits(F.linear(*leaves), x, reduction="sum") / batch

    losses = {"in blocks": in_blocks, "vaefast": whole, "eager": eager}
    steps: dict[str, Step] = {name: lambda f=f: torch.autograd.grad(f(), leaves) for name, f in losses.items()}
    wait: Step = torch.cuda.synchronize if device == "cuda" else lambda: None
    return {
        "batch": batch,
        "hidden": hidden,
        "outputs": outputs,
        "forward_and_backward_us": medians(steps, budget, wait),
        "peak_bytes": {name: peak_bytes(step, device) for name, step in steps.items()},
    }
