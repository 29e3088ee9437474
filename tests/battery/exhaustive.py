"""The elementary functions of csrc/math at every float: worst error in ULP, order of neighbours, and what becomes of NaN,
infinities and zeros. Compiled on the spot, once for each instruction set."""

import ctypes
import functools
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mpmath
import numpy as np
import torch

from tests.support import native
from tests.support.native import ISA_FLAGS, package_flags
from vaefast.ops import library

from . import Row

SOURCE = Path(__file__).parent / "exhaustive.cpp"
# In ULP of the true value: what csrc/math/scalar.h says of its functions, and docs/accuracy.md of the two parts, which are the
# Bernoulli's value and gradient where a target is 0 or 1.
WORST = {
    "exp": 1.02,
    "exp_subnormal": 1.0,
    "exp_nonpositive": 1.02,
    "log": 0.9,
    "clamped_log": 0.9,
    "clamped_log1m": 0.9,
    "log1p": 1.5,
    "phi": 3.4,
    "expm1": 1.62,
    "softplus_part": 2.0,
    "sigmoid_part": 4.0,
    "log_x_by_sinh": 2.4,
    "its_slope": 1.9,
}
LIMITS = ("exp", "phi", "expm1", "log")
HALVES = (torch.bfloat16, torch.float16)
RISING = [name for name in WORST if name not in ("phi", "log_x_by_sinh")]
_INF, _NAN = np.inf, np.nan
EDGES = {  # at -inf, -1000, -0, 0, 1000, inf, NaN
    "exp": [0, 0, 1, 1, _INF, _INF, _NAN],
    "log": [_NAN, _NAN, -_INF, -_INF, np.float32(np.log(1000)), _INF, _NAN],
    "phi": [_INF, 999, 0, 0, _INF, _INF, _NAN],
    "expm1": [-1, -1, 0, 0, _INF, _INF, _NAN],
}


class Found(ctypes.Structure):
    _fields_ = [("worst", ctypes.c_double), ("where", ctypes.c_float), ("checked", ctypes.c_int64),
                ("drops", ctypes.c_int64), ("drop", ctypes.c_double)]  # fmt: skip


@functools.cache
def compiled(isa: str) -> ctypes.CDLL:
    directory, compiler = tempfile.mkdtemp(), os.environ.get("CXX", "g++")
    reference, result = f"{directory}/reference.o", f"{directory}/exhaustive_{isa}.so"
    common = [compiler, "-std=c++17", "-fPIC", "-Wall", str(SOURCE)]
    best = ISA_FLAGS[library.build_info()["cpu_isas"][-1]]
    subprocess.run([*common, "-O3", "-ffast-math", *best, "-DREFERENCE", "-c", "-o", reference], check=True)
    subprocess.run(
        [*common[:-1], *package_flags(), *ISA_FLAGS[isa], "-shared", common[-1], reference, "-o", result], check=True
    )
    built = ctypes.CDLL(result)
    built.check_turns.restype = ctypes.c_double
    for name in LIMITS:
        getattr(built, f"limits_{name}").restype = ctypes.c_int64
    return built


def apply(isa: str, name: str, x: np.ndarray, prefix: str = "narrow") -> np.ndarray:
    x = np.ascontiguousarray(x, np.float32 if prefix == "narrow" else np.float64)
    out = np.empty_like(x)
    getattr(compiled(isa), f"{prefix}_{name}")(
        x.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(x.size)
    )
    return out


def words(seed: int, offset: int, first: int, blocks: int) -> np.ndarray:
    out = np.empty(4 * blocks, np.uint32)
    numbers = ctypes.c_uint64(seed), ctypes.c_uint64(offset), ctypes.c_uint64(first), ctypes.c_int64(blocks)
    compiled("baseline").words(*numbers, out.ctypes.data_as(ctypes.c_void_p))
    return out


def _with_50_digits(name: str, x: float) -> mpmath.mpf:
    x = mpmath.mpf(x)
    if name == "log_x_by_sinh":
        return mpmath.log((x / 2) / mpmath.sinh(x / 2))
    if name == "its_slope":
        return 1 / x - mpmath.coth(x / 2) / 2
    return {
        "log": mpmath.log, "clamped_log": mpmath.log, "clamped_log1m": lambda x: mpmath.log1p(-x), "log1p": mpmath.log1p,
        "phi": lambda x: mpmath.expm1(x) - x, "expm1": mpmath.expm1,
        "softplus_part": lambda x: mpmath.log1p(mpmath.exp(x)), "sigmoid_part": lambda x: 1 / (1 + mpmath.exp(-x)),
    }.get(name, mpmath.exp)(x)  # fmt: skip


def reference_error(count: int) -> float:
    """The doubles that the floats are held to, against 50 digits: the worst error in ULP of float32."""
    rng, worst = np.random.default_rng(0), 0.0
    for name in WORST:
        low, high = (
            (0.001, 0.999)
            if name in ("log", "clamped_log", "clamped_log1m", "log1p")
            else (-1, 1)
            if "sinh" in name or name == "its_slope"
            else (-80, 0)
        )
        x = np.concatenate([rng.uniform(low, high, count), high * 10.0 ** rng.uniform(-6, 0, count)]).astype(np.float32)
        x = x[(x != 0) & (x >= min(low, high))].astype(np.float64)
        with mpmath.workdps(50):
            true = [_with_50_digits(name, each) for each in x]
            off = [
                abs(mpmath.mpf(got) / t - 1)
                for got, t in zip(apply("baseline", name, x, "reference"), true, strict=True)
            ]
        worst = max(worst, float(max(off)) * 2**24)
    return worst


def halves(isa: str, dtype: torch.dtype, chunk: int, step: int) -> int:
    """Floats, of all patterns or every `step`th chunk of them, that do not become what torch makes of them."""
    different = 0
    for start in range(0, 2**32, chunk * step):
        x = np.arange(start, start + chunk, dtype=np.uint64).astype(np.uint32).view(np.float32)
        got, true = native.unary(isa, f"f_through_{str(dtype)[6:]}", x), torch.from_numpy(x).to(dtype).float().numpy()
        different += int(((got.view(np.uint32) != true.view(np.uint32)) & ~(np.isnan(got) & np.isnan(true))).sum())
    return different


def rows(quick: bool) -> Iterator[Row]:
    error = reference_error(100 if quick else 2_000)
    yield Row("the doubles themselves, against 50 digits", f"{error:.1e} ULP of float32", "1e-4 ULP", error < 1e-4)
    step = 4099 if quick else 1
    for isa in library.build_info()["cpu_isas"]:
        for name, bound in WORST.items():
            found = Found()
            getattr(compiled(isa), f"check_{name}")(ctypes.c_int64(step), ctypes.byref(found))
            figure = f"{found.worst:.3f} ULP at {found.where!r} of {found.checked:,} floats"
            if name in RISING:
                figure += f"; {found.drops:,} neighbours in the wrong order, by {found.drop:.1f} ULP at most"
            yield Row(f"{name}, {isa}", figure, f"{bound:g} ULP" + ("; 1 ULP" if name in RISING else ""),
                      found.worst <= bound and found.drop <= 1)  # fmt: skip
        different = sum(halves(isa, dtype, 2**14 if quick else 2**24, 257 if quick else 1) for dtype in HALVES)
        yield Row(f"to bfloat16 and float16, {isa}", f"{different} floats unlike torch's", "0", different == 0)
        turns = compiled(isa).check_turns(ctypes.c_int64(9973 if quick else 1))
        yield Row(f"cos and sin of turns, {isa}", f"{turns:.2f} x 2^-24", "2 x 2^-24", turns <= 2)
        wrong = {n: getattr(compiled(isa), f"limits_{n}")(ctypes.c_int64(step)) for n in LIMITS}
        figure = f"{sum(wrong.values())} of {4 * 2**32 // step:,} patterns"
        yield Row(f"limits of {', '.join(LIMITS)}, {isa}", figure, "0", not any(wrong.values()))
        edges = np.array([-_INF, -1000, -0.0, 0.0, 1000, _INF, _NAN], np.float32)
        right = [np.array_equal(apply(isa, n, edges), np.float32(true), equal_nan=True) for n, true in EDGES.items()]
        figure = f"{sum(right)} of {len(right)} functions at {edges.size} places"
        yield Row(f"NaN, infinities and zeros, {isa}", figure, "all", all(right))
