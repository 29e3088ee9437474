"""Layering and sizes: who may import whom, no circles, an application on the public face alone, budgets of functions and files.
Each check takes a folder, so that a test can plant a breach and see it found."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.native import ROOT

# What each folder of csrc may include by a relative path, and whether it may see torch.
NATIVE = {
    "math": (["math"], False),
    "kernels.h": (["math"], False),
    "cpu": (["math", "kernels.h", "cpu"], False),
    "cuda": (["math", "kernels.h", "cuda"], False),
    "ops": (["kernels.h", "ops"], True),
}
NATIVE_FILES = (".h", ".cpp", ".inl", ".cu", ".cuh")
# What each package or module of vaefast may import of the others; within a package its modules import each other freely,
# but in no circle.
ARROWS = {
    "reference": [],
    "_checks": [],
    "ops": ["_C", "_built_for", "reference"],
    "likelihoods": ["_checks", "ops", "reference"],
    "functional": ["_checks", "likelihoods", "ops", "reference"],
    "schedules": ["_checks"],
    "priors": ["_checks", "functional"],
    "losses": ["_checks", "functional", "likelihoods", "ops", "reference"],
    "model": ["_checks", "functional", "likelihoods", "losses"],
    "__init__": ["functional", "likelihoods", "losses", "model", "ops", "priors", "schedules"],
    "data": ["_checks"],
    "cli": ["__init__", "data", "functional", "likelihoods"],
    "__main__": ["cli"],
}
LINES = {"vaefast": 250, "csrc": 220, "setup.py": 135}  # of a file
FUNCTION = 60  # lines of a function of vaefast/ without its docstring


def modules(root: Path) -> dict[str, Path]:
    """Every module of root/vaefast by its dotted name: "ops.term", "ops" for a package's own."""
    found = {}
    for file in sorted((root / "vaefast").rglob("*.py")):
        parts = file.relative_to(root / "vaefast").with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        if name != "_built_for":
            found[name] = file
    return found


def imports(name: str, file: Path, known: dict[str, Path]) -> Iterator[str]:
    """What a module imports of vaefast, as dotted names; a name taken from a package is the package's."""
    package = (name if file.name == "__init__.py" else name.rpartition(".")[0]).split(".")
    package = [] if name == "__init__" else [part for part in package if part]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name.partition(".")[2] or "__init__" for a in node.names if a.name.split(".")[0] == "vaefast")
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1] + (node.module or "").split(".") * bool(node.module)
            elif (node.module or "").split(".")[0] == "vaefast":
                base = (node.module or "").split(".")[1:]
            else:
                continue
            for alias in node.names:
                full = ".".join([*base, alias.name])
                yield full if full in known or full in ("_C", "_built_for") else ".".join(base) or "__init__"


def part(name: str) -> str:
    return name.split(".")[0]


def breaches_of_arrows(root: Path) -> list[str]:
    known = modules(root)
    return [
        f"{name} imports {target}"
        for name, file in known.items()
        for target in imports(name, file, known)
        if part(target) != part(name) and part(target) not in ARROWS.get(part(name), [])
    ]


def circles(root: Path) -> list[str]:
    """Modules that import each other in a circle, also where an import stands inside a function. An import from the module's own package
    is not counted: its __init__ gathers what the modules have."""
    known = modules(root)
    graph = {n: {t for t in imports(n, f, known) if t in known and t != n} for n, f in known.items()}
    for name in graph:  # the arrow to a package is one to its modules' public names
        if name not in ARROWS:
            graph[name] -= {name.rpartition(".")[0]}
    found: list[str] = []
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            found.append(" -> ".join((*path[path.index(name) :], name)))
        elif name not in done:
            for target in sorted(graph[name]):
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())
    return found


def breaches_of_the_face(root: Path) -> list[str]:
    """What the application imports of the library that is not public: a private name, or a module behind the face."""
    public = {"vaefast", "vaefast.data", "vaefast.functional", "vaefast.likelihoods"}
    names = {module.rpartition(".")[2]: {*importlib.import_module(module).__all__, "__version__"} for module in public}
    names["vaefast"].add("data")
    found = []
    for name, file in modules(root).items():
        if part(name) != "cli":
            continue
        deep = len(name.split(".")) - (file.name != "__init__.py")  # dots of a relative import that stay inside
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                module = node.module or ""
                behind = node.level > deep or (node.level == 0 and part(module) == "vaefast" and module not in public)
                known = names[module.rpartition(".")[2]] if module in public and not node.level else None
                private = known is not None and not {a.name for a in node.names} <= known
                found += [f"{name} imports from {'.' * node.level}{module}"] * (behind or private)
            elif isinstance(node, ast.Import):
                found += [f"{name} imports {a.name}" for a in node.names if re.match(r"vaefast\.(?!data$)", a.name)]
            elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") in names:
                found += [f"{name} uses {node.attr}"] * (node.attr not in names[node.value.id])
    return found


def long_functions(root: Path) -> list[str]:
    found = []
    for name, file in modules(root).items():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                first = node.body[0]
                docstring = ast.get_docstring(node) is not None
                lines = node.end_lineno - node.lineno + 1 - docstring * (first.end_lineno - first.lineno + 1)
                if lines > FUNCTION:
                    found.append(f"{name}.{node.name} has {lines} lines")
    return found


def long_files(root: Path) -> list[str]:
    files = [(f, LINES["vaefast"]) for f in (root / "vaefast").rglob("*.py")]
    files += [(f, LINES["csrc"]) for f in (root / "csrc").rglob("*") if f.suffix in NATIVE_FILES]
    files += [(root / "setup.py", LINES["setup.py"])]
    counted = [(f, len(f.read_text().splitlines()), budget) for f, budget in files if f.exists()]
    return [f"{f.relative_to(root)} has {lines} lines" for f, lines, budget in counted if lines > budget]


def breaches_of_includes(root: Path) -> list[str]:
    found = []
    for folder, (allowed, torch) in NATIVE.items():
        place = root / "csrc" / folder
        for file in [place] if place.is_file() else [f for f in place.rglob("*") if f.suffix in NATIVE_FILES]:
            for quoted, angled in re.findall(r'#include (?:"(.+)"|<(.+)>)', file.read_text()):
                if angled:
                    seen = re.match(r"torch|ATen|c10|pybind11", angled) and not torch
                    seen = seen or ("cuda_" in angled and folder != "cuda")
                    seen = seen or angled in ("torch/extension.h", "torch/all.h", "ATen/ATen.h")
                else:
                    target = (file.parent / quoted).resolve()
                    inside = target.is_relative_to((root / "csrc").resolve())
                    seen = not inside or target.relative_to((root / "csrc").resolve()).parts[0] not in allowed
                if seen:
                    found.append(f"{file.name} includes {quoted or angled}")
    return found


def users_of_torch_ops(root: Path) -> list[str]:
    return [
        name
        for name, file in modules(root).items()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "ops" and getattr(node.value, "id", "") == "torch"
    ]


def other_users_of_torch_ops(root: Path) -> list[str]:
    return [name for name in users_of_torch_ops(root) if name != "ops.library"]


CHECKS = (
    breaches_of_arrows,
    circles,
    breaches_of_the_face,
    long_functions,
    long_files,
    breaches_of_includes,
    other_users_of_torch_ops,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_house(check):
    assert check(ROOT) == []


def test_every_part_has_its_arrows():
    assert {part(name) for name in modules(ROOT)} == set(ARROWS)
    assert {file.name for file in (ROOT / "csrc").iterdir()} - {".clang-format"} == set(NATIVE)
    assert len(modules(ROOT)) > 50  # the folders are looked into


def test_the_library_touches_torch_ops():
    assert "ops.library" in users_of_torch_ops(ROOT)


PLANTED = {
    "an arrow to the right": (breaches_of_arrows, "vaefast/ops/term.py", "from ..losses import elbo\n"),
    "an arrow inside a function": (breaches_of_arrows, "vaefast/data.py", "def f():\n    from vaefast import ops\n"),
    "a circle": (circles, "vaefast/ops/term.py", "from .loss import elbo_loss\n"),
    "a circle of two packages": (circles, "vaefast/ops/term.py", "from ..losses.elbo import x\n"),
    "a module behind the face": (breaches_of_the_face, "vaefast/cli/runs.py", "from vaefast.losses.elbo import x\n"),
    "a module behind the face, relative": (breaches_of_the_face, "vaefast/cli/runs.py", "from ..model import VAE\n"),
    "a module behind the face, deep": (breaches_of_the_face, "vaefast/cli/report/a.py", "from ...ops import library\n"),
    "a name that is not public": (breaches_of_the_face, "vaefast/cli/runs.py", "from vaefast.functional import kl\n"),
    "an attribute that is not": (breaches_of_the_face, "vaefast/cli/runs.py", "from vaefast import data\ndata.gzip\n"),
    "a private name": (breaches_of_the_face, "vaefast/cli/runs.py", "import vaefast\nvaefast._checks\n"),
    "an import of all of a module": (breaches_of_the_face, "vaefast/cli/runs.py", "import vaefast.ops\n"),
    "torch.ops beside the library": (
        other_users_of_torch_ops,
        "vaefast/ops/term.py",
        "import torch\ntorch.ops.vaefast\n",
    ),
    "a long function": (long_functions, "vaefast/cli/runs.py", "def f():\n" + "    x = 1\n" * 60),
    "a long file": (long_files, "vaefast/model/vae.py", "x = 1\n" * 251),
    "a long header": (long_files, "csrc/math/deep/terms.h", "int x;\n" * 221),
    "tensors in a kernel": (breaches_of_includes, "csrc/math/deep/terms.h", "#include <ATen/core/Tensor.h>\n"),
    "a kernel that knows its callers": (breaches_of_includes, "csrc/cpu/sweep.cpp", '#include "../ops/sweep.h"\n'),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_breach_is_seen(name, tmp_path):
    check, file, text = PLANTED[name]
    for known in ("vaefast/losses/elbo.py", "vaefast/ops/loss.py", "vaefast/ops/library.py", "vaefast/ops/__init__.py"):
        (tmp_path / known).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / known).write_text("from ..ops.term import row_sum\n" if "loss" in known else "")
    assert check(tmp_path) == []
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text)
    assert len(check(tmp_path)) >= 1
