"""`python -m examples`: each host that is installed, before and after its change: one start, one noise, the differences of
losses and gradients, and the time of a training step."""

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.__main__ import stamp
from benchmarks.report import RESULTS, ROOT, load, markdown, rewrite, where

from . import compare

MODULES = [
    "pytorch_examples",
    "pythae_models",
    "diffusers_autoencoder",
    "lightning_module",
    "accelerate_loop",
    "pyro_check",
    "scvi_tools",
]
BEGIN, END = "<!-- hosts: python -m examples --readme -->\n", "<!-- end of hosts -->\n"
PAGE = ROOT / "docs" / "other_libraries.md"
HEADER = ["host", "version", "what changes", "loss", "gradients", "ms before", "ms after", "ratio"]


def cells(row: dict[str, Any]) -> list[str]:
    before, after = (row["milliseconds"][name] for name in ("before", "after"))
    return [
        *(row["host"], f"{row['package']} {row['version']}", row["change"]),
        *(f"{row[name]:.0e}" for name in ("loss_difference", "gradient_difference")),
        *(f"{before:.2f}", f"{after:.2f}", f"{before / after:.2f}"),
    ]


def section(results: dict[str, Any]) -> str:
    """What docs/other_libraries.md shows."""
    threads, steps = results["threads"], results["hosts"][0]["steps"]
    return f"""
{where(results["stamp"])}, {threads} thread{"s" * (threads > 1)} ([all figures](../benchmarks/results/hosts.json)).
"loss" and "gradients" are the largest relative differences in {steps} training steps from one start, with one noise; "ms"
is the median of a whole step, network and optimizer included, of runs that take turns.

{markdown(HEADER, [cells(row) for row in results["hosts"]])}"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of measuring, for each host; default: 5")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: all")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument(
        "--readme", action="store_true", help="write docs/other_libraries.md's table from benchmarks/results, and end"
    )
    arguments = parser.parse_args()
    if arguments.readme:
        return rewrite(section(load(RESULTS / "hosts.json")), BEGIN, END, PAGE)
    torch.set_num_threads(arguments.threads)
    console, rows = Console(stderr=True), []
    with Progress(console=console) as progress:
        for name in progress.track(MODULES, description="measuring"):
            torch.manual_seed(0)
            try:
                pairs = importlib.import_module(f"examples.{name}").pairs()
            except ImportError as error:  # not installed, or broken: it says which
                console.print(f"{name}: {error}")
                continue
            rows += [compare.row(pair, budget=arguments.seconds) for pair in pairs]
    table = Table(*HEADER)
    for row in rows:
        table.add_row(*cells(row))
    Console(width=170).print(table)
    if arguments.json:
        results = {"stamp": stamp("cpu"), "threads": arguments.threads, "hosts": rows}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
