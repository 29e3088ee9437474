"""What may befall a process and its files: forks, threads, no memory, a full disk, Ctrl-C, kill, mutated files, pickles, and
half an hour of calls. Each part is a process of its own, so that one that crashes is a row, too."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator

from tests.support.native import ROOT

from . import Row

MINUTES = 30.0  # of the soak


def unsafe(source: str) -> list[str]:
    """What a module could run a stranger's code with: pickle in any form, torch.load, numpy's allow_pickle, eval, exec."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            found += [
                n for n in names if n.split(".")[0] in ("pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle")
            ]
            if getattr(node, "module", "") == "torch":
                found += [f"torch.{alias.name}" for alias in node.names if alias.name == "load"]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            options = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            loads = name in ("torch.load", "torch.serialization.load") and options.get("weights_only") is not True
            pickles = name in ("np.load", "numpy.load") and options.get("allow_pickle", False) is not False
            if loads or pickles or name in ("eval", "exec", "torch.hub.load"):
                found.append(name)
    return found


PLANTED = ["import torch\ntorch.load(f)", "torch.load(f, weights_only=False)", "from pickle import loads", "import dill.x",
           "np.load(f, allow_pickle=True)", "from torch import load", "eval(x)"]  # fmt: skip


def elsewhere(module: str, *arguments: object) -> Iterator[Row]:
    """The rows that a module of this package prints as a process."""
    command = [sys.executable, "-m", f"{__package__}.{module}", *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            if line.startswith('{"name"'):
                yield Row(**json.loads(line))
    yield Row(f"the process of {module}", f"exit {process.returncode}", "exit 0", process.returncode == 0)


def rows(quick: bool) -> Iterator[Row]:
    files = sorted((ROOT / "vaefast").rglob("*.py"))
    found = [f"{name} in {file.name}" for file in files for name in unsafe(file.read_text())]
    yield Row("calls that unpickle", f"{', '.join(found) or 0} in {len(files)} modules", "0", bool(files) and not found)
    seen = sum(bool(unsafe(each)) for each in PLANTED)
    yield Row("planted: calls that unpickle", f"{seen} of {len(PLANTED)} seen", f"{len(PLANTED)}", seen == len(PLANTED))
    yield from elsewhere("_processes", *["--quick"] * quick)
    yield from elsewhere("_runs", *["--quick"] * quick)
    yield from elsewhere("_files", 300 if quick else 10_000)
    yield from elsewhere("_soak", 5 / 60 if quick else MINUTES)
