"""Documentation that runs: every docstring's example and every Python block of the README, and CONTRIBUTING's diffs, which
are held to the files."""

import doctest
import importlib
import os
import pkgutil
import re
import subprocess

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
            if name not in ("ELBO", "KLParts", "PIWAEBounds", "Likelihood"):
                assert ">>>" in thing.__doc__, f"{name} has no example"


def test_code_blocks_run():
    """The README's, in order, in one namespace."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    namespace: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)


def diffs() -> list[list[str]]:
    found = re.findall(r"```diff\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    return [diff.splitlines() for diff in found]


LEAST = (
    "csrc/math/terms/location_scale.h",
    "csrc/math/terms.h",
    "vaefast/densities.py",
)  # of which the first diff shows less than stands there


@pytest.mark.parametrize("which", [0, 1])
def test_the_diff_of_a_likelihood_is_what_stands_in_the_files(which):
    """CONTRIBUTING.md's diffs, line by line; under 40 of them."""
    assert len(diffs()) == 2
    diff = diffs()[which]
    assert sum(line.startswith("+") for line in diff) < 40
    lines: list[str] = []  # of the file that is named last
    held = 0
    for line in diff:
        if line.startswith(" "):
            file = line.split(",")[0].strip()
            lines = [] if which == 0 and file in LEAST else (ROOT / file).read_text().splitlines()
        elif lines and line.startswith("+"):
            assert line[1:] in lines, line
            held += 1
    assert held > (7, 20)[which]


def test_the_term_of_the_first_diff_computes_its_formula(tmp_path):
    """Its struct, compiled as it is shown, against the formula in plain torch: value and gradients in double."""
    first = "\n".join(diffs()[0])
    struct = "\n".join(
        line[1:] for line in first.partition("location_scale.h\n")[2].partition("\n csrc")[0].splitlines()
    )
    numbers = [[0.3, -1.2, 0.4], [1.0, 1.0, -2.0], [-2.0, 5.0, 1.5]]
    calls = "".join(
        f'  v = Laplace::evaluate({", ".join(map(str, row))}, d); std::printf("%.17g %.17g %.17g %.17g\\n", v, d[0], d[1], d[2]);\n'
        for row in numbers
    )
    source = tmp_path / "term.cpp"
    source.write_text(
        f'#include "{ROOT}/csrc/math/term.h"\n#include <cstdio>\nnamespace vaefast {{\n{struct}\n}}\n'
        f"using namespace vaefast;\nint main() {{\n  double v, d[3];\n{calls}}}\n"
    )
    subprocess.run([os.environ.get("CXX", "g++"), "-std=c++17", source, "-o", tmp_path / "term"], check=True)
    said = subprocess.run([tmp_path / "term"], check=True, capture_output=True, text=True).stdout
    got = torch.tensor([[float(each) for each in line.split()] for line in said.splitlines()], dtype=torch.float64)
    operands = torch.tensor(numbers, dtype=torch.float64).unbind(1)
    leaves = [t.clone().requires_grad_() for t in operands]
    value = vaefast.reference.laplace(*leaves)
    gradients = torch.autograd.grad(value.sum(), leaves)
    torch.testing.assert_close(got, torch.stack([value.detach(), *gradients], 1), rtol=1e-12, atol=1e-12)


def test_readme_lists_every_function():
    readme = (ROOT / "README.md").read_text()
    for name in vaefast.functional.__all__ + vaefast.likelihoods.__all__ + vaefast.__all__:
        if name not in ("by_name", "Likelihood", "likelihoods", "KLParts", "PIWAEBounds"):
            assert name in readme, f"README.md does not mention {name}"
