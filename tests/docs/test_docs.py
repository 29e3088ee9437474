"""Documentation that runs: every docstring's example and every Python block of the README. CONTRIBUTING.md's patch is held by
tests/build/test_new_likelihood.py."""

import doctest
import importlib
import pkgutil
import re

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
        vaefast,
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
            if name not in ("ELBO", "KLParts", "PIWAEBounds", "Likelihood", "Bounds", "NAMES") and callable(thing):
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
