"""The arrows of the design: math <- kernels.h <- cpu, cuda, ops <- _C <- _ops <- autograd <- likelihoods <- terms <-
objectives <- functional <- losses, iwae <- model <- command line. Each file includes or imports only what stands to its left."""

import ast
import re

import pytest

from tests.native import ROOT

# What each folder of csrc may include by a relative path, and whether it may see torch.
NATIVE = {
    "csrc/math": (["math"], False),
    "csrc/kernels.h": (["math"], False),
    "csrc/cpu": (["math", "kernels.h", "cpu"], False),
    "csrc/cuda": (["math", "kernels.h", "cuda"], False),
    "csrc/ops": (["kernels.h", "ops"], True),
}
PYTHON = {
    "_ops": ["_C", "_built_for"],
    "_checks": [],
    "reference": [],
    "_paths": ["_ops"],
    "_vjp": ["_ops"],
    "autograd": ["_ops", "_paths", "_vjp", "reference"],
    "linear": ["_checks", "_ops", "_paths", "_vjp", "autograd"],
    "terms": ["_checks", "autograd", "likelihoods", "reference"],
    "_likelihood": ["_checks"],
    "densities": ["_checks", "_likelihood", "autograd"],
    "discrete": ["_checks", "_likelihood", "_paths"],
    "likelihoods": ["_likelihood", "densities", "discrete"],
    "objectives": ["_checks", "likelihoods", "terms"],
    "diagnostics": ["_checks", "objectives", "terms"],
    "scales": ["_checks"],
    "kl": ["_checks", "terms"],
    "functional": ["diagnostics", "kl", "linear", "objectives", "scales", "terms"],
    "priors": ["_checks", "functional"],
    "schedules": ["_checks"],
    "iwae": ["_checks", "_likelihood", "_paths", "functional", "likelihoods", "objectives"],
    "losses": ["_checks", "_likelihood", "autograd", "functional", "likelihoods", "kl"],
    "_importance": ["_checks"],
    "model": ["_checks", "_importance", "_likelihood", "functional", "iwae", "losses", "objectives"],
    "builders": ["_checks", "_likelihood", "likelihoods", "model"],
    "data": ["_checks"],
    "plots": [],
    "runs": ["", "_likelihood", "builders", "likelihoods", "model"],
    "training": ["", "data", "functional", "iwae", "likelihoods", "model", "plots", "runs"],
    "progress": ["training"],
    "options": ["", "likelihoods"],
    "outputs": ["data", "model", "plots", "runs", "training"],
    "examine": ["", "_importance", "data", "model", "runs"],
    "page": [],
    "report": ["", "_ops", "data", "examine", "functional", "model", "options", "page", "plots", "runs"],
    "cli": ["", "_ops", "options", "outputs", "progress", "report", "runs", "training"],
    "__main__": ["cli"],
    "__init__": ["_ops", "builders", "functional", "iwae", "likelihoods", "losses", "model", "priors", "schedules"],
}


@pytest.mark.parametrize("folder", NATIVE)
def test_native_includes(folder):
    allowed, torch = NATIVE[folder]
    place = ROOT / folder
    files = [place] if place.is_file() else [f for f in place.rglob("*") if f.suffix in (".h", ".cpp", ".inl", ".cu")]
    assert files
    for file in files:
        for quoted, angled in re.findall(r'#include (?:"(.+)"|<(.+)>)', file.read_text()):
            if angled:
                assert torch or not re.match(r"torch|ATen|c10|pybind11", angled), f"{file.name} includes <{angled}>"
                assert folder == "csrc/cuda" or "cuda_" not in angled, f"{file.name} includes <{angled}>"
                assert angled not in ("torch/extension.h", "torch/all.h", "ATen/ATen.h"), (
                    f"{file.name} includes <{angled}>"
                )
            else:
                target = (file.parent / quoted).resolve().relative_to(ROOT / "csrc")
                assert target.parts[0] in allowed, f"{file.name} includes {target}"


@pytest.mark.parametrize("module", sorted(f.stem for f in (ROOT / "vaefast").glob("*.py") if f.stem != "_built_for"))
def test_python_imports(module):
    tree = ast.parse((ROOT / "vaefast" / f"{module}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            for name in names:
                name = "" if name == "__version__" else name
                assert name in PYTHON[module], f"{module} imports {name}"
        if isinstance(node, ast.Attribute) and node.attr == "ops" and getattr(node.value, "id", "") == "torch":
            assert module == "_ops", f"{module} touches torch.ops"


def test_file_budgets():
    """Over the budget is a reason to look again: is there a second idea in the file?"""
    for folder, pattern, budget in (("csrc", "**/*", 220), ("vaefast", "*.py", 370), (".", "setup.py", 135)):
        for file in (ROOT / folder).glob(pattern):
            if file.is_file() and file.suffix in (".h", ".cpp", ".inl", ".cu", ".cuh", ".py"):
                assert len(file.read_text().splitlines()) <= budget, file
