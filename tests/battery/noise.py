"""The noise: Random123's known answers, and statistics that a stream of standard normals must pass and each of several
broken streams must fail. Every test has a p-value; one below 1e-6 divided by the number of tests fails the stream."""

import contextlib
import functools
import math
import shutil
import subprocess
from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy import stats

from tests.support import native
from vaefast.ops.sample import _noise

from . import Row
from .exhaustive import words

Array = np.ndarray
CHUNK = 1 << 22
DIEHARDER = (0, 1, 2, 3, 8, 10, 11, 12, 15, 100, 101, 102)  # tests that need no tape and little time


def normals(n: int, seed: int, offset: int = 0) -> Array:
    return _noise(torch.empty(n), -1, torch.tensor([seed, offset])).numpy()


def _two_sided(z: float) -> float:
    return math.erfc(abs(z) / math.sqrt(2))


def _rare(count: int, expected: float) -> float:
    return min(1.0, 2 * min(stats.poisson.cdf(count, expected), stats.poisson.sf(count - 1, expected)))


def _chunks(z: Array) -> Iterator[Array]:
    for start in range(0, z.size, CHUNK):
        yield z[start : start + CHUNK].astype(np.float64)


def _correlation(a: Array, b: Array, power: int = 1) -> float:
    """p of the correlation of a and b, or of their squares."""
    centre, variance = (0.0, 1.0) if power == 1 else (1.0, 2.0)
    pairs = zip(_chunks(a), _chunks(b), strict=True)
    total = sum(float(((s**power - centre) * (t**power - centre)).sum()) for s, t in pairs)
    return _two_sided(total / variance / math.sqrt(a.size))


def statistics(stream: Callable[[int, int, int], Array], n: int) -> dict[str, float]:
    """p-values of stream(n, seed, offset): n floats that should be independent and standard normal."""
    z, p = stream(n, 42, 0), {}
    moments = {1: (0, 1), 2: (1, 2), 3: (0, 15), 4: (3, 96)}  # E z^k and its variance
    sums = np.sum([[(c**k).sum() for k in moments] for c in _chunks(z)], 0)
    for total, (k, (mean, variance)) in zip(sums, moments.items(), strict=True):
        p[f"moment {k}"] = _two_sided((total / n - mean) / math.sqrt(variance / n))
    bins = sum(np.histogram(stats.norm.cdf(c), 1024, (0, 1))[0] for c in _chunks(z))
    p["1024 bins"] = float(stats.chi2.sf(((bins - n / 1024) ** 2 / (n / 1024)).sum(), 1023))
    ordered, distance = np.sort(z), 0.0
    for i, c in enumerate(_chunks(ordered)):
        rank = (i * CHUNK + np.arange(c.size)) / n
        cdf = stats.norm.cdf(c)
        distance = max(distance, float((cdf - rank).max()), float((rank + 1 / n - cdf).max()))
    p["Kolmogorov-Smirnov"] = float(stats.kstwobign.sf(distance * math.sqrt(n)))
    for limit in (3, 4, 5):
        beyond = int(np.searchsorted(ordered, -limit) + n - np.searchsorted(ordered, limit, "right"))
        p[f"beyond {limit}"] = _rare(beyond, n * math.erfc(limit / math.sqrt(2)))
    for lag in range(1, 17):
        p[f"z at lag {lag}"] = _correlation(z[:-lag], z[lag:])
        p[f"z^2 at lag {lag}"] = _correlation(z[:-lag], z[lag:], 2)
    p["grid of the uniforms"] = _grid(z)
    half = n // 2
    p["halves"] = _correlation(z[:half], z[half : 2 * half])
    few = min(n, 4_000_000)
    for name, seed, offset in (
        ("next seed", 43, 0),
        ("seed + 2^32", 42 + 2**32, 0),
        ("next offset", 42, 1),
        ("seed and offset exchanged", 0, 42),
    ):
        other = stream(few, seed, offset)
        p[name], p[f"{name}, squares"] = _correlation(z[:few], other), _correlation(z[:few], other, 2)
    return p


def _grid(z: Array) -> float:
    """Box-Muller's radius gives its uniform back, exp(-r^2 / 2), which must not lie on multiples of 2^-24."""
    r2 = (z[: z.size // 2 * 2].astype(np.float64).reshape(-1, 2) ** 2).sum(1)
    small = np.exp(-r2[r2 > 20 * math.log(2)] / 2) * 2**24  # below 2^-10, where float32's own grid is finer
    return float(stats.kstest(small % 1, "uniform").pvalue) if small.size else 1.0


def philox_normals(n: int, seed: int, offset: int, rounds: int = 10, bits: int = 32) -> Array:
    """The same stream in numpy, with so many rounds and uniforms of so many bits."""
    out = np.empty((n + 3) // 4 * 4, np.float32)
    mask, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    for start in range(0, out.size // 4, CHUNK // 4):
        block = np.arange(start, min(start + CHUNK // 4, out.size // 4), dtype=np.uint64)
        w = [
            block & mask,
            block >> shift,
            *(np.full(block.size, v, np.uint64) for v in (offset & 0xFFFFFFFF, offset >> 32)),
        ]
        key = [seed & 0xFFFFFFFF, seed >> 32]
        for _ in range(rounds):
            a, b = np.uint64(0xD2511F53) * w[0], np.uint64(0xCD9E8D57) * w[2]
            w = [(b >> shift) ^ w[1] ^ np.uint64(key[0]), b & mask, (a >> shift) ^ w[3] ^ np.uint64(key[1]), a & mask]
            key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
        u = [((each >> np.uint64(32 - bits)).astype(np.float64) + 1) * 2.0**-bits for each in w]
        pairs = [(np.sqrt(-2 * np.log(u[k])), 2 * np.pi * u[k + 1]) for k in (0, 2)]
        out[4 * start : 4 * (start + block.size)] = np.stack(
            [f(t) * r for r, t in pairs for f in (np.cos, np.sin)], 1
        ).ravel()
    return out[:n]


def _repeated(n: int, seed: int, offset: int) -> Array:
    z = normals(n, seed, offset).copy()
    z[n // 2 : n // 2 * 2] = z[: n // 2]
    return z


def _duplicated(n: int, seed: int, offset: int) -> Array:
    z = normals(n, seed, offset).copy()
    z[3::4] = z[2::4][: z[3::4].size]
    return z


DEFECTS: dict[str, Callable[[int, int, int], Array]] = {
    "3 rounds of Philox": functools.partial(philox_normals, rounds=3),
    "uniforms of 24 bits": functools.partial(philox_normals, bits=24),
    "a block of numbers that comes twice": _repeated,
    "a lane that comes twice": _duplicated,
    "rounded to bfloat16": lambda n, s, o: torch.from_numpy(normals(n, s, o)).bfloat16().float().numpy(),
    "offset ignored": lambda n, s, o: normals(n, s, 0),
    "scale 1.0005": lambda n, s, o: normals(n, s, o) * np.float32(1.0005),
}


def known_answers() -> int:
    ones = 2**64 - 1
    answers = {
        (0, 0, 0): "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        (ones, ones, ones): "408f276d 41c83b0e a20bc7c6 6d5451fd",
        (0x299F31D0A4093822, 0x0370734413198A2E, 0x85A308D3243F6A88): "d16cfe09 94fdcceb 5001e420 24126ea1",
    }
    return sum(" ".join(f"{w:08x}" for w in native.philox(*numbers)) == true for numbers, true in answers.items())


def verdict(p: dict[str, float]) -> tuple[bool, str]:
    name = min(p, key=p.__getitem__)
    return p[name] >= 1e-6 / len(p), f"least p {p[name]:.2g} of {len(p)} ({name})"


def rows(quick: bool) -> Iterator[Row]:
    right = known_answers()
    yield Row("known answers of Philox4x32-10", f"{right} of 3", "3 of 3", right == 3)
    same = np.array_equal(words(3, 5, 7, 2), np.array([*native.philox(3, 5, 7), *native.philox(3, 5, 8)], np.uint32))
    close = np.abs(philox_normals(4000, 1234, 7) - normals(4000, 1234, 7)).max()
    yield Row("the kernels' stream is this Philox's", f"within {close:.1e}", "1e-5", bool(same and close < 1e-5))
    n = 2_000_000 if quick else 100_000_000
    p = statistics(normals, n)
    passed, figure = verdict(p)
    yield Row(f"{n:,} normals", figure, f"p above 1e-6 / {len(p)}", passed)
    if not quick:
        for name, value in p.items():
            yield Row(f"p of {name}", f"{value:.3g}", f"{1e-6 / len(p):.1e}", value >= 1e-6 / len(p))
    for name, stream in DEFECTS.items():
        scale = name.startswith("scale")
        if quick and scale:
            continue  # invisible below 1e8
        passed, figure = verdict(statistics(stream, n if quick or scale else 20_000_000))
        yield Row(f"planted: {name}", f"{'missed' if passed else 'caught'}, {figure}", "caught", not passed)
    if not quick and shutil.which("dieharder"):
        yield from dieharder()


def dieharder() -> Iterator[Row]:
    """The raw words through dieharder's generator 200, which reads its standard input."""
    columns = [word for each in ("test_name", "ntuple", "pvalues", "assessment") for word in ("-D", each)]
    for test in DIEHARDER:
        command = ["dieharder", "-g", "200", "-d", str(test), *columns]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
            assert reader.stdin and reader.stdout
            try:
                for first in range(0, 1 << 40, 1 << 18):
                    reader.stdin.write(words(42, 0, first, 1 << 18).tobytes())
            except BrokenPipeError:  # it has read enough
                pass
            lines = [line.split("|") for line in reader.stdout.read().decode().splitlines() if "|" in line]
            with contextlib.suppress(BrokenPipeError):
                reader.stdin.close()
        found = [" ".join(cell.strip() for cell in line) for line in lines]
        passed = bool(found) and not any("FAILED" in line for line in found)
        yield Row(f"dieharder -d {test}", ", ".join(found[:3]) or "nothing", "no FAILED", passed)
