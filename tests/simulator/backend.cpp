// Puts the CUDA kernels, run by the simulator, in the place of the CPU's: after this library is loaded, every operator
// on CPU tensors runs them.
#include <memory>

#include "../../csrc/cuda/general.cu"
#include "../../csrc/cuda/mixture.cu"
#include "../../csrc/cuda/plan.cu"
#include "../../csrc/cuda/scale.cu"
#include "../../csrc/cuda/sums.cu"
#include "../../csrc/cuda/vector.cu"
#include "../../csrc/ops/backend.h"
#include "../../csrc/ops/sweep.h"

namespace vaefast {
namespace {

void run(const SweepArgs& args, const at::Tensor&) {
  const size_t bytes = cuda::scratch_bytes(args);
  const std::unique_ptr<char[]> scratch(new char[bytes]);
  memset(scratch.get(), 0xff, bytes);  // NaN: what is read must have been written
  cuda::run(args, scratch.get(), nullptr);
}

void run_mixture(const MixtureArgs& args, const at::Tensor&) { cuda::run(args, nullptr); }

void scale(at::TensorList tensors, const at::Tensor& factor) {
  for (const at::Tensor& t : tensors) {
    cuda::ScaleArgs args;
    args.factor = {const_cast<void*>(factor.const_data_ptr()), dtype_of(factor)};
    args.tensor[0] = {t.mutable_data_ptr(), dtype_of(t)};
    args.size[0] = t.numel();
    args.count = 1;
    cuda::scale(args, nullptr);
  }
}

const bool registered = register_backend(at::kCPU, {run, run_mixture, backend(at::kCPU).draw_key, scale});

}  // namespace
}  // namespace vaefast
