// The hot kernels. They read and write float or half, 16 bytes at a time with several accesses in flight, and compute
// in float.
#include "items.h"

namespace vaefast::cuda {
namespace {

__device__ inline float sum_of(const float (&x)[4]) { return (x[0] + x[1]) + (x[2] + x[3]); }
__device__ inline double sum_of(const float (&x)[8]) {
  return double((x[0] + x[1]) + (x[2] + x[3])) + double((x[4] + x[5]) + (x[6] + x[7]));
}

// Blocks that a multiprocessor should hold at once: as many as their registers allow without spilling.
template <class Term, int size, bool backward>
constexpr int resident() {
  return Term::arity > 3 ? 1 : Term::light && size == 4 && !backward ? 3 : 2;
}

// What one lane does with a vector of neighbours: load, compute, sample, store. An element has `size` bytes: 4 for
// float, 2 for the halves. Samples come four at a time, as the noise does.
template <class Term, int size, bool gradients, bool sampling>
struct Lane {
  static constexpr int n = sampling ? 4 : 16 / size;  // elements of a vector
  static constexpr int arity = Term::arity, target = Term::target;
  using Vec = Vector<size, n>;

  struct Computed {
    float value[n], gradient[arity][n];
    float mu[n], logvar[n];  // the first two operands, for sampling
  };

  const SweepArgs& a;
  const bool brain;  // halves are bfloat16
  const bool bytes;  // data are uint8 or bool
  const float target_scale;
  NoiseKey key;

  // Of the chunk that the lane has entered.
  int64_t row, begin;
  float coef;
  float same[arity];  // operands that do not vary along the row
  const char* in[arity];
  char* out[arity];

  __device__ explicit Lane(const SweepArgs& args)
      : a(args),
        brain(a.operand[0].dtype == DType::bf16),
        bytes(target >= 0 && a.operand[target < 0 ? 0 : target].dtype == DType::u8),
        target_scale(float(a.target_scale)) {
    if constexpr (sampling) key = noise_key(a.sampling);
  }

  __device__ bool is_same(int k) const { return k > 1 && a.operand[k].col_stride == 0; }  // make_plan lets no others be

  __device__ void enter(int64_t its_row, int64_t its_begin, double row_coef) {
    row = its_row, begin = its_begin;
    coef = float(a.scale * row_coef);
#pragma unroll
    for (int k = 0; k < arity; ++k) {
      const View &x = a.operand[k], &g = a.grad[k];
      same[k] = is_same(k) ? cuda::load<float>(x, row * x.row_stride) : 0.0f;
      in[k] = static_cast<const char*>(x.data) + (row * x.row_stride + begin) * (k == target && bytes ? 1 : size);
      out[k] = static_cast<char*>(g.data) + (row * g.row_stride + begin) * size;
    }
  }

  __device__ void load(int col, Vec (&raw)[arity]) const {
#pragma unroll
    for (int k = 0; k < arity; ++k) {
      if (is_same(k)) continue;
      if (k == target && bytes) {
        const auto b = *reinterpret_cast<const Words<n>*>(in[k] + col);
#pragma unroll
        for (int w = 0; w < n / 4; ++w) raw[k].bits.word[w] = b.word[w];
      } else {
        raw[k] = *reinterpret_cast<const Vec*>(in[k] + col * size);
      }
    }
  }

  __device__ void compute(const Vec (&raw)[arity], Computed& c) const {
#pragma unroll
    for (int j = 0; j < n; ++j) {
      float x[arity], d[arity];
#pragma unroll
      for (int k = 0; k < arity; ++k) {
        if (is_same(k)) x[k] = same[k];
        else if (k == target && bytes) x[k] = float(raw[k].bits.word[j / 4] >> (j % 4 * 8) & 255u);
        else x[k] = raw[k].get(j, brain);
        if (k == target) x[k] *= target_scale;
      }
      c.value[j] = evaluate<Term>(x, d);
      c.mu[j] = x[0], c.logvar[j] = x[1];
#pragma unroll
      for (int k = 0; k < arity; ++k) c.gradient[k][j] = coef * (k == target ? target_scale * d[k] : d[k]);
    }
  }

  // Forward, writes the samples. Backward, adds their adjoint to the gradients by mu and logvar.
  __device__ void sample(int col, Computed& c) const {
    float eps[4], stddev[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) stddev[j] = math::exp(0.5f * c.logvar[j]);
    for (int64_t s = 0; s < a.sampling.samples; ++s) {
      const int64_t flat = (s * a.rows + row) * a.cols + begin + col;
      math::normal4(key.seed, key.offset, uint64_t(flat) / 4, eps);
      if constexpr (gradients) {
        const Vec upstream =
            *reinterpret_cast<const Vec*>(static_cast<const char*>(a.sampling.grad_z.data) + flat * size);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          c.gradient[0][j] += upstream.get(j, brain);
          c.gradient[1][j] += 0.5f * stddev[j] * eps[j] * upstream.get(j, brain);
        }
      } else {
        Vec z;
#pragma unroll
        for (int j = 0; j < 4; ++j) z.set(j, c.mu[j] + stddev[j] * eps[j], brain);
        *reinterpret_cast<Vec*>(static_cast<char*>(a.sampling.z.data) + flat * size) = z;
      }
    }
  }

  __device__ void store(int col, const Computed& c, double (&grad_sum)[arity]) const {
#pragma unroll
    for (int k = 0; k < arity; ++k) {
      if (!a.grad[k].data) continue;
      if (a.grad[k].col_stride == 0) {
        grad_sum[k] += double(sum_of(c.gradient[k]));
      } else {
        Vec packed;
#pragma unroll
        for (int j = 0; j < n; ++j) packed.set(j, c.gradient[k][j], brain);
        *reinterpret_cast<Vec*>(out[k] + col * size) = packed;
      }
    }
  }
};

template <class Term, int size, bool gradients, bool sampling>
__global__ void __launch_bounds__(kThreads, resident<Term, size, gradients && sampling>())
    vector_kernel(const __grid_constant__ Launch l) {
  using This = Lane<Term, size, gradients, sampling>;
  constexpr int flying = sampling ? 1 : 2;  // vectors that a lane reads ahead of its arithmetic
  double grad_sum[Term::arity] = {};
  This lane(l.args);

  sweep_items(l, grad_sum, [&](int64_t row, int64_t begin, int64_t end, int number, double row_coef) {
    lane.enter(row, begin, row_coef);
    const int width = int(end - begin), step = l.plan.group * This::n;
    double sum = 0;
    for (int col = number * This::n; col < width; col += flying * step) {
      typename This::Vec raw[flying][Term::arity];
#pragma unroll
      for (int f = 0; f < flying; ++f) {
        if (col + f * step < width) lane.load(col + f * step, raw[f]);
      }
#pragma unroll
      for (int f = 0; f < flying; ++f) {
        const int c = col + f * step;
        if (c >= width) continue;
        typename This::Computed computed;
        lane.compute(raw[f], computed);
        if constexpr (sampling) lane.sample(c, computed);
        if constexpr (gradients) lane.store(c, computed, grad_sum);
        sum += double(sum_of(computed.value));
      }
    }
    return sum;
  });
}

template <int size, bool gradients>
void launch_of(const Launch& l, void* stream) {
  with_kernel(l.args, [&](auto term, auto sampling) {
    launch(vector_kernel<decltype(term), size, gradients, sampling>, l.plan.blocks, kThreads, stream, l);
  });
}

}  // namespace

void launch_vector(const Launch& l, void* stream) {
  bool gradients = false;
  for (const View& g : l.args.grad) gradients |= g.data != nullptr;
  if (l.plan.vector == 4) gradients ? launch_of<4, true>(l, stream) : launch_of<4, false>(l, stream);
  else gradients ? launch_of<2, true>(l, stream) : launch_of<2, false>(l, stream);
}

}  // namespace vaefast::cuda
