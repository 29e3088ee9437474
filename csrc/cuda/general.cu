// The kernel of every sweep that the vector kernels do not take: any layout, mixed dtypes, masks, double. It reads and
// writes one element at a time.
#include "element.h"

namespace vaefast::cuda {
namespace {

// The normals of elements `from` ... `from` + 3, which lie in one or two blocks of the noise.
__device__ inline void normals(const NoiseKey& key, int64_t from, float (&eps)[4]) {
  math::normal4(key.seed, key.offset, uint64_t(from) / 4, eps);
  int shift = int(uint64_t(from) % 4);
  if (shift == 0) return;
  float next[4];
  math::normal4(key.seed, key.offset, uint64_t(from) / 4 + 1, next);
  for (; shift > 0; --shift) {
    eps[0] = eps[1], eps[1] = eps[2], eps[2] = eps[3], eps[3] = next[0];
    next[0] = next[1], next[1] = next[2], next[2] = next[3];
  }
}

template <class Term, class T, bool sampling>
__global__ void __launch_bounds__(kThreads, sampling || Term::heavy ? 1 : 2)
    general_kernel(const __grid_constant__ Launch l) {
  constexpr int n = sampling ? 4 : 1;  // neighbours that a lane takes: as many as a block of the noise
  constexpr int arity = Term::arity;
  const SweepArgs& a = l.args;
  double grad_sum[arity] = {};
  NoiseKey key;
  if constexpr (sampling) key = noise_key(a.sampling);

  sweep_items(l, grad_sum, [&](int64_t row, int64_t begin, int64_t end, int lane, double row_coef) {
    double sum = 0;
    for (int64_t first = begin + lane * n; first < end; first += l.plan.group * n) {
      T mu[n], spread[n], g[arity][n];
#pragma unroll
      for (int j = 0; j < n; ++j) {
        const int64_t col = first + j;
        if (col >= end) continue;
        const Element<arity, T> e = element<Term, T>(a, row, col, row_coef);
        mu[j] = e.mu, spread[j] = e.spread;
#pragma unroll
        for (int k = 0; k < arity; ++k) g[k][j] = e.gradient[k];
        sum += double(e.value);
      }
      if constexpr (sampling) {
        for (int64_t s = 0; s < a.sampling.samples; ++s) {
          const int64_t flat = (s * a.rows + row) * a.cols + first;
          float eps[4];
          normals(key, flat, eps);
#pragma unroll
          for (int j = 0; j < n; ++j) {
            if (first + j >= end) continue;
            const T stddev = a.sampling.by_scale ? spread[j] : math::exp(T(0.5) * spread[j]);
            if (a.sampling.z.data) store(a.sampling.z, flat + j, mu[j] + stddev * T(eps[j]));
            if (!a.sampling.grad_z.data) continue;
            const T upstream = load<T>(a.sampling.grad_z, flat + j);
            g[0][j] += upstream;
            const T slope = a.sampling.by_scale ? T(1) : T(0.5 * a.factor[1]) * stddev;
            g[1][j] += slope * T(eps[j]) * upstream;
          }
        }
      }
#pragma unroll
      for (int k = 0; k < arity; ++k) {
        if (!a.grad[k].data) continue;
#pragma unroll
        for (int j = 0; j < n; ++j) {
          if (first + j >= end) continue;
          if (a.grad[k].col_stride == 0) grad_sum[k] += double(g[k][j]);
          else store(a.grad[k], index(a.grad[k], row, first + j), g[k][j]);
        }
      }
    }
    return sum;
  });
}

}  // namespace

void launch_general(const Launch& l, void* stream) {
  with_kernel(l.args, [&](auto term, auto sampling) {
    using Term = decltype(term);
    const auto kernel = l.args.wide ? general_kernel<Term, double, sampling> : general_kernel<Term, float, sampling>;
    launch(kernel, l.plan.blocks, kThreads, stream, l);
  });
}

}  // namespace vaefast::cuda
