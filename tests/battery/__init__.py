"""`python -m tests.battery [GROUP ...]`: what vaefast promises, counted. A group is a module of this package whose name has
no underscore in front and that is no test; its `rows(quick)` yields a Row for every promise it has looked at."""

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A check, what it found, what it should find, and whether it did."""

    name: str
    figure: str
    goal: str
    met: bool


GROUPS = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith(("_", "test_")))


def rows(group: str, quick: bool) -> Iterator[Row]:
    return importlib.import_module(f"{__name__}.{group}").rows(quick)
