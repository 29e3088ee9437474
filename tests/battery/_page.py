"""`python -m tests.battery._page FILE ...`: puts the results of those files together, in benchmarks/results/battery.json, and
writes docs/trust.md of them; without a file it writes the page alone."""

import json
import sys
from pathlib import Path
from typing import Any

from tests.support.native import ROOT

from ._open import OPEN

OWN = ("date", "commit", "cpu", "cpu_isa")  # of a group
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "battery.json", ROOT / "docs" / "trust.md"
ABOUT = {
    "fuzz": "Random calls against float64: values, gradients, inputs left alone.",
    "exhaustive": "Elementary functions at every float, once for each instruction set.",
    "never_worse": "Largest and mean error beside what people write in torch, by operation, gradient, dtype and range.",
    "bitwise": "The same bits: repeats, threads, inputs untouched.",
    "noise": "10^8 normals; p-values of statistics, and streams with a planted defect that they must see.",
    "sanitize": "AddressSanitizer, UndefinedBehaviorSanitizer, ThreadSanitizer and valgrind, each with a planted defect.",
    "faults": "Forks, kills, interruptions, full disks, damaged files, a soak.",
    "large": "More than 2^31 elements, and batches around 2^16.",
    "build": "Warnings as errors with two compilers; the same wheel twice.",
    "mutation": "Seeded defects, and whether the tests see them.",
}


def merged(files: list[Path]) -> dict[str, Any]:
    """Results with one torch, later ones over earlier ones; the committed file may come first. Each group has its day, its
    commit and its machine."""
    loaded = [json.loads(file.read_text()) for file in files]
    versions = [{k: v for k, v in each["stamp"].items() if k not in OWN} for each in loaded]
    if any(version != versions[0] for version in versions) or any(each.get("quick") for each in loaded):
        raise SystemExit("the files are of several versions or GPUs, or of quick runs")
    groups = {
        name: {**{key: each["stamp"][key] for key in OWN if key in each["stamp"]}, **group}
        for each in loaded
        for name, group in each["groups"].items()
    }
    return {"stamp": versions[0], "groups": {name: groups[name] for name in ABOUT}}


INTRODUCTION = """\
What vaefast promises, counted: `python -m tests.battery`, in full, with torch {torch}; {minutes:.0f} minutes. {met} of
{rows} goals are met; the others are in bold. The command ends with 1 where a goal is missed that is not among the known
ones:

{known}

Words that the tables use:

- **planted**: a defect that is put in on purpose, so that a check shows that it can fail. Its goal is to be caught.
- **even**: a cell of `never_worse` in which an error is larger than eager's, but both largest errors are at most one ULP of
  the result's type. It counts as met.
- **eager**: what people write in torch for the same operation.
- **WEAK**: dieharder's word for a p-value below 0.005 or above 0.995. One such value is expected in a hundred, so a
  few of them are normal. FAILED, a p-value beyond 1e-6, is a fault.
"""


def known(names: list[str]) -> str:
    """Why the rows with these names are not met."""
    reasons: dict[str, list[str]] = {}
    for begin, (_, why) in OPEN.items():
        if count := sum(name.startswith(begin) for name in names):
            reasons.setdefault(why, []).append(f"{begin.removeprefix('never_worse: worse: ')} ({count})")
    return "\n".join(f"- {', '.join(rows)}: {why}." for why, rows in reasons.items())


def page(results: dict[str, Any]) -> str:
    stamp, groups = results["stamp"], results["groups"]
    rows = {f"{name}: {row['name']}": row for name, group in groups.items() for row in group["rows"]}
    introduction = INTRODUCTION.format(
        torch=stamp["torch"],
        minutes=sum(group["seconds"] for group in groups.values()) / 60,
        met=sum(row["met"] for row in rows.values()),
        rows=len(rows),
        known=known([name for name, row in rows.items() if not row["met"]]),
    )
    text = ["# Trust", "", introduction.rstrip()]
    for name, about in ABOUT.items():
        group = groups[name]
        where = f"{group['cpu']}, {group['cpu_isa']}"
        ran = f"{group['seconds'] / 60:.1f} minutes, {group['date']}, commit {group['commit']}, {where}"
        text += ["", f"## {name}", "", f"{about} ({ran})", "", "| check | figure | goal |", "|---|---|---|"]
        for row in group["rows"]:
            cells = [row[key].replace("|", "\\|") for key in ("name", "figure", "goal")]
            text.append(f"| {' | '.join(cells if row['met'] else [f'**{cell}**' for cell in cells])} |")
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    if sys.argv[1:]:
        RESULTS.write_text(json.dumps(merged([Path(name) for name in sys.argv[1:]]), indent=1) + "\n")
    PAGE.write_text(page(json.loads(RESULTS.read_text())))
