"""CONTRIBUTING.md's patch of a new likelihood: it is small, it applies, it is formatted, its formula is right, and with it the
likelihood is built and tested like those that are there."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.native import ROOT
from tests.support.terms import LONG

SECTION = (ROOT / "CONTRIBUTING.md").read_text().partition("\n## Adding a likelihood\n")[2].partition("\n## ")[0]
PATCH = SECTION.partition("```diff\n")[2].partition("```")[0]
FILES = re.findall(r"^\+\+\+ b/(.*)$", PATCH, re.MULTILINE)
NAME = re.search(r'name = "(\w+)"', PATCH)[1]
RIGHT, WRONG = "+    d[1] = -d[0];\n", "+    d[1] = d[0];\n"  # of the gradient by x


def apply(patch: str, tree: Path) -> None:
    run = subprocess.run(["git", "apply", "-"], cwd=tree, input=patch, capture_output=True, text=True)
    assert run.returncode == 0, f"CONTRIBUTING.md's patch does not apply: {run.stderr}"


def copy(tree: Path, *names: str) -> Path:
    """What a build and its tests need, in a folder that no repository's commands take for their own."""
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, tree / name)
    subprocess.run(["git", "init", "-q"], cwd=tree, check=True)
    return tree


def test_the_patch_is_small():
    """At most five files and 40 added lines; the list in words names the same files."""
    added = [line for line in PATCH.splitlines() if line.startswith("+") and not line.startswith("+++")]
    assert len(FILES) == len(set(FILES)) <= 5
    assert 0 < len(added) <= 40
    assert re.findall(r"^\d\. `([^`]+)`", SECTION, re.MULTILINE) == FILES
    assert PATCH.count(RIGHT) == 1


def test_the_patch_is_formatted(tmp_path):
    tree = copy(tmp_path, "csrc", "vaefast", "tests", "pyproject.toml")
    apply(PATCH, tree)
    python = [file for file in FILES if file.endswith(".py")]
    native = [file for file in FILES if not file.endswith(".py")]
    for command, *files in (
        ["ruff format --check", *python],
        ["ruff check", *python],
        ["clang-format --dry-run -Werror", *native],
    ):
        command = command.split()
        if shutil.which(command[0]) is None:
            pytest.skip(f"{command[0]} is not installed")
        run = subprocess.run([*command, *files], cwd=tree, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr


def load(name: str, file: Path):
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("sign", ["right", "wrong"])
def test_the_struct_computes_its_formula(sign, tmp_path):
    """The struct, compiled alone in double, the formula in plain torch and the exact one of the row, at the row's operands: value
    and gradients."""
    tree = copy(tmp_path, "csrc", "vaefast", "tests")
    apply(PATCH if sign == "right" else PATCH.replace(RIGHT, WRONG), tree)
    (rows,) = (file for file in FILES if file.startswith("tests/"))
    module = load("tests.support.terms._patched", tree / rows)
    (row,) = (row for row in module.ROWS if row.name == NAME)
    operands = row.operands((300,))

    source, arity = tmp_path / "term.cpp", len(operands)
    struct = re.search(r"^\+struct (\w+)", PATCH, re.MULTILINE)[1]
    source.write_text(f"""#include "{tree}/csrc/math/terms.h"
#include <cstdio>
int main() {{
  double x[{arity}], d[{arity}];
  while (std::scanf("%lf {"%lf " * (arity - 1)}", {", ".join(f"x + {k}" for k in range(arity))}) == {arity}) {{
    std::printf("%.17g", vaefast::evaluate<vaefast::{struct}>(x, d));
    for (double each : d) std::printf(" %.17g", each);
    std::printf("\\n");
  }}
}}
""")
    subprocess.run([os.environ.get("CXX", "g++"), "-std=c++17", source, "-o", tmp_path / "term"], check=True)
    given = "\n".join(" ".join(repr(x) for x in line) for line in torch.stack(operands, 1).tolist())
    said = subprocess.run([tmp_path / "term"], check=True, input=given, capture_output=True, text=True).stdout
    compiled = np.array([[float(x) for x in line.split()] for line in said.splitlines()]).T

    leaves = [t.clone().requires_grad_() for t in operands]
    value = load("patched_reference", tree / "vaefast" / "reference" / "formulas.py").TERMS[NAME](*leaves)
    plain = [value.detach().numpy(), *(g.numpy() for g in torch.autograd.grad(value.sum(), leaves))]

    wide = [t.astype(LONG) for t in row.centered([t.numpy() for t in operands])]
    exact = row.exact(*wide)
    units, promised = row.limits(wide, exact)
    assert promised.all() and len(exact) == len(compiled) == arity + 1
    off = [bool((np.abs(c - e) > 2.0**-53 * u).any()) for c, e, u in zip(compiled, exact, units, strict=True)]
    assert off == [False, False, sign == "wrong", False]
    for p, e in zip(plain, exact, strict=True):
        np.testing.assert_allclose(p, e.astype(float), rtol=1e-12, atol=1e-12)


def build(tree: Path) -> None:
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    run = subprocess.run(command, cwd=tree, env={**os.environ, "VAEFAST_CUDA": "0"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]


def results(tree: Path, *options: str) -> tuple[int, str]:
    """The exit code of the likelihood's tests, and what pytest says last."""
    wanted = f"{NAME} or test_every_term_is_everywhere"
    files = ["tests/ops/test_term.py", "tests/likelihoods/test_likelihoods.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", *options, "-k", wanted]
    run = subprocess.run(
        [*command, *files], cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)}, capture_output=True, text=True
    )
    return run.returncode, run.stdout[-4000:]


@pytest.mark.slow
def test_the_patch_adds_a_tested_likelihood(tmp_path):
    """Built in a copy of the tree, the likelihood passes the tests that loop over the table. They see that its gradients are
    not those of another formula."""
    tree = copy(tmp_path, "csrc", "vaefast", "tests", "setup.py", "pyproject.toml", "README.md", "LICENSE")
    apply(PATCH, tree)
    build(tree)
    code, said = results(tree)
    assert code == 0, said
    passed = int(re.search(r"(\d+) passed", said)[1])
    assert passed > 60  # 72 with one instruction set, 26 more for each other

    formulas = tree / "vaefast" / "reference" / "formulas.py"
    before, own, after = formulas.read_text().partition(f"def {NAME}(")
    assert after.count("x - mean") == 1
    formulas.write_text(before + own + after.replace("x - mean", "x - (2 * mean.detach() - mean)"))  # another sign
    code, said = results(tree, "-x")
    assert code == 1 and "off by" in said, said
