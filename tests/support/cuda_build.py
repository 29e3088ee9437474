"""Builds the CUDA extension where torch has no CUDA: setup.py itself, against CPU torch's headers (the CUDA ones among them
are the same), linked to stub libraries that define the symbols listed in cuda_symbols.txt and nothing else.

`python -m tests.support.cuda_build FOLDER` leaves vaefast/_C.so there. The library binds every symbol when it is loaded, so one
that torch's CUDA libraries are not known to have fails the import."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch.utils import cpp_extension

import setup
from tests.support.cuda_report import TOOLKIT

ROOT = Path(__file__).parents[2]
SYMBOLS = Path(__file__).with_name("cuda_symbols.txt")


def write_stubs(folder: Path) -> None:
    """lib*.so of functions that trap and data that is zero, from lines of `library kind symbol`."""
    libraries: dict[str, list[str]] = {}
    for line in SYMBOLS.read_text().splitlines():
        library, kind, symbol = line.split()
        section, body = (".text", "ud2") if kind == "function" else (".bss", ".zero 64")
        size = f"\n.size {symbol}, 64" if kind == "object" else ""
        libraries.setdefault(library, []).append(
            f"{section}\n.globl {symbol}\n.type {symbol}, @{kind}{size}\n{symbol}: {body}\n"
        )
    for library, definitions in libraries.items():
        source = folder / f"{library}.s"
        source.write_text("".join(definitions))
        subprocess.run(["gcc", "-shared", "-o", folder / f"lib{library}.so", source], check=True)


def main() -> None:
    folder = Path(sys.argv[1]).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    write_stubs(folder)
    torch.version.cuda = setup.nvcc_release(TOOLKIT)
    cpp_extension.CUDA_HOME = TOOLKIT
    os.environ["CFLAGS"] = "-DC10_CUDA_NO_CMAKE_CONFIGURE_FILE"  # a header that only CUDA builds of torch have
    os.environ["LDFLAGS"] = f"-L{folder}"
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "9.0")
    os.environ["VAEFAST_CUDA"] = "1"
    for flags, quick in ((setup.CXX_FLAGS, "-O0"), (setup.NVCC_FLAGS, "-Xptxas=-O0")):  # it is linked, and never run
        flags[flags.index("-O3")] = quick
    os.chdir(ROOT)
    sys.argv = ["setup.py", "build_ext", "--build-temp", str(folder / "objects"), "--build-lib", str(folder)]
    setup.setup(packages=[], **setup.extension())


if __name__ == "__main__":
    main()
