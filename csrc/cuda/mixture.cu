// The kernel of a mixture: a thread computes a pixel. Its components do not fit into registers, so each bin is computed
// again where gradients are wanted: for the sum over the components, for the component's share, and for its gradients.
#include <algorithm>

#include "access.h"
#include "plan.h"

namespace vaefast::cuda {
namespace {

// The logarithm of a sum of exponentials, in parts. No part overflows.
template <class T>
struct LogSum {
  T most, total = 1;

  __device__ explicit LogSum(T first) : most(first) {}
  __device__ void add(T x) {
    const T larger = x > most ? x : most;
    total = total * math::exp_nonpositive(most - larger) + math::exp_nonpositive(x - larger);
    most = larger;
  }
  __device__ T share(T x) const { return math::exp_nonpositive(x - most) / total; }
};

template <class T>
struct Pixel {
  const MixtureArgs& a;
  const int64_t row, pixel;
  const MixtureGrid<T> grid;

  __device__ T load(const MixtureView& v, int64_t m, int64_t c) const {
    return cuda::load<T>(v, v.offset(row, m, c, pixel));
  }
  __device__ void store(const MixtureView& v, int64_t m, int64_t c, T x) const {
    if (v.data) cuda::store(v, v.offset(row, m, c, pixel), x);
  }
  __device__ T x(int64_t c) const { return load(a.x, 0, c) * T(a.target_scale); }

  // The bin of channel c by component m, whose mean depends on the channels before it.
  __device__ LogisticBin<T> bin(int64_t m, int64_t c) const {
    T mean = load(a.parameter[a.kMean], m, c);
    if (a.parameter[a.kCoupling].data) {
      for (int64_t b = 0; b < c; ++b)
        mean += Coupling<T>(load(a.parameter[a.kCoupling], m, coupling_at(c, b))).value * (x(b) - grid.middle);
    }
    return {mean, x(c), load(a.parameter[a.kLogScale], m, c), grid};
  }

  // The logit of component m, less the largest one, and the log mass of all its bins.
  __device__ T log_joint(int64_t m, T most) const {
    T sum = load(a.parameter[a.kLogits], m, 0) - most;
    for (int64_t c = 0; c < a.channels; ++c) {
      sum += bin(m, c).value;
      if (sum < -math::kMost<T>) sum = -math::kMost<T>;
    }
    return sum;
  }
};

template <class T>
__device__ void store_zeros(const Pixel<T>& p) {
  const MixtureArgs& a = p.a;
  p.store(a.value, 0, 0, T(0));
  const int64_t pairs = coupling_at(a.channels, 0);
  for (int k = 0; k < a.kParameters; ++k) {
    const int64_t channels = k == a.kLogits ? 1 : k == a.kCoupling ? pairs : a.channels;
    for (int64_t m = 0; m < a.components; ++m)
      for (int64_t c = 0; c < channels; ++c) p.store(a.grad[k], m, c, T(0));
  }
}

template <class T>
__device__ void store_gradients(const Pixel<T>& p, const LogSum<T>& prior, const LogSum<T>& joint) {
  const MixtureArgs& a = p.a;
  const T coef = T(a.scale) * (a.coef.data ? p.load(a.coef, 0, 0) : T(1));
  for (int64_t m = 0; m < a.components; ++m) {
    const T logit = p.load(a.parameter[a.kLogits], m, 0);
    const T share = joint.share(p.log_joint(m, prior.most)), by_bin = coef * share;
    p.store(a.grad[a.kLogits], m, 0, coef * (share - prior.share(logit)));
    for (int64_t c = 0; c < a.channels; ++c) {
      const LogisticBin<T> bin = p.bin(m, c);
      p.store(a.grad[a.kMean], m, c, by_bin * bin.by_mean);
      p.store(a.grad[a.kLogScale], m, c, by_bin * bin.by_log_scale);
      if (!a.grad[a.kCoupling].data) continue;
      for (int64_t b = 0; b < c; ++b) {
        const Coupling<T> coupling(p.load(a.parameter[a.kCoupling], m, coupling_at(c, b)));
        p.store(a.grad[a.kCoupling], m, coupling_at(c, b),
                by_bin * bin.by_mean * (p.x(b) - p.grid.middle) * coupling.slope);
      }
    }
  }
}

template <class T, bool gradients>
__global__ void __launch_bounds__(kThreads, 1) mixture_kernel(const __grid_constant__ MixtureArgs a) {
  const int64_t first = int64_t(blockIdx.x) * kThreads + threadIdx.x, threads = int64_t(gridDim.x) * kThreads;
  const MixtureGrid<T> grid(load<T>(a.grid, 0), a.has_range ? load<T>(a.grid, 1) : T(0),
                            a.has_range ? load<T>(a.grid, 2) : T(1));
  for (int64_t i = first; i < a.rows * a.pixels; i += threads) {
    const int64_t row = i / a.pixels;
    const Pixel<T> p{a, row, i - row * a.pixels, grid};
    if (a.mask.data && p.load(a.mask, 0, 0) == T(0)) {
      store_zeros(p);
      continue;
    }
    LogSum<T> prior(p.load(a.parameter[a.kLogits], 0, 0));
    for (int64_t m = 1; m < a.components; ++m) prior.add(p.load(a.parameter[a.kLogits], m, 0));
    LogSum<T> joint(p.log_joint(0, prior.most));
    for (int64_t m = 1; m < a.components; ++m) joint.add(p.log_joint(m, prior.most));
    p.store(a.value, 0, 0, (joint.most + math::log(joint.total)) - math::log(prior.total));
    if constexpr (gradients) store_gradients(p, prior, joint);
  }
}

template <class T>
void launch_mixture(const MixtureArgs& a, void* stream) {
  const int64_t blocks = (a.rows * a.pixels + kThreads - 1) / kThreads;
  const auto kernel = a.wants_gradients() ? mixture_kernel<T, true> : mixture_kernel<T, false>;
  launch(kernel, unsigned(std::clamp<int64_t>(blocks, 1, 4096)), kThreads, stream, a);
}

}  // namespace

void run(const MixtureArgs& a, void* stream) {
  if (a.wide) launch_mixture<double>(a, stream);
  else launch_mixture<float>(a, stream);
}

}  // namespace vaefast::cuda
