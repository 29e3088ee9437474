"""`python -m tests.simulator [--sanitize] [pytest's arguments]`: runs tests with the source of the CUDA kernels, compiled
for the CPU, in the place of the CPU's kernels. --sanitize: under AddressSanitizer and UndefinedBehaviorSanitizer."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

HERE = Path(__file__).parent
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]


def build(folder: str, sanitize: bool, source: Path = HERE / "backend.cpp") -> str:
    library = os.path.join(folder, "simulated.so")
    flags = ["-O1", "-g1", "-fno-var-tracking", *SANITIZERS] if sanitize else ["-O2", "-g0"]
    flags += ["-std=c++20", "-shared", "-fPIC", "-ffp-contract=fast", "-Wno-unknown-pragmas", f"-I{HERE}"]
    flags += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"]
    flags += [f"-isystem{path}" for path in cpp_extension.include_paths()]
    subprocess.run([os.environ.get("CXX", "g++"), *flags, str(source), "-o", library], check=True)
    return library


def preload() -> dict[str, str]:
    """The environment in which Python loads sanitized libraries."""
    compiler = os.environ.get("CXX", "g++")
    # libstdc++ with it, or the sanitizer knows no way to throw where a library (triton's) does
    names = ("libasan.so", "libstdc++.so.6")
    found = [subprocess.check_output([compiler, f"-print-file-name={n}"], text=True).strip() for n in names]
    return {"ASAN_OPTIONS": "detect_leaks=0:detect_odr_violation=0", "LD_PRELOAD": " ".join(found)}


def main() -> int:
    arguments = sys.argv[1:]
    sanitize = "--sanitize" in arguments
    if sanitize:
        arguments[arguments.index("--sanitize")] = "--capture=no"  # a report must reach the terminal
        if "VAEFAST_SANITIZED" not in os.environ:  # the sanitizer's library must be the first that is loaded
            os.environ.update(preload(), VAEFAST_SANITIZED="1")
            os.execv(sys.executable, [sys.executable, "-m", "tests.simulator", *sys.argv[1:]])
    with tempfile.TemporaryDirectory() as folder:
        library = build(folder, sanitize)
        sys.setdlopenflags(os.RTLD_NOW | os.RTLD_GLOBAL)  # the library finds register_backend in vaefast._C
        import vaefast  # noqa: F401

        torch.ops.load_library(library)
        sys.setdlopenflags(os.RTLD_NOW)  # what torch.compile builds must not see each other's symbols
        return pytest.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
