"""Documentation that runs: every docstring's example and every Python block of the README, and CONTRIBUTING's diffs, which
are held to the files."""

import doctest
import importlib
import pkgutil
import re

import pytest
import torch

import vaefast
from tests.native import ROOT

MODULES = [m.name for m in pkgutil.iter_modules(vaefast.__path__) if not m.name.startswith("_")]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    if name in ("plots", "training", "outputs", "progress", "report"):
        pytest.importorskip("matplotlib")
        pytest.importorskip("safetensors")
    module = importlib.import_module(f"vaefast.{name}")
    assert doctest.testmod(module, extraglobs={"torch": torch}).failed == 0
    assert module.__doc__


def test_public_names_have_documented_examples():
    for module in (
        vaefast.functional,
        vaefast.likelihoods,
        vaefast.iwae,
        vaefast.losses,
        vaefast.model,
        vaefast.builders,
        vaefast.priors,
        vaefast.schedules,
    ):
        for name in module.__all__:
            thing = getattr(module, name)
            assert thing.__doc__, name
            if name not in ("ELBO", "KLParts", "PIWAEBounds", "Parts", "Likelihood"):
                assert ">>>" in thing.__doc__, f"{name} has no example"


def test_code_blocks_run():
    """The README's, in order, in one namespace."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    namespace: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)


@pytest.mark.parametrize("which", [0, 1])
def test_the_diff_of_a_likelihood_is_what_stands_in_the_files(which):
    """CONTRIBUTING.md's diffs, line by line; under 40 of them. The first's class is said to be less than the real one."""
    diffs = re.findall(r"```diff\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert len(diffs) == 2
    diff = diffs[which].splitlines()
    assert sum(line.startswith("+") for line in diff) < 40
    lines: list[str] = []  # of the file that is named last
    held = 0
    for line in diff:
        if line.startswith(" "):
            file = line.split(",")[0].strip()
            lines = [] if (which, file) == (0, "vaefast/densities.py") else (ROOT / file).read_text().splitlines()
        elif lines and line.startswith("+") and "TermList" not in line:
            assert line[1:] in lines, line
            held += 1
    assert held > 20


def test_readme_lists_every_function():
    readme = (ROOT / "README.md").read_text()
    for name in vaefast.functional.__all__ + vaefast.likelihoods.__all__ + vaefast.__all__:
        if name not in ("by_name", "Likelihood", "likelihoods", "KLParts", "PIWAEBounds"):
            assert name in readme, f"README.md does not mention {name}"
