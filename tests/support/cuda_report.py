"""What nvcc says of the CUDA kernels. `python -m tests.support.cuda_report` prints the table of the hot ones, for docs/cuda.md."""

import os
import re
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import setup
from tests.support.native import ROOT

SOURCES = sorted(file.stem for file in (ROOT / "csrc" / "cuda").glob("*.cu"))
ARCHS = re.findall(r"\d+\.\d+", setup.ARCHS)
GENERATIONS = ["8.0", "9.0", "10.0", "12.0"]  # 8.6 and 8.9 are compiled as 8.0 is
TOOLKIT = os.environ.get("CUDA_HOME", "/usr/local/cuda")
NVCC = shutil.which(f"{TOOLKIT}/bin/nvcc")

# Hot kernels: template arguments as the compiler mangles them, and bytes that an element moves: operands read, gradients
# and samples written.
HOT = {
    "Bernoulli + gradient, float32": ("9BernoulliELi4ELb1ELb0E", 12),
    "Bernoulli + gradient, bfloat16": ("9BernoulliELi2ELb1ELb0E", 6),
    "Gaussian + gradient, float32": ("8GaussianELi4ELb1ELb0E", 12),
    "discretized logistic + gradients, float32": ("19DiscretizedLogisticELi4ELb1ELb0E", 20),
    "KL + gradients, float32": ("10GaussianKlELi4ELb1ELb0E", 16),
    "sample + KL, float32": ("10GaussianKlELi4ELb0ELb1E", 12),
    "its backward, float32": ("10GaussianKlELi4ELb1ELb1E", 20),
}


@dataclass(frozen=True)
class Kernel:
    name: str  # mangled
    stack: int  # bytes
    spilled: int  # bytes
    registers: int


def compile_cuda(source: str, arch: str, folder: Path) -> tuple[Path, list[Kernel]]:
    """The object file, and its kernels as ptxas reports them."""
    output = folder / f"{source}_{arch}.o"
    flags = ["-std=c++17", f"-arch=sm_{arch.replace('.', '')}", "-Xptxas=-v", *setup.NVCC_FLAGS]
    command = [NVCC, *flags, "-c", f"csrc/cuda/{source}.cu", "-o", str(output)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0 and "warning" not in run.stderr, run.stderr
    pattern = r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill.*?Used (\d+) registers"
    report = re.findall(pattern, run.stderr, re.DOTALL)
    return output, [Kernel(name, *map(int, numbers)) for name, *numbers in report]


def compile_all(folder: Path, sources=SOURCES, archs=ARCHS) -> dict[tuple[str, str], tuple[Path, list[Kernel]]]:
    jobs = [(source, arch) for arch in archs for source in sources]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(jobs, pool.map(lambda job: compile_cuda(*job, folder), jobs), strict=True))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        compiled = compile_all(Path(folder), ["vector"])
    print(
        "| kernel | bytes per element | 2^26 elements at 4.8 TB/s | "
        + " | ".join(f"sm_{a.replace('.', '')}" for a in ARCHS)
        + " |"
    )
    print("|---" * (3 + len(ARCHS)) + "|")
    for title, (mangled, size) in HOT.items():
        cells = []
        for arch in ARCHS:
            (kernel,) = [k for k in compiled["vector", arch][1] if mangled in k.name]
            cells.append(f"{kernel.registers}, {kernel.spilled}")
        print(f"| {title} | {size} | {size * 2**26 / 4.8e12 * 1e6:.0f} us | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
