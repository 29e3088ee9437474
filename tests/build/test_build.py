"""setup.py: what it compiles, against which torch, and what it says when it cannot."""

import os
import subprocess
import sys
import tarfile

import pytest

from tests.support.native import ROOT


def setup(code, **env):
    """Runs code with setup.py imported, as a build frontend imports it."""
    command = [sys.executable, "-c", f"import setup\n{code}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **env})


def test_the_environments_torch_is_used():
    run = setup("print(setup.get_requires_for_build_wheel(), setup.get_requires_for_build_editable())")
    assert run.stdout.strip() == "[] []", run.stderr


def test_a_torch_is_asked_for_only_where_there_is_none():
    run = setup(
        "setup.see_torch = lambda: False; print(setup.get_requires_for_build_wheel(), setup.get_requires_for_build_sdist())"
    )
    requirement = next(
        line for line in (ROOT / "setup.py").read_text().splitlines() if line.startswith("TORCH = ")
    ).split('"')[1]
    assert run.stdout.strip() == f"['{requirement}'] []"
    assert requirement in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("found", "asked"), [("2.9.1", True), ("2.10.0+cpu", True), ("2.11.0a0", False), ("3.0", False)]
)
def test_a_torch_that_is_too_old_is_not_built_for(found, asked):
    """pip would replace it after the build, and the library would not load."""
    code = f"setup.metadata.version = lambda name: {found!r}; print(bool(setup.get_requires_for_build_wheel()))"
    assert setup(code).stdout.strip() == str(asked)


def test_an_isolated_backend_sees_it_too(tmp_path):
    """As under pip's isolation: a path without the environment's packages, and one interpreter to ask."""
    code = """
import importlib.util, sys
own = [p for p in sys.path if "site-packages" in p]
tools = [p for p in own]
sys.path[:] = [p for p in sys.path if p not in own]
importlib.invalidate_caches()
assert importlib.util.find_spec("torch") is None
assert setup.see_torch()
assert importlib.util.find_spec("torch").origin
print("seen")
"""
    assert setup(code, VAEFAST_TORCH_PYTHON=sys.executable).stdout.strip() == "seen"


CUDA = """
from types import SimpleNamespace as N
torch = N(version=N(cuda={cuda!r}), __version__="2.0")
setup.nvcc_release = lambda toolkit: toolkit and "13.0"
print(setup.cuda_sources(torch, {toolkit!r}))
"""


@pytest.mark.parametrize("choice, cuda, toolkit, expected", [
    ("1", None, "/toolkit", "torch 2.0 is a build without CUDA"),
    ("1", "13.0", None, "no CUDA toolkit with nvcc and its headers was found; set CUDA_HOME"),
    ("1", "12.9", "/toolkit", "the toolkit in /toolkit is CUDA 13.0 and torch was built with 12.9"),
    ("yes", "13.0", "/toolkit", "VAEFAST_CUDA must be 0, 1 or auto, got 'yes'"),
])  # fmt: skip
def test_a_forced_cuda_build_that_cannot_be_is_one_clear_error(choice, cuda, toolkit, expected):
    run = setup(CUDA.format(cuda=cuda, toolkit=toolkit), VAEFAST_CUDA=choice)
    assert run.returncode == 1 and expected in run.stderr and "Traceback" not in run.stderr


def test_a_wrapper_of_nvcc_leads_to_its_toolkit(tmp_path):
    """Such as a script in /usr/local/bin, beside which there are no headers."""
    home, real = tmp_path / "home", tmp_path / "real"
    (home / "bin").mkdir(parents=True)
    (real / "bin").mkdir(parents=True)
    wrapper = home / "bin" / "nvcc"
    wrapper.write_text(f"#!/bin/sh\necho '#$ TOP={real}/bin/..' >&2\n")
    wrapper.chmod(0o755)
    told = "print(setup.toolkit_at({!r}), setup.nvcc_release({!r}))"
    assert setup(told.format(str(home), str(home))).stdout.split() == [str(real), "None"]
    wrapper.write_text("#!/bin/sh\nexit 1\n")
    assert setup(told.format(str(home), str(home))).stdout.split() == [str(home), "None"]
    assert setup("print(setup.toolkit_at(None))").stdout.strip() == "None"


@pytest.mark.parametrize(
    "choice, cuda, toolkit",
    [("0", "13.0", "/toolkit"), ("auto", None, "/toolkit"), ("auto", "13.0", None), ("auto", "12.9", "/toolkit")],
)
def test_a_cpu_build(choice, cuda, toolkit):
    run = setup(CUDA.format(cuda=cuda, toolkit=toolkit), VAEFAST_CUDA=choice)
    assert run.stdout.strip() == "[]", run.stderr


def test_no_fast_math_and_no_native_code():
    text = (ROOT / "setup.py").read_text()
    for flag in ("-ffast-math", "-march=native", "--use_fast_math", "-Ofast"):
        assert flag not in text


def test_a_source_distribution_holds_what_a_build_needs(tmp_path):
    run = setup(f"print(setup.build_sdist({str(tmp_path)!r}))")
    with tarfile.open(tmp_path / run.stdout.split()[-1]) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    needed = {
        str(file.relative_to(ROOT)) for file in (ROOT / "csrc").rglob("*") if file.suffix in (".h", ".inl", ".cpp")
    }
    needed |= {"setup.py", "pyproject.toml", "README.md", "LICENSE", "vaefast/py.typed", "vaefast/_C.pyi"}
    read_by_tests = {"CONTRIBUTING.md", "docs/api.md", "examples/__init__.py", "benchmarks/results/amd.json"}
    assert needed | read_by_tests | {"tests/conftest.py", "tests/battery/exhaustive.cpp"} <= names
