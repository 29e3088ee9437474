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

// What a kernel knows of a sweep before its first element. These are separate values and functions, and not a class:
// with references to the sweep in one, nvcc gave some kernels of sm_100 and sm_120 a third more registers.
struct Common {
  bool brain;  // halves are bfloat16
  bool bytes;  // data are uint8 or bool
};

// Whether operand k does not vary along a row; make_plan allows that after the first two.
__device__ inline bool is_same(const SweepArgs& a, int k) { return k > 1 && a.operand[k].col_stride == 0; }

// Of n neighbours. mu and spread are the first two operands, which sampling needs.
template <int arity, int n>
struct Computed {
  float value[n], gradient[arity][n], mu[n], spread[n];
};

template <class Term, int size, int n>
__device__ inline void load_operands(const SweepArgs& a, const Common& common, const char* const (&in)[Term::arity],
                                     int col, Vector<size, n> (&raw)[Term::arity]) {
#pragma unroll
  for (int k = 0; k < Term::arity; ++k) {
    if (is_same(a, k)) continue;
    if (k == Term::target && common.bytes) {
      const auto b = *reinterpret_cast<const Words<n>*>(in[k] + col);
#pragma unroll
      for (int w = 0; w < n / 4; ++w) raw[k].bits.word[w] = b.word[w];
    } else {
      raw[k] = *reinterpret_cast<const Vector<size, n>*>(in[k] + col * size);
    }
  }
}

template <class Term, int size, int n>
__device__ inline void compute(const SweepArgs& a, const Common& common, float coef, const float (&same)[Term::arity],
                               const Vector<size, n> (&raw)[Term::arity], Computed<Term::arity, n>& c) {
  constexpr int arity = Term::arity, target = Term::target;
#pragma unroll
  for (int j = 0; j < n; ++j) {
    float x[arity], d[arity];
#pragma unroll
    for (int k = 0; k < arity; ++k) {
      if (is_same(a, k)) x[k] = same[k];
      else if (k == target && common.bytes) x[k] = float(raw[k].bits.word[j / 4] >> (j % 4 * 8) & 255u);
      else x[k] = raw[k].get(j, common.brain);
      if (takes_factor<Term>(k)) x[k] *= float(a.factor[k]);
    }
    c.value[j] = evaluate<Term>(x, d);
    c.mu[j] = x[0], c.spread[j] = x[1];
#pragma unroll
    for (int k = 0; k < arity; ++k)
      c.gradient[k][j] = coef * (takes_factor<Term>(k) ? float(a.factor[k]) * d[k] : d[k]);
  }
}

// Forward, writes the samples of elements (row, col) ... (row, col + 3). Backward, adds their adjoint to the gradients
// by mu and the spread.
template <int size, bool backward, int arity>
__device__ inline void sample(const SweepArgs& a, const Common& common, const NoiseKey& key, int64_t row, int64_t col,
                              Computed<arity, 4>& c) {
  using Vec = Vector<size, 4>;
  float eps[4], stddev[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) stddev[j] = a.sampling.by_scale ? c.spread[j] : math::exp(0.5f * c.spread[j]);
  const float half = float(0.5 * a.factor[1]);
  for (int64_t s = 0; s < a.sampling.samples; ++s) {
    const int64_t flat = (s * a.rows + row) * a.cols + col;
    math::normal4(key.seed, key.offset, uint64_t(flat) / 4, eps);
    if constexpr (backward) {
      const Vec upstream =
          *reinterpret_cast<const Vec*>(static_cast<const char*>(a.sampling.grad_z.data) + flat * size);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        c.gradient[0][j] += upstream.get(j, common.brain);
        const float slope = a.sampling.by_scale ? 1.0f : half * stddev[j];
        c.gradient[1][j] += slope * eps[j] * upstream.get(j, common.brain);
      }
    } else {
      Vec z;
#pragma unroll
      for (int j = 0; j < 4; ++j) z.set(j, c.mu[j] + stddev[j] * eps[j], common.brain);
      *reinterpret_cast<Vec*>(static_cast<char*>(a.sampling.z.data) + flat * size) = z;
    }
  }
}

template <int size, int arity, int n>
__device__ inline void store_gradients(const SweepArgs& a, const Common& common, const Computed<arity, n>& c,
                                       char* const (&out)[arity], int col, double (&grad_sum)[arity]) {
#pragma unroll
  for (int k = 0; k < arity; ++k) {
    if (!a.grad[k].data) continue;
    if (a.grad[k].col_stride == 0) {
      grad_sum[k] += double(sum_of(c.gradient[k]));
    } else {
      Vector<size, n> packed;
#pragma unroll
      for (int j = 0; j < n; ++j) packed.set(j, c.gradient[k][j], common.brain);
      *reinterpret_cast<Vector<size, n>*>(out[k] + col * size) = packed;
    }
  }
}

// An element has `size` bytes: 4 for float, 2 for the halves. Samples come four at a time, as the noise does.
template <class Term, int size, bool gradients, bool sampling>
__global__ void __launch_bounds__(kThreads, resident<Term, size, gradients && sampling>())
    vector_kernel(const __grid_constant__ Launch l) {
  constexpr int n = sampling ? 4 : 16 / size;  // elements of a vector
  constexpr int flying = sampling ? 1 : 2;     // vectors that a lane reads ahead of its arithmetic
  constexpr int arity = Term::arity, target = Term::target;
  const SweepArgs& a = l.args;
  const Common common{a.operand[0].dtype == DType::bf16,
                      target >= 0 && a.operand[target < 0 ? 0 : target].dtype == DType::u8};
  double grad_sum[arity] = {};
  NoiseKey key;
  if constexpr (sampling) key = noise_key(a.sampling);

  sweep_items(l, grad_sum, [&](int64_t row, int64_t begin, int64_t end, int lane, double row_coef) {
    const float coef = float(a.scale * row_coef);
    float same[arity];  // operands that do not vary along the row
    const char* in[arity];
    char* out[arity];
#pragma unroll
    for (int k = 0; k < arity; ++k) {
      const View &x = a.operand[k], &g = a.grad[k];
      const int bytes = k == target && common.bytes ? 1 : size;
      same[k] = is_same(a, k) ? load<float>(x, row * x.row_stride) : 0.0f;
      in[k] = static_cast<const char*>(x.data) + (row * x.row_stride + begin) * bytes;
      out[k] = static_cast<char*>(g.data) + (row * g.row_stride + begin) * size;
    }
    const int width = int(end - begin), step = l.plan.group * n;
    double sum = 0;
    for (int first = lane * n; first < width; first += flying * step) {
      Vector<size, n> raw[flying][arity];
#pragma unroll
      for (int f = 0; f < flying; ++f) {
        if (first + f * step < width) load_operands<Term>(a, common, in, first + f * step, raw[f]);
      }
#pragma unroll
      for (int f = 0; f < flying; ++f) {
        const int col = first + f * step;
        if (col >= width) continue;
        Computed<arity, n> computed;
        compute<Term>(a, common, coef, same, raw[f], computed);
        if constexpr (sampling) sample<size, gradients>(a, common, key, row, begin + col, computed);
        if constexpr (gradients) store_gradients<size>(a, common, computed, out, col, grad_sum);
        sum += double(sum_of(computed.value));
      }
    }
    return sum;
  });
}

template <int size, bool gradients>
void launch_of(const Launch& l, void* stream) {
  with_kernel(l.args, [&](auto term, auto sampling) {
    if constexpr (!decltype(term)::heavy)
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
