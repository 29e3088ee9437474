"""Builds vaefast against the torch that is installed. Run as a script it is setuptools' setup.py; imported, it is the
PEP 517 backend that pyproject.toml names, which lets an isolated `pip install .` see the torch of the environment it
installs into (VAEFAST_TORCH_PYTHON names another interpreter's torch)."""

import glob
import importlib.util
import json
import os
import subprocess
import sys
from importlib import metadata

from setuptools import build_meta, find_packages, setup
from setuptools.build_meta import *  # noqa: F403  the hooks that are not overridden below

TORCH = "torch>=2.11"
ARCHS = "8.0;8.6;8.9;9.0;10.0;12.0+PTX"  # Ampere to Blackwell; PTX for later ones
CXX_FLAGS = ["-O3", "-g0", "-fopenmp", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unknown-pragmas"]
# Checks without a measurable cost (the stack protector's is up to 1 %).
CXX_FLAGS += ["-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2", "-D_GLIBCXX_ASSERTIONS"]
# Loops over branch-free code vectorize only where neither errno nor floating-point traps matter. NaN and infinities
# keep their meaning under all three.
CXX_FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
# 1675: the host compiler's pragmas. No flag changes arithmetic.
NVCC_FLAGS = ["-O3", "-diag-suppress=1675", "-Xcompiler=-fvisibility=hidden"]


def see_torch():
    """Make the target environment's torch importable; whether there is one."""
    spec = importlib.util.find_spec("torch")
    if spec and spec.origin:
        return True
    probe = "import importlib.util as u, json, sys; s = u.find_spec('torch')"
    probe += "; print(json.dumps(sys.path if s and s.origin else []))"
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONNOUSERSITE")}  # pip's isolation
    for python in filter(None, [os.environ.get("VAEFAST_TORCH_PYTHON"), sys.executable]):
        run = subprocess.run([python, "-c", probe], env=env, cwd=os.path.dirname(python) or None, capture_output=True)
        if run.returncode == 0 and (path := [p for p in json.loads(run.stdout) if p]):
            sys.path += [p for p in path if p not in sys.path]  # last: the isolated build tools come first
            return True
    return False


def get_requires_for_build_wheel(config_settings=None):
    # After the build pip replaces a torch that is too old, so the build must not see it.
    recent = see_torch() and tuple(map(int, metadata.version("torch").split(".")[:2])) >= (2, 11)
    return [] if recent else [TORCH]


get_requires_for_build_editable = get_requires_for_build_wheel


def get_requires_for_build_sdist(config_settings=None):
    return []


def build_wheel(*args, **kwargs):
    see_torch()
    return build_meta.build_wheel(*args, **kwargs)


def build_editable(*args, **kwargs):
    see_torch()
    return build_meta.build_editable(*args, **kwargs)


def toolkit_at(home):
    """The CUDA toolkit that `home` leads to. torch guesses it from where nvcc lies; a wrapper of nvcc knows better."""
    if not home or os.path.exists(f"{home}/include/cuda_runtime.h") or not os.path.exists(f"{home}/bin/nvcc"):
        return home
    command = [f"{home}/bin/nvcc", "--dryrun", "-E", "-x", "cu", os.devnull]
    said = subprocess.run(command, capture_output=True, text=True).stderr
    return os.path.realpath(said.split("TOP=")[1].splitlines()[0]) if "TOP=" in said else home


def nvcc_release(toolkit):
    """The release of a toolkit's compiler, such as "13.0"; None without one, or without its headers."""
    command = [f"{toolkit}/bin/nvcc", "--version"]
    if not os.path.exists(command[0]) or not os.path.exists(f"{toolkit}/include/cuda_runtime.h"):
        return None
    run = subprocess.run(command, capture_output=True, text=True)
    return run.stdout.split("release ")[1].split(",")[0] if run.returncode == 0 else None


def cuda_sources(torch, toolkit):
    """The CUDA sources to compile. VAEFAST_CUDA: 0 none, 1 an error without them, auto where torch and toolkit allow."""
    choice = os.environ.get("VAEFAST_CUDA", "auto")
    if choice not in ("0", "1", "auto"):
        sys.exit(f"VAEFAST_CUDA must be 0, 1 or auto, got {choice!r}")
    missing = None
    if torch.version.cuda is None:
        missing = f"torch {torch.__version__} is a build without CUDA"
    elif (release := nvcc_release(toolkit)) is None:
        missing = "no CUDA toolkit with nvcc and its headers was found; set CUDA_HOME to one"
    elif release.split(".")[0] != torch.version.cuda.split(".")[0]:
        missing = f"the toolkit in {toolkit} is CUDA {release} and torch was built with {torch.version.cuda}"
    if choice == "1" and missing:
        sys.exit(f"VAEFAST_CUDA=1 asks for a CUDA build, but {missing}")
    if choice == "auto" and missing and torch.version.cuda:
        print(f"vaefast is built without CUDA kernels: {missing}", file=sys.stderr)
    return [] if missing or choice == "0" else sorted(glob.glob("csrc/cuda/*.cu"))


def extension():
    """The extension module and its build command."""
    import torch
    from torch.utils import cpp_extension

    class BuildExtension(cpp_extension.BuildExtension):
        def run(self):
            super().run()
            where = os.path.dirname(self.get_ext_fullpath("vaefast._C"))
            with open(os.path.join(where, "_built_for.py"), "w") as f:  # what an import of the library checks first
                f.write(f"TORCH = {torch.__version__!r}\n")

    cpp_extension.CUDA_HOME = toolkit_at(cpp_extension.CUDA_HOME)
    cuda = cuda_sources(torch, cpp_extension.CUDA_HOME)
    blackwell = cuda and tuple(map(int, nvcc_release(cpp_extension.CUDA_HOME).split("."))) >= (12, 8)
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ARCHS if blackwell else ARCHS.split(";10.0")[0] + "+PTX")
    kind = cpp_extension.CUDAExtension if cuda else cpp_extension.CppExtension
    module = kind(
        "vaefast._C",
        sorted(glob.glob("csrc/cpu/*.cpp") + glob.glob("csrc/ops/*.cpp")) + cuda,
        depends=sorted(glob.glob("csrc/**/*.h", recursive=True) + glob.glob("csrc/**/*.inl", recursive=True)),
        define_macros=[("VAEFAST_CUDA_ARCHS", json.dumps(os.environ["TORCH_CUDA_ARCH_LIST"]))] if cuda else [],
        # messages name files as the sources do, and a wheel's bytes do not depend on the folder it was built in
        extra_compile_args={"cxx": [*CXX_FLAGS, f"-ffile-prefix-map={os.getcwd()}=."], "nvcc": NVCC_FLAGS},
        extra_link_args=["-fopenmp", "-Wl,-z,relro,-z,now", "-s"],
    )
    return dict(ext_modules=[module], cmdclass={"build_ext": BuildExtension})


if __name__ == "__main__":
    compiles = {"bdist_wheel", "build", "build_ext", "develop", "editable_wheel", "install"} & set(sys.argv)
    setup(packages=find_packages(include=["vaefast*"]), **(extension() if compiles else {}))
