#!/usr/bin/env bash
# Everything that only a GPU can show, in one run: builds vaefast with its CUDA kernels, runs the CUDA tests with a GPU
# required, NVIDIA's compute-sanitizer on a small subset, and the benchmarks. Results go to OUT (default: gpu-check), as
# JSON stamped with GPU, driver, torch and commit, and as logs.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-gpu-check}
mkdir -p "$OUT"
failed=0
step() {  # name, command: runs it, keeps its output, remembers a failure
  local name=$1 start=$SECONDS
  shift
  echo "== $name"
  if "$@" > "$OUT/$name.log" 2>&1; then echo "   passed in $((SECONDS - start)) s"; else echo "   FAILED, see $OUT/$name.log"; tail -15 "$OUT/$name.log"; failed=1; fi
}
export VAEFAST_CUDA=1 VAEFAST_REQUIRE_CUDA=1
# The one architecture that is here, unless told otherwise: a build for all takes minutes.
export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$(python -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())')}

# Without dependencies, for machines that reach no package index; pytest and rich must be there.
step install python -m pip install --no-build-isolation --no-deps -e .
step cuda python -m pytest -q tests/ops/test_cuda.py
step tables python -m pytest -q --device cuda tests/ops/test_term.py tests/losses/test_{elbo,options,inplace}.py tests/ops/test_fast_path.py
for tool in memcheck racecheck initcheck synccheck; do
  # Torch's allocator would hide what lies beyond a tensor, and what was never written.
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 step "$tool" compute-sanitizer --tool "$tool" --error-exitcode 1 \
    python -m pytest -q tests/ops/test_cuda.py -k "loss_is_the_cpus or side_stream or are_the_cpus"
done
step benchmarks python -m benchmarks --device cuda --json "$OUT/cuda.json"
exit $failed
