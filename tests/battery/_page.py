"""`python -m tests.battery._page FILE ...`: puts the results of those files together, in benchmarks/results/battery.json, and
writes docs/trust.md of them."""

import json
import sys
from pathlib import Path
from typing import Any

from tests.native import ROOT

OWN = ("date", "commit")  # of a group
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
    """Results of one machine and its versions; each group has its day and commit."""
    loaded = [json.loads(file.read_text()) for file in files]
    machines = [{k: v for k, v in each["stamp"].items() if k not in OWN} for each in loaded]
    if any(machine != machines[0] for machine in machines) or any(each["quick"] for each in loaded):
        raise SystemExit("the files are of several machines or versions, or of quick runs")
    groups = {
        name: {**{key: each["stamp"][key] for key in OWN}, **group}
        for each in loaded
        for name, group in each["groups"].items()
    }
    return {"stamp": machines[0], "groups": {name: groups[name] for name in ABOUT}}


def page(results: dict[str, Any]) -> str:
    stamp, groups = results["stamp"], results["groups"]
    rows = [row for group in groups.values() for row in group["rows"]]
    met = sum(row["met"] for row in rows)
    text = [
        "# Trust",
        "",
        "What vaefast promises, counted: `python -m tests.battery`, in full. "
        f"{stamp['cpu']}, {stamp['cpu_isa']}, torch {stamp['torch']}; "
        f"{sum(group['seconds'] for group in groups.values()) / 60:.0f} minutes. {met} of {len(rows)} goals are met; the others are "
        "in bold. `tests/test_battery.py` says why, and holds them to what they are.",
    ]
    for name, about in ABOUT.items():
        group = groups[name]
        ran = f"{group['seconds'] / 60:.1f} minutes, {group['date']}, commit {group['commit']}"
        text += ["", f"## {name}", "", f"{about} ({ran})", "", "| check | figure | goal |", "|---|---|---|"]
        for row in group["rows"]:
            cells = [row[key].replace("|", "\\|") for key in ("name", "figure", "goal")]
            text.append(f"| {' | '.join(cells if row['met'] else [f'**{cell}**' for cell in cells])} |")
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    RESULTS.write_text(json.dumps(merged([Path(name) for name in sys.argv[1:]]), indent=1) + "\n")
    PAGE.write_text(page(json.loads(RESULTS.read_text())))
