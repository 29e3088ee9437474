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
from tests.support.native import ROOT

APPLICATION = ("matplotlib", "rich", "safetensors")  # what the modules of vaefast.cli import


def modules(path: list[str], prefix: str) -> list[str]:
    """Every module below a package, in folders too, but private ones."""
    names = [m.name for m in pkgutil.walk_packages(path, prefix)]
    return [name for name in names if not any(part.startswith("_") for part in name.split("."))]


MODULES = modules(vaefast.__path__, "vaefast.")


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    for package in APPLICATION if name.startswith("vaefast.cli.") else ():
        pytest.importorskip(package)
    module = importlib.import_module(name)
    assert doctest.testmod(module, extraglobs={"torch": torch}).failed == 0
    assert module.__doc__


def test_docstrings_of_every_folder_run(tmp_path, monkeypatch):
    """A planted package within a package is found, and its wrong example seen."""
    assert len(MODULES) > 45
    deep = tmp_path / "planted" / "deep"
    deep.mkdir(parents=True)
    for file, text in (("../__init__", ""), ("__init__", ""), ("wrong", '"""\n>>> 1 + 1\n3\n"""'), ("_private", "")):
        (deep / f"{file}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    found = modules([str(tmp_path / "planted")], "planted.")
    assert found == ["planted.deep", "planted.deep.wrong"]
    assert doctest.testmod(importlib.import_module(found[1]), report=False, verbose=False).failed == 1


def test_public_names_have_documented_examples():
    for module in (
        vaefast.functional,
        vaefast.likelihoods,
        vaefast.losses,
        vaefast.model,
        vaefast.priors,
        vaefast.schedules,
    ):
        for name in module.__all__:
            thing = getattr(module, name)
            assert thing.__doc__, name
            if name not in ("ELBO", "KLParts", "PIWAEBounds", "Likelihood", "Bounds"):
                assert ">>>" in thing.__doc__, f"{name} has no example"


def test_code_blocks_run():
    """The README's, in order, in one namespace."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    namespace: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)


def test_the_readme_is_short_and_its_links_and_commands_are_there():
    """120 lines; the changed line of a training loop stands before the table of speed; .ci/run takes its two commands from it."""
    text = (ROOT / "README.md").read_text()
    assert text.count("\n") <= 120
    assert 0 < text.index('criterion = vaefast.ELBOLoss("bernoulli")') < text.index("\n## Speed\n")
    assert re.findall(r"^pip install .*\[(\w+)\]", text, re.MULTILINE) == ["cli", "test"]
    links = re.findall(r"\]\((?!http)([^)#]+)", text)
    assert len(links) > 15
    assert not [link for link in links if not (ROOT / link).exists()]


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
