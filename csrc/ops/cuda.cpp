// CUDA's backend: the current stream, scratch memory from torch's allocator, keys from the CUDA generator. Nothing here
// waits for the device, so a CUDA graph can capture all of it. setup.py compiles it together with the kernels only.
#if defined(VAEFAST_CUDA_ARCHS)
#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <mutex>

#include "backend.h"
#include "sweep.h"

namespace vaefast {
namespace {

void* current_stream(const at::Tensor& like) { return c10::cuda::getCurrentCUDAStream(like.device().index()).stream(); }

void run(const SweepArgs& args, const at::Tensor& like) {
  const c10::cuda::CUDAGuard guard(like.device());
  const at::Tensor scratch =
      at::empty({int64_t(cuda::scratch_bytes(args))}, at::TensorOptions(like.device()).dtype(at::kByte));
  cuda::run(args, scratch.mutable_data_ptr(), current_stream(like));
}

void run_mixture(const MixtureArgs& args, const at::Tensor& like) {
  const c10::cuda::CUDAGuard guard(like.device());
  cuda::run(args, current_stream(like));
}

at::Tensor draw_key(const std::optional<at::Generator>& generator, const at::Tensor& like, NoiseKey& key) {
  const c10::cuda::CUDAGuard guard(like.device());
  auto* g = at::get_generator_or_default<at::CUDAGeneratorImpl>(
      generator, at::cuda::detail::getDefaultCUDAGenerator(like.device().index()));
  at::Tensor kept = at::empty({2}, at::TensorOptions(like.device()).dtype(at::kLong));
  key.store = kept.mutable_data_ptr<int64_t>();
  const std::lock_guard<std::mutex> lock(g->mutex_);
  const at::PhiloxCudaState state = g->philox_cuda_state(4);  // the least that a call may take
  if (state.captured_) {
    key.seed_at = reinterpret_cast<const int64_t*>(state.seed_.ptr);
    key.offset_at = reinterpret_cast<const int64_t*>(state.offset_.ptr);
    key.offset = state.offset_intragraph_;
  } else {
    key.seed = state.seed_.val;
    key.offset = state.offset_.val;
  }
  key.offset += uint64_t(1) << 63;  // torch's own kernels count in the same words from 0 on
  return kept;
}

void scale(at::TensorList tensors, const at::Tensor& factor) {
  const c10::cuda::CUDAGuard guard(factor.device());
  cuda::ScaleArgs args;
  args.factor = {const_cast<void*>(factor.const_data_ptr()), dtype_of(factor)};
  for (const at::Tensor& t : tensors) {
    TORCH_CHECK_VALUE(t.is_non_overlapping_and_dense(), "vaefast: scale_ takes dense tensors");
    args.tensor[args.count] = {t.mutable_data_ptr(), dtype_of(t)};
    args.size[args.count++] = t.numel();
    if (args.count < cuda::kMaxScaled) continue;
    cuda::scale(args, current_stream(factor));
    args.count = 0;
  }
  if (args.count > 0) cuda::scale(args, current_stream(factor));
}

[[maybe_unused]] const bool registered = register_backend(at::kCUDA, {run, run_mixture, draw_key, scale});

}  // namespace
}  // namespace vaefast
#endif
