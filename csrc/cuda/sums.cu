// The kernel of sweeps that sum a gradient over rows or over columns, as that of a dispersion per gene. A lane has a
// column and goes through a group of rows, so that it adds the column's gradients itself, in order. The sums of each
// group of rows and of each strip of 32 columns are added by a second kernel.
#include <algorithm>

#include "element.h"

namespace vaefast::cuda {
namespace {

template <class Term, class T>
__global__ void __launch_bounds__(kThreads, 1) sums_kernel(const __grid_constant__ Launch l) {
  constexpr int arity = Term::arity;
  const SweepArgs& a = l.args;
  const Plan& p = l.plan;
  const int lane = int(threadIdx.x) % 32;
  const int64_t warps = int64_t(gridDim.x) * (kThreads / 32);
  double grad_sum[arity] = {}, total = 0;
  for (int64_t w = (int64_t(blockIdx.x) * kThreads + threadIdx.x) / 32; w < p.items; w += warps) {
    const int64_t group = w / p.chunks, strip = w - group * p.chunks, col = strip * p.chunk + lane;
    double column[arity] = {};
    for (int64_t row = group * p.group_rows; row < min(a.rows, (group + 1) * p.group_rows); ++row) {
      const double coef = a.coef.data && a.coef.col_stride == 0 ? load<double>(a.coef, row * a.coef.row_stride) : 1.0;
      Element<arity, T> e{};
      if (col < a.cols) e = element<Term, T>(a, row, col, coef);
      double* slot = l.scratch.sums;
#pragma unroll
      for (int k = 0; k < arity; ++k) {
        if (a.sums_columns(k)) {
          column[k] += double(e.gradient[k]);
          slot += p.groups * a.cols;
        } else if (a.sums_rows(k)) {
          const double sum = sum_lanes(double(e.gradient[k]), 32);
          if (lane == 0) slot[row * p.chunks + strip] = sum;
          slot += a.rows * p.chunks;
        } else if (a.sums_gradient(k)) {
          grad_sum[k] += double(e.gradient[k]);
        } else if (a.grad[k].data && col < a.cols) {
          store(a.grad[k], index(a.grad[k], row, col), e.gradient[k]);
        }
      }
      if (!a.sums_value()) continue;
      const double sum = sum_lanes(double(e.value), 32);
      if (lane != 0) continue;
      total += coef * sum;
      if (!a.value.data) continue;
      if (p.chunks == 1) store(a.value, row * a.value.row_stride, sum);
      else l.scratch.chunk_sums[row * p.chunks + strip] = sum;
    }
    double* slot = l.scratch.sums;
#pragma unroll
    for (int k = 0; k < arity; ++k) {
      if (a.sums_columns(k) && col < a.cols) slot[group * a.cols + col] = column[k];
      slot += a.sums_columns(k) ? p.groups * a.cols : a.sums_rows(k) ? a.rows * p.chunks : 0;
    }
  }
  finish(l, total, grad_sum);
}

// Adds what the first kernel left: for a column, its groups' sums; for a row, its strips' sums, of the value first.
__global__ void __launch_bounds__(kThreads) add_kernel(const __grid_constant__ Launch l) {
  const SweepArgs& a = l.args;
  const Plan& p = l.plan;
  const int64_t first = int64_t(blockIdx.x) * kThreads + threadIdx.x, threads = int64_t(gridDim.x) * kThreads;
  const double* slot = l.scratch.sums;
  for (int k = -1; k < kMaxOperands; ++k) {
    const View& to = k < 0 ? a.value : a.grad[k];
    const bool columns = k >= 0 && a.sums_columns(k);
    const bool rows = k < 0 ? a.sums_value() && to.data && p.chunks > 1 : a.sums_rows(k);
    if (!columns && !rows) continue;
    const int64_t sums = columns ? a.cols : a.rows, parts = columns ? p.groups : p.chunks;
    const int64_t by_sum = columns ? 1 : parts, by_part = columns ? a.cols : 1;
    const double* part = k < 0 ? l.scratch.chunk_sums : slot;
    for (int64_t i = first; i < sums; i += threads) {
      double x = 0;
      for (int64_t j = 0; j < parts; ++j) x += part[i * by_sum + j * by_part];
      store(to, i * (columns ? to.col_stride : to.row_stride), x);
    }
    if (k >= 0) slot += sums * parts;
  }
}

}  // namespace

void launch_sums(const Launch& l, void* stream) {
  with_kernel(l.args, [&](auto term, auto sampling) {
    if constexpr (!decltype(sampling)::value) {  // with samples no gradient is summed
      using Term = decltype(term);
      launch(l.args.wide ? sums_kernel<Term, double> : sums_kernel<Term, float>, l.plan.blocks, kThreads, stream, l);
    }
  });
  const int64_t most = std::max(l.args.rows, l.args.cols), blocks = (most + kThreads - 1) / kThreads;
  launch(add_kernel, unsigned(std::clamp<int64_t>(blocks, 1, 1024)), kThreads, stream, l);
}

}  // namespace vaefast::cuda
