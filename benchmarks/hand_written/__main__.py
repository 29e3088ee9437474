"""`python -m benchmarks.hand_written`: each hand-written loss and the line that takes its place, in turn, forward and
backward, at the script's own sizes."""

import argparse
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from benchmarks.__main__ import stamp
from benchmarks.measure import medians
from benchmarks.report import RESULTS, ROOT, load, markdown, rewrite, where

from . import HABITS, ROWS
from .row import Row, leaves

BEGIN, END = "<!-- hand-written: python -m benchmarks.hand_written --readme -->\n", "<!-- end of hand-written -->\n"
PAGE = ROOT / "docs" / "hand_written.md"


def step(loss: Callable[..., Tensor], inputs: dict[str, Any]) -> Callable[[], None]:
    """A forward and a backward pass. Gradients are new each time, as those of a network's outputs are."""
    wanted = leaves(inputs)

    def run() -> None:
        torch.autograd.grad(loss(**inputs), wanted)

    return run


def measured(row: Row, budget: float) -> dict[str, Any]:
    inputs = row.inputs(torch.Generator().manual_seed(0))
    steps = {"by hand": step(row.by_hand, inputs), "vaefast": step(row.vaefast(), inputs)}
    return {"name": row.name, "microseconds": medians(steps, budget, lambda: None)}


def ratio(found: dict[str, Any]) -> float:
    by_hand, line = (found["microseconds"][name]["median"] for name in ("by hand", "vaefast"))
    return by_hand / line


def sizes(row: Row) -> str:
    """The shape of the prediction, or of the latents where there is none."""
    inputs = row.inputs(torch.Generator().manual_seed(0))
    return " x ".join(map(str, max(leaves(inputs), key=Tensor.numel).shape))


def line(row: Row) -> str:
    """The line, and the criterion that it calls."""
    made = f"`criterion = {row.criterion}`<br>" if row.criterion else ""
    return f"{made}`{row.line}`"


def section(results: dict[str, Any]) -> str:
    """What docs/hand_written.md shows: a table for each habit."""
    found = {each["name"]: each for each in results["rows"]}
    text = f"""
{where(results["stamp"])}, {results["threads"]} threads
([all figures](../benchmarks/results/hand_written.json)). "Times" is the median time by hand divided by that of the line,
forward and backward, of runs that take turns. The size is that of the largest input.
"""
    for habit in HABITS:
        title, _, about = (inspect.getdoc(habit) or "").partition(":")
        file = Path(inspect.getfile(habit)).relative_to(ROOT)
        cells = [
            [f"`{row.name}`: {inspect.getdoc(row.by_hand)}".replace("\n", " "), line(row), found[row.name]["size"],
             f"{ratio(found[row.name]):.1f}"] for row in habit.ROWS
        ]  # fmt: skip
        text += f"\n### {title}\n\n{about.strip().capitalize()} [The functions by hand](../{file}).\n\n"
        text += markdown(["by hand", "the line", "size", "times"], cells)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hand_written", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of measuring, for each row; default: 4")
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help="these rows")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--readme", action="store_true", help=f"write the tables of {PAGE.name}, and end")
    arguments = parser.parse_args()
    if arguments.readme:
        return rewrite(section(load(RESULTS / "hand_written.json")), BEGIN, END, PAGE)
    torch.set_num_threads(arguments.threads)
    found, table = [], Table("loss", "by hand, us", "vaefast, us", "times")
    with Progress(console=Console(stderr=True)) as progress:
        for name in progress.track(arguments.only, description="measuring"):
            each = measured(ROWS[name], arguments.seconds) | {"size": sizes(ROWS[name])}
            found.append(each)
            micro = each["microseconds"]
            table.add_row(name, *(f"{micro[k]['median']:.0f}" for k in ("by hand", "vaefast")), f"{ratio(each):.2f}")
    Console(width=120).print(table)
    if arguments.json:
        results = {"stamp": stamp("cpu"), "threads": arguments.threads, "rows": found}
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
