"""`python -m benchmarks`: the loss's forward and backward pass, vaefast beside what people write, interleaved in one run.

Bytes are counted as one read of every operand and one write of every gradient; the limit is the bandwidth that
`torch.add(a, b, out=c)` of the same size reaches in the same run."""

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.nn import functional as F

import vaefast
from vaefast import _ops

# likelihood, batch, pixels, latents
SIZES = [
    ("bernoulli", *size) for size in ((8, 64, 4), (128, 784, 20), (1024, 784, 64), (4096, 784, 64), (16384, 784, 64))
]
CUDA_SIZES = [*SIZES, ("bernoulli", 65536, 1024, 64), ("gaussian", 128, 784, 20), ("gaussian", 65536, 1024, 64)]


def examples(logits, x, mu, logvar):
    """The loss of pytorch/examples' VAE as it stands, after the sigmoid that its decoder ends in."""
    bce = F.binary_cross_entropy(torch.sigmoid(logits), x, reduction="sum")
    return bce - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())


def eager(logits, x, mu, logvar):
    """The same from logits, averaged over the batch: the best of what people write."""
    bce = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    return (bce - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())) / len(x)


def gaussian_eager(mean, x, mu, logvar):
    """The Gaussian loss of unit variance as people write it: the constant left out."""
    return (0.5 * F.mse_loss(mean, x, reduction="sum") - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())) / len(
        x
    )


def distributions(logits, x, mu, logvar):
    """The same through torch.distributions."""
    normal = torch.distributions.Normal
    q = normal(mu, (0.5 * logvar).exp(), validate_args=False)
    p = normal(torch.zeros_like(mu), torch.ones_like(mu), validate_args=False)
    bernoulli = torch.distributions.Bernoulli(logits=logits, validate_args=False)
    return (torch.distributions.kl_divergence(q, p).sum() - bernoulli.log_prob(x).sum()) / len(x)


def seconds(
    functions: dict[str, Callable[[], object]], budget: float, wait: Callable[[], object]
) -> dict[str, list[float]]:
    """Wall times of each function, called in turn, so that a busy moment of the machine meets all of them; `wait` ends when
    the device is done."""
    for function in functions.values():
        function(), function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    start = time.perf_counter()
    while time.perf_counter() - start < budget or len(times[next(iter(times))]) < 5:
        for name, function in functions.items():
            wait()
            begin = time.perf_counter()
            function()
            wait()
            times[name].append(time.perf_counter() - begin)
    return times


def measure(
    likelihood: str, batch: int, pixels: int, latents: int, budget: float, compiled: bool, device: str
) -> dict[str, object]:
    logits, x = torch.randn(batch, pixels, device=device), torch.rand(batch, pixels, device=device)
    mu, logvar = (torch.randn(batch, latents, device=device) for _ in range(2))
    leaves = [t.requires_grad_() for t in (logits, mu, logvar)]
    losses = {"vaefast": vaefast.ELBOLoss(likelihood), "eager": eager if likelihood == "bernoulli" else gaussian_eager}
    if likelihood == "bernoulli":
        losses |= {"examples": examples, "distributions": distributions}
    if compiled:
        losses["compile"] = torch.compile(losses["eager"], dynamic=False)

    def step(loss):
        return lambda: torch.autograd.grad(loss(logits, x, mu, logvar), leaves)

    a, b, out = (torch.rand(batch, pixels, device=device) for _ in range(3))
    floor = {"floor": lambda: torch.add(a, b, out=out)}
    wait = torch.cuda.synchronize if logits.is_cuda else lambda: None
    times = seconds({name: step(loss) for name, loss in losses.items()} | floor, budget, wait)
    medians = {name: statistics.median(t) for name, t in times.items()}
    traffic = 4 * (3 * batch * pixels + 4 * batch * latents)
    return {
        "likelihood": likelihood,
        "batch": batch,
        "pixels": pixels,
        "latents": latents,
        "median_us": {name: round(1e6 * t, 2) for name, t in medians.items()},
        "quartiles_us": {n: [round(1e6 * q, 2) for q in statistics.quantiles(t, n=4)] for n, t in times.items()},
        "gigabytes_per_second": round(traffic / medians["vaefast"] / 1e9, 2),
        "times_the_floor": round(medians["vaefast"] / medians["floor"], 2),
    }


def driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True).stdout.strip()


def stamp(device: str) -> dict[str, object]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit,
        "machine": platform.machine(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "driver": driver() if device == "cuda" else None,
        "cpu_isa": _ops.cpu_isa(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "vaefast": vaefast.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a second a size, without torch.compile")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    console = Console(stderr=True)
    budget = 1.0 if arguments.quick else 5.0
    sizes = SIZES if arguments.device == "cpu" else CUDA_SIZES
    rows = [
        measure(*size, budget, not arguments.quick, arguments.device)
        for size in track(sizes, "measuring", console=console)
    ]
    names = list(rows[0]["median_us"])
    table = Table(
        "likelihood",
        "batch x pixels + latents",
        *[f"{name}, us" for name in names],
        "times eager",
        "GB/s",
        "times floor",
    )
    for row in rows:
        medians = row["median_us"]
        size = f"{row['batch']} x {row['pixels']} + {row['latents']}"
        speedup = f"{medians['eager'] / medians['vaefast']:.1f}"
        cells = [f"{medians[name]:.0f}" if name in medians else "" for name in names]
        table.add_row(
            row["likelihood"], size, *cells, speedup, str(row["gigabytes_per_second"]), str(row["times_the_floor"])
        )
    Console(width=140).print(table)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({**stamp(arguments.device), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
