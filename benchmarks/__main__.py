"""`python -m benchmarks`: vaefast's loss, samples and training steps beside what people write, interleaved in one run."""

import argparse
import json
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

import vaefast

from . import measure, report, training

SIZES = [(8, 64, 4), (128, 784, 20), (1024, 784, 64), (4096, 784, 64), (16384, 784, 64)]  # batch, pixels, latents
LARGE = (65536, 1024, 64)  # 2^26 pixels, for a GPU
ELEMENTS = [2560, 2**20, 2**24]  # of samples
PIXELS = [2**n for n in (16, 18, 20, 22, 24, 26, 27)]  # of the scaling curve, on the CPU
LINEAR = [(256, 512, 20_000), (4096, 512, 20_000), (4096, 128, 30_000)]  # batch, hidden, outputs


def stamp(device: str) -> dict[str, Any]:
    def output(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip()

    model = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    cuda = device == "cuda"
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": output("git", "rev-parse", "--short", "HEAD"),
        "cpu": f"{model[0]} ({len(model)} cores)" if model else platform.machine(),
        "cpu_isa": vaefast.cpu_isa(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "driver": output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if cuda else None,
        "torch": torch.__version__,
        "vaefast": vaefast.__version__,
    }


def plan(device: str, threads: list[int], quick: bool) -> list[tuple[str, dict[str, Any]]]:
    """What is measured: (kind, arguments)."""
    compiled, budget = not quick, 0.6 if quick else 4.0
    sizes = SIZES if device == "cpu" else [*SIZES, LARGE]
    jobs: list[tuple[str, dict[str, Any]]] = []

    def loss(likelihood: str, size: tuple[int, int, int], dtype: torch.dtype, count: int) -> None:
        batch, pixels, latents = size
        arguments = dict(likelihood=likelihood, batch=batch, pixels=pixels, latents=latents, dtype=dtype, threads=count)
        jobs.append(("loss", arguments | dict(device=device, compiled=compiled, budget=budget)))

    for count in threads:
        for size in sizes:
            loss("bernoulli", size, torch.float32, count)
    for size in (sizes[1], sizes[-1]):
        loss("bernoulli", size, torch.bfloat16, threads[-1])
        loss("gaussian", size, torch.float32, threads[-1])
    jobs += [("sampling", dict(elements=n, device=device, budget=budget)) for n in ELEMENTS]
    if not quick:
        if device == "cpu":
            jobs += [("scaling", dict(elements=n, threads=count, budget=1.0)) for count in threads for n in PIXELS]
        jobs += [("linear", dict(batch=b, hidden=h, outputs=n, device=device, budget=budget)) for b, h, n in LINEAR]
    jobs += [
        ("training", dict(name=name, build=build, device=device, compiled=compiled, budget=2 * budget))
        for name, build in (("mlp", training.mlp), ("convolutional", training.convolutional))
    ]
    return jobs


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute: short runs, without torch.compile")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, nargs="+", help="CPU threads; default: 1 and all")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--plot", type=Path, help="draw the loss's throughput here")
    parser.add_argument(
        "--readme",
        action="store_true",
        help="write README.md's and docs/speed.md's tables, and each machine's page, from benchmarks/results; then end",
    )
    arguments = parser.parse_args()
    if arguments.readme:
        return report.write_pages()
    threads = arguments.threads or sorted({1, torch.get_num_threads()})
    if arguments.device == "cuda" or (arguments.quick and not arguments.threads):
        threads = threads[-1:]
    torch.manual_seed(0)
    jobs = plan(arguments.device, threads, arguments.quick)
    functions = {"loss": measure.loss, "sampling": measure.sampling, "scaling": measure.scaling}
    functions |= {"linear": measure.linear, "training": training.train}
    results: dict[str, Any] = {"stamp": stamp(arguments.device)} | {kind: [] for kind in functions}
    with Progress(console=Console(stderr=True)) as progress:
        for kind, options in progress.track(jobs, description="measuring"):
            torch.set_num_threads(options.pop("threads", threads[-1]))
            results[kind].append(functions[kind](**options))
    report.show(results)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    if arguments.plot:
        report.plot(results, arguments.plot)


if __name__ == "__main__":
    main()
