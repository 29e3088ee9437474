"""The CPU's code under AddressSanitizer and UndefinedBehaviorSanitizer, ThreadSanitizer and valgrind, each of which also meets a
defect that it must see. Everything is built in copies of the tree."""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.simulator.__main__ import SANITIZERS, preload
from tests.support.native import ROOT

from . import Row

FILES = (
    "tests/ops/test_term.py",
    "tests/losses/test_elbo.py",
    "tests/losses/test_options.py",
    "tests/ops/test_sample.py",
    "tests/test_bad_input.py",
    "tests/likelihoods/test_likelihoods.py",
    "tests/likelihoods/test_accuracy.py",
    "tests/ops/test_linear.py",
    "tests/functional/test_objectives.py",
    "tests/functional/test_known_mistakes.py",
    "tests/losses/test_dreg.py",
    "tests/model/test_importance.py",
    "tests/model/test_vae.py",
)
UNLIKE = "compile or inductor or 2_to_the_31"  # of their tests: what compiles, and what is large
CALLS = 100_000
REPORT = re.compile(r"ERROR: AddressSanitizer: [\w-]+|runtime error: [^\n]+|WARNING: ThreadSanitizer: [\w -]+")
# What valgrind says of the library's own frames
MISUSE = re.compile(r"Invalid (?:read|write|free)|Conditional jump|Use of uninitialised|Mismatched free|Syscall param")
ONE_CALL = """
import torch, vaefast
torch.set_num_threads(1)
logits, mu, logvar = ((torch.arange(5.0 * n).reshape(5, n) / 99).requires_grad_() for n in (37, 3, 3))
z, kl = vaefast.functional.rsample_kl(mu, logvar)
loss = vaefast.ELBOLoss()(logits, torch.ones(5, 37, dtype=torch.uint8), mu, logvar)
(loss + kl.sum() + z.sum()).backward()
print("done", float(loss) > 0)
"""


@dataclass(frozen=True)
class Defect:
    """One place of the source, changed for the worse, and what a report of it says."""

    name: str
    file: str
    right: str
    wrong: str
    report: str

    def planted(self) -> str:
        text = (ROOT / self.file).read_text()
        assert text.count(self.right) == 1, f"{self.file} no longer has the place for {self.name}"
        return text.replace(self.right, self.wrong)

    def plant(self, tree: Path) -> None:
        (tree / self.file).write_text(self.planted())

    def row(self, tool: str, reports: str) -> Row:
        figure = f"caught: {reports.splitlines()[0]}" if re.search(self.report, reports) else "missed"
        return Row(f"{tool}, planted: {self.name}", figure, "caught", figure != "missed")


OUT_OF_BOUNDS = Defect(
    "a read past the end", "csrc/cpu/sweep.cpp", "sum += coef * row_sums[r];",
    "sum += coef * row_sums[r + (r == a.rows - 1)];", "heap-buffer-overflow|Invalid read",
)  # fmt: skip
OVERFLOW = Defect(
    "a sum beyond int", "csrc/cpu/sweep.cpp", "return std::max<int64_t>(1, 16 / tiling.unit_size());",
    "static volatile int most = 2147483647;\n  most = most + 1;\n  return std::max<int64_t>(1, 16 / tiling.unit_size());",
    "signed integer overflow",
)  # fmt: skip
PARTS = Defect(
    "tiles taken without atomic operations", "csrc/cpu/sweep.cpp", "next.fetch_add(taken_at_once, std::memory_order_relaxed)",
    "(*reinterpret_cast<int64_t*>(&next) += taken_at_once) - taken_at_once", "data race",
)  # fmt: skip
RACE = Defect(
    "a choice of instruction set that is not atomic", "csrc/cpu/isa.cpp", "std::atomic<int> chosen{kUnset};",
    "struct {\n  int v;\n  int load(std::memory_order) const { return v; }\n"
    "  void store(int x, std::memory_order) { v = x; }\n} chosen{kUnset};", "data race",
)  # fmt: skip


def copy(folder: Path, flags: Sequence[str] = (), link: Sequence[str] = ()) -> Path:
    """A copy of the tree, whose setup.py may compile and link with other flags than the package's own."""
    for name in ("csrc", "tests", "vaefast"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__", "_built_for.py")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    text = (ROOT / "setup.py").read_text()
    fortified = '"-D_FORTIFY_SOURCE=2", '  # its functions are not those that AddressSanitizer watches
    for old, new in (('"-O3", "-g0"', flags), ('"-s"', link), (fortified, ())) if flags else ():
        assert text.count(old) == 1
        text = text.replace(old, ", ".join(f'"{f}"' for f in new))
    (folder / "setup.py").write_text(text)
    return folder


def build(tree: Path) -> None:
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    run = subprocess.run(command, cwd=tree, capture_output=True, text=True, env={**os.environ, "VAEFAST_CUDA": "0"})
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]


def sanitized(tree: Path, *arguments: str) -> tuple[subprocess.CompletedProcess, str]:
    """Python in the tree, and the sanitizers' reports."""
    environment = {**os.environ, **preload(), "OMP_NUM_THREADS": "2", "PYTHONPATH": str(tree)}
    run = subprocess.run([sys.executable, *arguments], cwd=tree, capture_output=True, text=True, env=environment)
    return run, "\n".join(REPORT.findall(run.stdout + run.stderr))


def memory_and_arithmetic(folder: Path) -> Iterator[Row]:
    tool = "ASan and UBSan"
    # Python's own flags have -fwrapv, under which no sum is beyond int
    tree = copy(folder / "sanitized", ["-O1", "-g1", "-fno-wrapv", *SANITIZERS], SANITIZERS)
    build(tree)
    run, reports = sanitized(tree, "-m", "pytest", "-q", "-m", "", "--capture=no", *FILES, "-k", f"not ({UNLIKE})")
    counts = re.findall(r"(\d+ passed|\d+ failed)", run.stdout)
    figure = f"{', '.join(counts) or run.stderr[-300:]}, {reports or 'no report'}"
    yield Row(f"{tool}: the tests of {len(FILES)} files", figure, "no report", run.returncode == 0 and not reports)
    code = f"from tests.battery import fuzz; print(sum(1 for _ in fuzz.run(range({CALLS}))), 'calls')"
    run, reports = sanitized(tree, "-c", code)
    figure = f"{run.stdout.strip() or run.stderr[-300:]}, {reports or 'no report'}"
    made = run.returncode == 0 and f"{CALLS} calls" in run.stdout
    yield Row(f"{tool}: random calls", figure, f"{CALLS} calls, no report", made and not reports)
    for defect in (OUT_OF_BOUNDS, OVERFLOW):
        defect.plant(tree)
        build(tree)
        run, reports = sanitized(tree, "-c", ONE_CALL)
        yield defect.row(tool, reports)


def threads(folder: Path, quick: bool) -> Iterator[Row]:
    """tests/battery/threads.cpp; the quick form compiles the baseline's loops alone, under every name, and runs float32's."""
    shutil.copytree(ROOT / "csrc", folder / "csrc")
    (folder / "tests" / "battery").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "battery" / "threads.cpp", folder / "tests" / "battery")
    names = ["isa", "isa_baseline", "sweep"] if quick else [f.stem for f in sorted((ROOT / "csrc/cpu").glob("*.cpp"))]
    compiler = [os.environ.get("CXX", "g++"), "-std=c++20", "-O1", "-g1", "-fsanitize=thread", "-Wno-unknown-pragmas"]
    link = ["-pthread"]
    if quick and platform.machine() == "x86_64":
        link += [f"-Wl,--defsym=_ZN7vaefast3cpu{n}E=_ZN7vaefast3cpu9kBaselineE" for n in ("5kAvx2", "7kAvx512")]

    def compile(source: str) -> None:
        subprocess.run([*compiler, "-c", f"{source}.cpp", "-o", f"{Path(source).name}.o"], cwd=folder, check=True)

    def run(*arguments: str) -> tuple[subprocess.CompletedProcess, str]:
        objects = [f"{name}.o" for name in ("threads", *names)]
        subprocess.run([*compiler, *objects, *link, "-o", "threads"], cwd=folder, check=True)
        ran = subprocess.run(["./threads", *arguments], cwd=folder, capture_output=True, text=True)
        return ran, "\n".join(REPORT.findall(ran.stdout + ran.stderr))

    for source in ("tests/battery/threads", *(f"csrc/cpu/{name}" for name in names)):
        compile(source)
    ran, reports = run(*(("1", "1") if quick else ("20", "4")))
    figure = f"{ran.stdout.strip() or ran.stderr[-300:]}, {reports or 'no report'}"
    met = ran.returncode == 0 and ", 0 different" in ran.stdout and not reports
    yield Row("TSan: 8 threads of sweeps", figure, "0 different, no report", met)
    for defect in (PARTS, RACE):
        source = f"csrc/cpu/{Path(defect.file).stem}"
        defect.plant(folder)
        compile(source)
        yield defect.row("TSan", run("1", "1")[1])
        shutil.copy(ROOT / defect.file, folder / defect.file)
        compile(source)


def valgrind(folder: Path) -> Iterator[Row]:
    """One forward and backward pass; what valgrind says of Python, torch and the loader is not the library's."""
    if shutil.which("valgrind") is None:
        yield Row("valgrind", "not installed", "nothing to say of the library's frames", False)
        return

    def say(tree: Path) -> tuple[bool, str]:
        log = folder / "valgrind.log"
        command = [
            "valgrind",
            "--error-limit=no",
            "--num-callers=40",
            f"--log-file={log}",
            sys.executable,
            "-c",
            ONE_CALL,
        ]
        plain = {"ATEN_CPU_CAPABILITY": "default", "PYTHONMALLOC": "malloc", "PYTHONPATH": str(tree)}
        run = subprocess.run(command, cwd=tree, capture_output=True, text=True, env={**os.environ, **plain})
        blocks = re.split(r"==\d+== \n", log.read_text())
        return "done True" in run.stdout, "\n".join(
            found.group() for block in blocks if "_C.cpython" in block and (found := MISUSE.search(block))
        )

    tree = copy(folder / "plain", ["-O2", "-g0"], ["-Wl,-O1"])  # without -g, frames are named by their library
    build(tree)
    done, reports = say(tree)
    figure = f"{'done' if done else 'not done'}, {reports or 'no report'}"
    yield Row("valgrind: a loss, a sample, their gradients", figure, "done, no report", done and not reports)
    OUT_OF_BOUNDS.plant(tree)
    build(tree)
    yield OUT_OF_BOUNDS.row("valgrind", say(tree)[1])


def rows(quick: bool) -> Iterator[Row]:
    for defect in (OUT_OF_BOUNDS, OVERFLOW, PARTS, RACE):  # the quick form plants only some
        defect.planted()
    with tempfile.TemporaryDirectory() as name:
        (folder := Path(name) / "threads").mkdir()
        yield from threads(folder, quick)
        if not quick:
            yield from memory_and_arithmetic(Path(name))
            yield from valgrind(Path(name))
