// What the sweep kernels share: which lanes take which chunks, and how sums are made.
//
// A lane sums a few neighbours in the compute type and adds those sums in double. Shuffles add the lanes in a fixed
// order. The block that finishes last adds the blocks' sums in the order of their numbers. No floating-point number is
// added atomically.
#pragma once

#include <type_traits>

#include "../math/philox.h"
#include "access.h"
#include "plan.h"

namespace vaefast::cuda {

// Placeholder term for sweeps that only sample.
struct SamplingAlone : ElementwiseTerm {
  static constexpr int arity = 2;
  template <class T>
  __device__ static T evaluate(T, T, T* d) {
    d[0] = d[1] = T(0);
    return T(0);
  }
};

__device__ inline double sum_lanes(double x, int lanes) {
  for (int step = lanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

// The sum over the block's threads, in every thread.
__device__ inline double sum_block(double x) {
  __shared__ double warps[kThreads / 32];
  x = sum_lanes(x, 32);
  __syncthreads();  // until all have read the sums of an earlier call
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
  __syncthreads();
  double sum = 0;
  for (int w = 0; w < kThreads / 32; ++w) sum += warps[w];
  return sum;
}

// Row sums from the sums of their chunks: one thread for a row where chunks are few, the whole block where they are
// many.
__device__ inline void add_chunks(const Launch& l) {
  const volatile double* sums = l.scratch.chunk_sums;
  const int64_t chunks = l.plan.chunks;
  if (chunks <= 32) {
    for (int64_t row = threadIdx.x; row < l.args.rows; row += kThreads) {
      double x = 0;
      for (int64_t c = 0; c < chunks; ++c) x += sums[row * chunks + c];
      store(l.args.value, row * l.args.value.row_stride, x);
    }
  } else {
    for (int64_t row = 0; row < l.args.rows; ++row) {
      double x = 0;
      for (int64_t c = threadIdx.x; c < chunks; c += kThreads) x += sums[row * chunks + c];
      x = sum_block(x);
      if (threadIdx.x == 0) store(l.args.value, row * l.args.value.row_stride, x);
    }
  }
}

// Each block leaves its sums in scratch memory. The last block to arrive adds them all.
template <int summed>
__device__ void finish(const Launch& l, double total, const double (&grad_sum)[summed]) {
  const SweepArgs& a = l.args;
  const bool adds_chunks = a.sums_value() && a.value.data && l.plan.chunks > 1 && !l.plan.sums;
  if (l.plan.outputs == 0 && !adds_chunks) return;
  __shared__ bool last;
  double* slot = l.scratch.block_sums + blockIdx.x;
  const auto leave = [&](double x) {
    x = sum_block(x);
    if (threadIdx.x == 0) *slot = x;
    slot += gridDim.x;
  };
  if (a.wants_total()) leave(total);
#pragma unroll
  for (int k = 0; k < summed; ++k) {
    if (a.sums_gradient(k)) leave(grad_sum[k]);
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(l.scratch.arrived, 1u) == gridDim.x - 1;
  __syncthreads();
  if (!last) return;
  __threadfence();

  if (adds_chunks) add_chunks(l);
  const volatile double* sums = l.scratch.block_sums;
  const auto added = [&] {
    double x = 0;
    for (unsigned b = threadIdx.x; b < gridDim.x; b += kThreads) x += sums[b];
    sums += gridDim.x;
    return sum_block(x);
  };
  if (a.wants_total()) {
    const double sum = (a.addend ? *a.addend : 0.0) + a.scale * added();
    if (threadIdx.x == 0 && a.total) *a.total = sum;
    if (threadIdx.x == 0 && a.loss.data) store(a.loss, 0, sum);
  }
#pragma unroll
  for (int k = 0; k < summed; ++k) {
    if (!a.sums_gradient(k)) continue;
    const double sum = added();
    if (threadIdx.x == 0) store(a.grad[k], 0, sum);
  }
}

// Runs chunk(row, begin, end, lane, coef) over every item: columns [begin, end) of a row, for lane number `lane` of the
// group that shares them, with the row's coefficient. chunk returns the lane's share of the sum and adds to grad_sum.
template <int summed, class Chunk>
__device__ void sweep_items(const Launch& l, const double (&grad_sum)[summed], Chunk chunk) {
  const SweepArgs& a = l.args;
  const Plan& p = l.plan;
  const int lane = int(threadIdx.x) % p.group, per_warp = 32 / p.group;
  const int64_t warps = int64_t(gridDim.x) * (kThreads / 32);
  double total = 0;
  for (int64_t w = (int64_t(blockIdx.x) * kThreads + threadIdx.x) / 32; w * per_warp < p.items; w += warps) {
    const int64_t item = w * per_warp + int(threadIdx.x) % 32 / p.group;
    double sum = 0;
    if (item < p.items) {
      const int64_t row = p.chunks == 1 ? item : item / p.chunks, begin = (item - row * p.chunks) * p.chunk;
      const double coef = a.coef.data && a.coef.col_stride == 0 ? load<double>(a.coef, row * a.coef.row_stride) : 1.0;
      sum = chunk(row, begin, min(a.cols, begin + p.chunk), lane, coef);
      total += coef * sum;
    }
    if (!a.sums_value()) continue;
    sum = sum_lanes(sum, p.group);
    if (lane != 0 || item >= p.items || !a.value.data) continue;
    if (p.chunks == 1) store(a.value, item * a.value.row_stride, sum);
    else l.scratch.chunk_sums[item] = sum;
  }
  finish(l, total, grad_sum);
}

// Calls launch(term, sampling) with a sweep's term and whether it samples, both as types. Beside samples there are
// kernels of the KL terms alone.
template <class Term, class Launcher>
void with_sampling(bool samples, Launcher launch) {
  if (!samples) launch(Term(), std::false_type());
  else if constexpr (Term::is_kl) launch(Term(), std::true_type());
}
template <class Launcher, class... Term>
void with_term(TermList<Term...>, int index, bool samples, Launcher launch) {
  int i = 0;
  ((i++ == index ? with_sampling<Term>(samples, launch) : void()), ...);
}
template <class Launcher>
void with_kernel(const SweepArgs& a, Launcher launch) {
  if (a.term < 0) launch(SamplingAlone(), std::true_type());
  else with_term(Terms(), a.term, a.sampling.samples > 0, launch);
}

// The key of the noise. The first thread also stores it for the backward pass.
__device__ inline NoiseKey noise_key(const Sampling& s) {
  const NoiseKey key = s.key.resolved();
  if (s.key.store && blockIdx.x == 0 && threadIdx.x == 0) {
    s.key.store[0] = int64_t(key.seed);
    s.key.store[1] = int64_t(key.offset);
  }
  return key;
}

}  // namespace vaefast::cuda
