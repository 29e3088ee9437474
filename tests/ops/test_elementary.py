"""The elementary functions of csrc/math, and whether a compiler makes vectors of the loops that they stand in."""

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.battery.exhaustive import WORST
from tests.support import native
from vaefast.ops import library


def ulps(got: np.ndarray, true: np.ndarray) -> float:
    """The worst error in units of the spacing of what was got, floats or doubles."""
    kind = np.finfo(got.dtype)
    exponent = np.frexp(np.maximum(np.abs(true), kind.tiny))[1] - 1
    return float(np.max(np.abs(got.astype(true.dtype) - true) / np.ldexp(np.ones_like(true), exponent - kind.nmant)))


def floats(low: float, high: float, n: int = 400_000) -> np.ndarray:
    """Floats of [low, high], spread evenly over their bit patterns, of both signs where the range has both."""
    bits = [np.float32(max(abs(low), abs(high))).view(np.uint32)]
    positive = np.linspace(0, int(bits[0]), n).astype(np.uint32).view(np.float32)
    values = np.concatenate([positive, -positive])
    return values[(values >= low) & (values <= high)]


def doubles(low: float, high: float, n: int = 100_000) -> np.ndarray:
    """Doubles of [low, high], random by their bit patterns, by their values, and by their values in [-2, 2]; and the ends."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, np.float64(max(abs(low), abs(high))).view(np.uint64), n, np.uint64).view(np.float64)
    near = rng.uniform(max(low, -2), min(high, 2), 4 * n)
    values = np.concatenate([bits, -bits, rng.uniform(low, high, n), near, [low, high]])
    return values[(values >= low) & (values <= high)]


def phi(x: np.ndarray) -> np.ndarray:
    series = np.zeros_like(x)
    for n in range(25, 1, -1):
        series = (series * x + 1) / n
    return np.where(np.abs(x) < 1, series * x * x, np.expm1(x) - x)


# The bounds are of these floats; those of all floats, which may be wider, are tests/battery/exhaustive.py's.
FUNCTIONS = {
    "exp": (np.exp, -104, 88.7, 1.0),
    "log": (np.log, 1e-45, 3e38, 0.9),
    "log1p": (np.log1p, 0, 1, 1.3),
    "clamped_log": (np.log, 4e-44, 1, 0.9),
    "clamped_log1m": (lambda p: np.log1p(-p), 0, 0.9999999, 0.9),
    "phi": (phi, -1e4, 88.7, 2.8),
    "expm1": (np.expm1, -1e4, 88.7, 1.62),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_elementary_functions(name, isa):
    function, low, high, bound = FUNCTIONS[name]
    x = floats(low, high)
    x = x[x != 0] if name == "log" else x
    worst = ulps(native.unary(isa, f"f_{name}", x), function(x.astype(np.float64)))
    assert worst <= min(bound, WORST[name]), f"{worst:.3f} ULP"


# About what scalar.h says, but for exp, which is better: 0.847 is the worst that was found.
FUNCTIONS_OF_DOUBLES = {
    "exp": (np.exp, -746, 709.782712893384, 0.85),
    "exp_nonpositive": (np.exp, -746, 0, 0.85),
    "log": (np.log, 1e-320, 1e308, 1.1),
    "log1p": (np.log1p, 0, 1, 1.5),
    "clamped_log": (np.log, 3.8e-44, 1, 1.1),
    "clamped_log1m": (lambda p: np.log1p(-p), 0, 0.9999999, 1.1),
    "phi": (phi, -1e4, 709.7, 3.4),
    "expm1": (np.expm1, -1e4, 709.7, 1.7),
}


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="numpy has no numbers longer than double here")
@pytest.mark.parametrize("name", FUNCTIONS_OF_DOUBLES)
def test_elementary_functions_of_doubles(name, isa):
    function, low, high, bound = FUNCTIONS_OF_DOUBLES[name]
    x = doubles(low, high)
    x = x[x != 0] if name == "log" else x
    worst = ulps(native.unary(isa, f"d_{name}", x), function(x.astype(np.longdouble)))
    assert worst <= bound, f"{worst:.3f} ULP"


# Of counts: the function, its range in floats and in doubles, and the bound of both.
FUNCTIONS_OF_COUNTS = {
    "expm1_nonpositive": (np.expm1, (-1e4, 0), (-1e4, 0), 1.7),
    "log_of_rate": (np.log, (1e-45, 3e38), (1e-320, 1e308), 1.1),
    "log1p_of_any": (np.log1p, (0, 1e38), (0, 1e300), 1.7),
}


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="numpy has no numbers longer than double here")
@pytest.mark.parametrize("name", FUNCTIONS_OF_COUNTS)
def test_functions_of_counts(name, isa):
    function, of_floats, of_doubles, bound = FUNCTIONS_OF_COUNTS[name]
    for prefix, x, wide in (("f", floats(*of_floats), np.float64), ("d", doubles(*of_doubles), np.longdouble)):
        x = x[x > 0] if name == "log_of_rate" else x
        worst = ulps(native.unary(isa, f"{prefix}_{name}", x), function(x.astype(wide)))
        assert worst <= bound, f"{prefix}: {worst:.3f} ULP"
    edges = np.array([0.0, -0.0, np.nan], np.float32)
    expected = {"log_of_rate": [np.float32(-1e37)] * 2 + [np.nan]}.get(name, [0, 0, np.nan])
    np.testing.assert_array_equal(native.unary(isa, f"f_{name}", edges), expected)


def test_elementary_functions_at_the_edges(isa):
    inf, nan = np.inf, np.nan
    edges = np.array([-inf, -200, -0.0, 0.0, 89, inf, nan], np.float32)
    beyond = np.array([-3.4028235e38, -1e4, np.nextafter(np.float32(89), inf), 1e4, 3.4028235e38, -nan], np.float32)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(native.unary(isa, "f_exp", beyond), [0, 0, inf, inf, inf, nan])
        np.testing.assert_array_equal(native.unary(isa, "f_exp", edges), [0, 0, 1, 1, inf, inf, nan])
        np.testing.assert_array_equal(
            native.unary(isa, "f_log", edges), [nan, nan, -inf, -inf, np.log(np.float32(89)), inf, nan]
        )
        probabilities = np.array([-inf, -1, -0.0, 0.0, 1e-45, 1, 1.5, inf, nan], np.float32)
        np.testing.assert_array_equal(
            native.unary(isa, "f_clamped_log", probabilities)[:6], [nan, nan, -100, -100, -100, 0]
        )
        np.testing.assert_array_equal(
            native.unary(isa, "f_clamped_log1m", probabilities)[2:], [0, 0, -probabilities[4], -100, nan, nan, nan]
        )
        np.testing.assert_array_equal(native.unary(isa, "f_phi", edges), [inf, 199, 0, 0, inf, inf, nan])
        np.testing.assert_array_equal(native.unary(isa, "f_expm1", edges), [-1, -1, 0, 0, inf, inf, nan])


def test_elementary_functions_of_doubles_at_the_edges(isa):
    inf, nan = np.inf, np.nan

    def call(name, *x):
        return native.unary(isa, name, np.array(x))

    with np.errstate(all="ignore"):
        least, normal = 5e-324, 2.0**-1022
        got = call("d_exp", -inf, -1.7e308, np.nextafter(-746, -inf), -746, -745.14, -745.13, -0.0, 0.0)
        np.testing.assert_array_equal(got, [0, 0, 0, 0, 0, least, 1, 1])
        got = call("d_exp", 709.782712893385, 710, np.nextafter(710, inf), 1.7e308, inf, nan, -nan)
        np.testing.assert_array_equal(got, [inf, inf, inf, inf, inf, nan, nan])
        got = call("d_exp_nonpositive", -inf, -1.7e308, -746, -745.14, -745.13, -0.0, 0.0, nan, -nan)
        np.testing.assert_array_equal(got, [0, 0, 0, 0, least, 1, 1, nan, nan])
        around = [np.nextafter(normal, 0), normal, np.nextafter(normal, 1)]
        np.testing.assert_allclose(call("d_log", *around), np.log(around), rtol=1e-15)
        got = call("d_log", -inf, -1, -0.0, 0.0, least, 1, inf, nan)
        np.testing.assert_array_equal(got, [nan, nan, -inf, -inf, np.log(least), 0, inf, nan])
        bound = np.exp(-100.0)
        got = call("d_clamped_log", -inf, -1, -0.0, 0.0, 1e-320, 0.999 * bound, bound, 1, nan)
        np.testing.assert_array_equal(got, [nan, nan, -100, -100, -100, -100, -100, 0, nan])
        assert -99.9991 < call("d_clamped_log", 1.001 * bound)[0] < -99.9989
        got = call("d_clamped_log1m", -0.0, 0.0, 1e-320, 1, 1.5, inf, nan)
        np.testing.assert_array_equal(got, [0, 0, -1e-320, -100, nan, nan, nan])
        np.testing.assert_array_equal(
            call("d_phi", -inf, -800, -0.0, 0.0, 710, inf, nan), [inf, 799, 0, 0, inf, inf, nan]
        )
        np.testing.assert_array_equal(
            call("d_expm1", -inf, -800, -0.0, 0.0, 710, inf, nan), [-1, -1, 0, 0, inf, inf, nan]
        )


def test_half_conversions_are_torchs(isa):
    """All 2^16 values in, and a spread of floats with every rounding case out."""
    patterns = torch.arange(2**16, dtype=torch.int32).to(torch.uint16)
    spread = np.concatenate([floats(-1e38, 1e38), floats(-7e4, 7e4), np.float32([np.inf, -np.inf, np.nan])])
    for name, dtype in (("f_through_float16", torch.float16), ("f_through_bfloat16", torch.bfloat16)):
        every = patterns.view(dtype).float().numpy()
        np.testing.assert_array_equal(native.unary(isa, name, every), every)
        halfway = np.nextafter(every, np.float32(np.inf)), (every[:-1] + every[1:]) / 2
        for x in (spread, *halfway):
            np.testing.assert_array_equal(native.unary(isa, name, x), torch.from_numpy(x).to(dtype).float().numpy())


@pytest.mark.parametrize("T", ["float", "double"])
def test_the_loop_of_every_term_is_vectorized(T, tmp_path):
    """A selection that a compiler cannot turn into one of vectors makes a loop slower tenfold, and nothing else is seen of
    it."""
    if shutil.which("g++") is None:
        pytest.skip("reads what g++ says of its loops")
    families = [file.read_text() for file in sorted((native.ROOT / "csrc/math/terms").glob("*.h"))]
    structs = [
        name
        for text in families
        for names in re.findall(r"=\s*Family<(.*?)>;", text, re.DOTALL)
        for name in re.split(r",\s*", names)
    ]
    assert len(structs) == len(library.build_info()["terms"])
    loops = {}
    source = ["#define VAEFAST_FMA", f'#include "{native.ROOT}/csrc/math/terms.h"', "using namespace vaefast;"]
    for struct in structs:
        arity = library.build_info()["terms"][re.sub(r"(?<!^)([A-Z])", r"_\1", struct).lower()]
        operands = [f"x{k}" for k in range(arity)]
        arguments = [*(f"const {T}* {x}" for x in operands), "long n", *(f"{T}* g{x}" for x in operands), f"{T}* v"]
        source.append(f"void run_{struct}({', '.join(arguments)}) {{")
        source.append("#pragma GCC ivdep")
        loops[len(source) + 1] = struct  # the line of its loop
        each = ", ".join(f"{x}[i]" for x in operands)
        source.append("  for (long i = 0; i < n; ++i) {")
        source.append(f"    {T} x[] = {{{each}}}, d[{arity}]; v[i] = evaluate<{struct}>(x, d);")
        source.append(" ".join(f"g{x}[i] = d[{k}];" for k, x in enumerate(operands)))
        source += ["  }", "}"]
    (tmp_path / "loops.cpp").write_text("\n".join(source))
    vectorized, said = vectorized_lines(tmp_path, "loops.cpp", "loops.cpp")
    assert not [struct for line, struct in loops.items() if line not in vectorized], said


def vectorized_lines(folder: Path, source: str, file: str) -> tuple[Counter[int], str]:
    """How often g++ makes vectors of 32 bytes of the loop in each line of a file that `source` includes, and what it says."""
    command = [
        "g++",
        "-std=c++17",
        *native.package_flags(),
        *native.ISA_FLAGS["avx2"],
        "-fopt-info-vec-optimized",
        "-c",
    ]
    said = subprocess.run([*command, source], cwd=folder, capture_output=True, text=True, check=True).stderr
    found = re.findall(rf"{re.escape(file)}:(\d+):\d+: optimized: .*loop vectorized using 32", said)
    return Counter(int(line) for line in found), said


def test_the_loops_of_a_mixture_are_vectorized(tmp_path):
    """In both types, and that of the bins with and without its gradients."""
    if shutil.which("g++") is None:
        pytest.skip("reads what g++ says of its loops")
    file = native.ROOT / "csrc/cpu/mixture.inl"
    (tmp_path / "loops.cpp").write_text(f"""
#define VAEFAST_FMA
#include "{native.ROOT}/csrc/cpu/loops.h"
namespace vaefast::cpu {{
#include "{file}"
extern const MixtureLoops<float> narrow = mixture_loops<float>();
extern const MixtureLoops<double> wide = mixture_loops<double>();
}}""")
    vectorized, said = vectorized_lines(tmp_path, "loops.cpp", "mixture.inl")
    lines = enumerate(file.read_text().splitlines(), 1)
    loops = [k for k, line in lines if "for (int64_t i = 0" in line and not line.endswith(" = 0;")]  # that is memset
    assert len(loops) == 10
    assert sorted(vectorized[k] for k in loops) == [2] * 9 + [4], said
