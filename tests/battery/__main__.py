"""Runs groups of the battery and prints a table; ends with 1 where a goal is not met that is not known to be open."""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

import torch

from benchmarks.__main__ import stamp

from . import GROUPS, faults, rows
from ._open import reason


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.battery", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"{', '.join(GROUPS)}; all where none is named")
    parser.add_argument("--quick", action="store_true", help="what the test suite runs, in a minute or two")
    parser.add_argument("--json", type=Path, help="write the table here, with machine, date, commit and versions")
    parser.add_argument("--case", type=int, help="run and explain one case of the group fuzz")
    parser.add_argument("--minutes", type=float, default=30.0, help="of the soak in the group faults; default: 30")
    arguments = parser.parse_args()
    if unknown := set(arguments.groups) - set(GROUPS):
        parser.error(f"no group is named {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    torch.set_num_threads(1)
    faults.MINUTES = arguments.minutes
    if arguments.case is not None:
        from . import fuzz

        sys.exit(fuzz.explain(arguments.case))
    results, news = {"stamp": stamp("cpu"), "quick": arguments.quick, "groups": {}}, False
    print("| check | figure | goal | met? |\n|---|---|---|---|")
    for group in arguments.groups or GROUPS:
        start, found = time.perf_counter(), []
        for row in rows(group, arguments.quick):
            found.append(row)
            why = None if row.met else reason(f"{group}: {row.name}", row.figure)
            met = "yes" if row.met else f"known: {why}" if why else "NO"
            print(f"| {group}: {row.name} | {row.figure} | {row.goal} | {met} |", flush=True)
            news |= met == "NO"
        seconds = round(time.perf_counter() - start, 1)
        results["groups"][group] = {"seconds": seconds, "rows": [dataclasses.asdict(row) for row in found]}
    print(*(f"{group}: {each['seconds']} s" for group, each in results["groups"].items()), sep=", ", file=sys.stderr)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results, indent=1, default=bool) + "\n")  # numpy's bools
    sys.exit(news)


if __name__ == "__main__":
    main()
