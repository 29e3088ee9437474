// Scales in place by a factor that only the device knows.
#include <algorithm>

#include "access.h"

namespace vaefast::cuda {
namespace {

constexpr int kScaleThreads = 256;
constexpr int64_t kScaleBlocks = 1024;

__global__ void __launch_bounds__(kScaleThreads) scale_kernel(const __grid_constant__ ScaleArgs a) {
  const double factor = load<double>(a.factor, 0);
  if (factor == 1.0) return;
  const int64_t thread = int64_t(blockIdx.x) * kScaleThreads + threadIdx.x,
                threads = int64_t(gridDim.x) * kScaleThreads;
  for (int i = 0; i < a.count; ++i) {
    const View& v = a.tensor[i];
    for (int64_t n = thread; n < a.size[i]; n += threads) {
      if (v.dtype == DType::f64) store(v, n, load<double>(v, n) * factor);
      else store(v, n, load<float>(v, n) * float(factor));
    }
  }
}

}  // namespace

void scale(const ScaleArgs& args, void* stream) {
  int64_t largest = 0;
  for (int i = 0; i < args.count; ++i) largest = std::max(largest, args.size[i]);
  const int64_t blocks = std::clamp<int64_t>((largest + kScaleThreads - 1) / kScaleThreads, 1, kScaleBlocks);
  launch(scale_kernel, unsigned(blocks), kScaleThreads, stream, args);
}

}  // namespace vaefast::cuda
