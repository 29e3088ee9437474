"""The build: our own files compile without a warning under g++ and clang, and a wheel built twice, in two folders, is the same
file. The quick form looks at what needs no torch, with the compiler that is there."""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils import cpp_extension

from tests.support.native import ROOT

from . import Row
from .sanitize import copy

PLANTED = "static int unused(int x) { return 3; }\n"


def flags(torch_too: bool) -> list[str]:
    """The package's own, of setup.py, with warnings as errors but those of torch's headers."""
    spec = importlib.util.spec_from_file_location("vaefast_setup", ROOT / "setup.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    given = ["-std=c++20", "-fPIC", *module.CXX_FLAGS, "-Werror"]
    assert {"-Wall", "-Wextra"} <= set(given)
    if torch_too:
        paths = [*cpp_extension.include_paths(), sysconfig.get_paths()["include"]]
        abi = int(torch._C._GLIBCXX_USE_CXX11_ABI)
        given += [*(f"-isystem{p}" for p in paths), "-DTORCH_EXTENSION_NAME=_C", f"-D_GLIBCXX_USE_CXX11_ABI={abi}"]
    return given


def warnings(compiler: str, source: Path, folder: str, torch_too: bool, *extra: str) -> list[str]:
    command = [compiler, *flags(torch_too), *extra, "-c", str(source), "-o", f"{folder}/out.o"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "CCACHE_DISABLE": "1"})
    said = [line for line in run.stderr.splitlines() if "error:" in line or "warning:" in line]
    return said or ["it ended with an error"] * (run.returncode != 0)


def compilers(folder: str, quick: bool) -> Iterator[Row]:
    planted = Path(folder) / "planted.cpp"
    planted.write_text(PLANTED)
    names = ["cpu"] if quick else ["cpu", "ops"]
    sources = [f for name in names for f in sorted((ROOT / "csrc" / name).glob("*.cpp"))]
    for compiler in [os.environ.get("CXX", "g++")] if quick else ["g++", "clang++"]:
        if shutil.which(compiler) is None:
            yield Row(compiler, "not installed", "no warning", False)
            continue
        extra = ["-fsyntax-only"] if quick else []
        said = [line for f in sources for line in warnings(compiler, f, folder, "ops" in f.parts, *extra)]
        figure = f"{len(said)} warnings in {len(sources)} files{': ' + said[0] if said else ''}"
        yield Row(f"{compiler}: warnings", figure, "0", bool(sources) and not said)
        seen = len(warnings(compiler, planted, folder, False))
        yield Row(f"{compiler}, planted: what is not used", f"{seen} seen", "at least 1", seen > 0)


def wheel(folder: Path) -> str:
    """The hash of a wheel built in a folder, every file of it compiled anew."""
    tree = copy(folder / "tree")
    epoch = {"SOURCE_DATE_EPOCH": "1700000000", "CCACHE_DISABLE": "1", "VAEFAST_CUDA": "0"}
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        ".",
    ]
    run = subprocess.run(command, cwd=tree, capture_output=True, text=True, env={**os.environ, **epoch})
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    (made,) = folder.glob("*.whl")
    return hashlib.sha256(made.read_bytes()).hexdigest()


def wheels(folder: Path) -> Iterator[Row]:
    hashes = []
    for name in ("one", "another-folder"):
        (folder / name).mkdir()
        hashes.append(wheel(folder / name))
    figure = f"{len(set(hashes))} (sha256 {hashes[0][:12]})"
    yield Row("different wheels of two builds, in two folders", figure, "1", len(set(hashes)) == 1)


def rows(quick: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        yield from compilers(folder, quick)
        if not quick:
            yield from wheels(Path(folder))
