"""The CUDA source where there is no GPU: it compiles for every generation without spills, its hot loops move 16 bytes at a
time, it computes what the CPU's kernels compute when it runs on the CPU, and its binding links and loads."""

import importlib.util
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cuda_report import GENERATIONS, HOT, NVCC, SOURCES, TOOLKIT, compile_all
from tests.support.native import ROOT
from tests.support.once import once

pytestmark = pytest.mark.slow  # nvcc, g++ and tests under sanitizers: minutes each
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="no nvcc, of a CUDA toolkit, on this machine")


def disassembler():
    """The folder of cuobjdump and nvdisasm, from NVIDIA's packages on PyPI."""
    packages = importlib.util.find_spec("nvidia")
    folders = [
        Path(p) for root in (packages.submodule_search_locations if packages else []) for p in Path(root).glob("*/bin")
    ]
    return next((f for f in folders if (f / "cuobjdump").exists() and (f / "nvdisasm").exists()), None)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    def compile(folder):
        (folder / "report").write_bytes(pickle.dumps(compile_all(folder, archs=GENERATIONS)))

    return pickle.loads((once(tmp_path_factory, "cuda", compile) / "report").read_bytes())


@needs_nvcc
@pytest.mark.parametrize("arch", GENERATIONS)
def test_no_kernel_spills(compiled, arch):
    kernels = [kernel for source in SOURCES for kernel in compiled[source, arch][1]]
    assert len(kernels) > 40
    for kernel in kernels:
        assert kernel.stack == kernel.spilled == 0 and kernel.registers <= 255, kernel


@needs_nvcc
@pytest.mark.parametrize("arch", GENERATIONS)
@pytest.mark.parametrize("title", ["Bernoulli + gradient, float32", "sample + KL, float32"])
def test_three_blocks_of_a_light_term_fit(compiled, arch, title):
    """In the 65536 registers of a multiprocessor, which are given out by eight for each of a block's 256 threads."""
    (kernel,) = [kernel for kernel in compiled["vector", arch][1] if HOT[title][0] in kernel.name]
    assert kernel.registers <= 65536 // 3 // 256 // 8 * 8, kernel


@needs_nvcc
@pytest.mark.skipif(
    disassembler() is None, reason="no disassembler: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"
)
@pytest.mark.parametrize("arch", ["8.0", "9.0"])
def test_hot_kernels_move_sixteen_bytes_at_a_time(compiled, arch):
    """Two vectors of each operand in flight, one store of each gradient, nothing in local memory, no calls."""
    folder = disassembler()
    command = [folder / "cuobjdump", "-sass", compiled["vector", arch][0]]
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    text = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "PATH": path}).stdout
    kernels = {code.split("\n", 1)[0]: code for code in re.split(r"Function : ", text)[1:]}
    for term, arity in (("9Bernoulli", 2), ("8Gaussian", 3), ("10GaussianKl", 2)):
        for size in (4, 2):
            (code,) = [code for name, code in kernels.items() if f"{term}ELi{size}ELb1ELb0" in name]
            count = {op: len(re.findall(rf"\b{op}\b", code)) for op in (r"LDG\.E\.128", r"STG\.E\.128", "LDL", "STL")}
            assert count[r"LDG\.E\.128"] >= 2 * arity and count[r"STG\.E\.128"] >= arity, (term, size, count)
            assert count["LDL"] == count["STL"] == 0, (term, size, count)


def simulated(*arguments, only):
    """Runs tests once, and not for each instruction set of a CPU."""
    only = f"({only}) and not avx2 and not avx512"
    command = [sys.executable, "-m", "tests.simulator", "-q", "-m", "", *arguments, "-k", only]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert re.search(r"\d+ passed", run.stdout)


def test_kernels_run_on_the_cpu_like_the_cpus():
    """The tables of terms, losses and noise, with the CUDA kernels in the place of the CPU's."""
    files = (
        "tests/ops/test_term.py",
        "tests/losses/test_elbo.py",
        "tests/losses/test_options.py",
        "tests/ops/test_fast_path.py",
        "tests/losses/test_inplace.py",
        "tests/ops/test_sample.py",
        "tests/ops/test_numerics.py",
        "tests/likelihoods/test_mixtures.py",
        "tests/likelihoods/test_data_range.py",
        "tests/test_bad_input.py",
    )
    simulated(*files, only="not 2_to_the_31 and not large_batches")
    on_cpus = "mpmath", "of_any_type", "nothing_is_expanded", "number_of_threads"
    simulated("tests/likelihoods/test_counts.py", only=" and ".join(f"not {each}" for each in on_cpus))


def test_kernels_run_under_sanitizers():
    terms = "test_term and not gradcheck and not opcheck and not threads"
    noise = "test_sample and (backward_sees or rsample_kl or depends_on)"
    simulated("--sanitize", "tests/ops/test_term.py", "tests/ops/test_sample.py", only=f"({terms}) or ({noise})")


@needs_nvcc
def test_the_binding_links_and_loads(tmp_path):
    """Against stub libraries of the symbols in cuda_symbols.txt; the loader binds all of them at once."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.support.cuda_build", tmp_path], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    (library,) = (tmp_path / "vaefast").glob("_C*.so")
    code = f"""
import importlib.util, torch
spec = importlib.util.spec_from_file_location("vaefast._C", {str(library)!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.build_info()["cuda_archs"], *module.build_info()["devices"])
"""
    libraries = os.pathsep.join([str(tmp_path), f"{TOOLKIT}/lib64", os.environ.get("LD_LIBRARY_PATH", "")])
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "LD_LIBRARY_PATH": libraries}
    )
    assert loaded.stdout.split() == ["9.0", "cpu", "cuda"], loaded.stdout + loaded.stderr
