"""Compiles tests/support/probe.cpp with the package's own flags and calls it through ctypes."""

import ctypes
import functools
import os
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
ISA_FLAGS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma", "-mbmi", "-mbmi2"],
    "avx512": ["-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"],
}


def package_flags() -> list[str]:
    """The flags that decide arithmetic, from setup.py."""
    return re.findall(r'"(-(?:O3|fno-[a-z-]+|ffp-[a-z=-]+))"', (ROOT / "setup.py").read_text())


@functools.cache
def probe(isa: str) -> ctypes.CDLL:
    directory = tempfile.mkdtemp()
    library = os.path.join(directory, f"probe_{isa}.so")
    compiler = os.environ.get("CXX", "g++")
    command = [compiler, "-std=c++17", "-shared", "-fPIC", *package_flags(), *ISA_FLAGS[isa]]
    subprocess.run([*command, str(ROOT / "tests" / "support" / "probe.cpp"), "-o", library], check=True)
    return ctypes.CDLL(library)


def unary(isa: str, name: str, x: np.ndarray) -> np.ndarray:
    x = np.ascontiguousarray(x, np.float64 if name.startswith("d_") else np.float32)
    out = np.empty_like(x)
    function = getattr(probe(isa), name)
    function(x.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(x.size))
    return out


def turns(isa: str, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    k = np.ascontiguousarray(k, np.uint32)
    c, s = np.empty(k.size, np.float32), np.empty(k.size, np.float32)
    pointers = (a.ctypes.data_as(ctypes.c_void_p) for a in (k, c, s))
    probe(isa).turns(*pointers, ctypes.c_int64(k.size))
    return c, s


def philox(seed: int, offset: int, block: int) -> list[int]:
    out = (ctypes.c_uint32 * 4)()
    probe("baseline").philox_words(ctypes.c_uint64(seed), ctypes.c_uint64(offset), ctypes.c_uint64(block), out)
    return list(out)
