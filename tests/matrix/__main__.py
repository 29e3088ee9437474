"""`python -m tests.matrix`."""

import argparse
import sys
from collections import Counter

from . import __doc__, modes, one_process, outcome
from .operations import OPERATIONS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inductor", action="store_true", help="compile to machine code, which takes long")
    parser.add_argument("--only", default="", help="part of a mode's name")
    options = parser.parse_args()
    one_process()
    counts: Counter[str] = Counter()
    said: dict[str, list[str]] = {}
    print("columns: " + ", ".join(f"{k} {operation.name}" for k, operation in enumerate(OPERATIONS, 1)))
    for mode in modes("inductor" if options.inductor else "aot_eager"):
        if options.only not in mode.name:
            continue
        line = ""
        for number, operation in enumerate(OPERATIONS, 1):
            kind, sentence = outcome(mode, operation)
            counts[kind] += 1
            line += {"right": ".", "raises": "r", "wrong": "X"}[kind]
            if kind != "right":
                said.setdefault(f"[{kind}] {' '.join(sentence.split())[:240]}", []).append(f"{mode.name} {number}")
        print(f"{mode.name:36} {line}", flush=True)
    for sentence, cells in sorted(said.items()):
        print(f"{sentence}\n    {'; '.join(cells)}")
    print(f"{sum(counts.values())} cells: {counts['right']} right, {counts['raises']} raise, {counts['wrong']} wrong")
    return int(counts["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())
