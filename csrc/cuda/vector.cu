// The hot kernels: float or half, 16 bytes to an access, several accesses in flight. Compute is in float.
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
  constexpr bool light = std::is_same_v<Term, Bernoulli> || std::is_same_v<Term, GaussianKl>;
  return Term::arity > 3 ? 1 : light && size == 4 && !backward ? 3 : 2;
}

// Sizes in bytes: 4 for float, 2 for the halves. Samples come four at a time, as the noise does.
template <class Term, int size, bool gradients, bool sampling>
__global__ void __launch_bounds__(kThreads, resident<Term, size, gradients && sampling>())
    vector_kernel(const __grid_constant__ Launch l) {
  constexpr int n = sampling ? 4 : 16 / size;  // elements of a vector
  constexpr int flying = sampling ? 1 : 2;     // vectors that a lane reads ahead of its arithmetic
  constexpr int arity = Term::arity;
  using Vec = Vector<size, n>;
  const SweepArgs& a = l.args;
  const bool brain = a.operand[0].dtype == DType::bf16;
  const bool bytes = Term::target >= 0 && a.operand[Term::target < 0 ? 0 : Term::target].dtype == DType::u8;
  const float target_scale = float(a.target_scale);
  double grad_sum[arity] = {};
  NoiseKey key;
  if constexpr (sampling) key = noise_key(a.sampling);

  const auto is_same = [&](int k) { return k > 1 && a.operand[k].col_stride == 0; };  // the plan lets only these be

  sweep_items(l, grad_sum, [&](int64_t row, int64_t begin, int64_t end, int lane, double row_coef) {
    const float coef = float(a.scale * row_coef);
    float same[arity];  // operands that do not vary along the row
    const char* in[arity];
    char* out[arity];
#pragma unroll
    for (int k = 0; k < arity; ++k) {
      const View &x = a.operand[k], &g = a.grad[k];
      same[k] = is_same(k) ? load<float>(x, row * x.row_stride) : 0.0f;
      in[k] = static_cast<const char*>(x.data) + (row * x.row_stride + begin) * (k == Term::target && bytes ? 1 : size);
      out[k] = static_cast<char*>(g.data) + (row * g.row_stride + begin) * size;
    }
    const int width = int(end - begin), step = l.plan.group * n;
    double sum = 0;
    for (int col = lane * n; col < width; col += flying * step) {
      Vec raw[flying][arity];
#pragma unroll
      for (int f = 0; f < flying; ++f) {
        const int c = col + f * step;
        if (c >= width) continue;
#pragma unroll
        for (int k = 0; k < arity; ++k) {
          if (is_same(k)) continue;
          if (k == Term::target && bytes) {
            const auto b = *reinterpret_cast<const Words<n>*>(in[k] + c);
#pragma unroll
            for (int w = 0; w < n / 4; ++w) raw[f][k].bits.word[w] = b.word[w];
          } else {
            raw[f][k] = *reinterpret_cast<const Vec*>(in[k] + c * size);
          }
        }
      }
#pragma unroll
      for (int f = 0; f < flying; ++f) {
        const int c = col + f * step;
        if (c >= width) continue;
        float value[n], g[arity][n], mu[n], logvar[n];
#pragma unroll
        for (int j = 0; j < n; ++j) {
          float x[arity], d[arity];
#pragma unroll
          for (int k = 0; k < arity; ++k) {
            if (is_same(k)) x[k] = same[k];
            else if (k == Term::target && bytes) x[k] = float(raw[f][k].bits.word[j / 4] >> (j % 4 * 8) & 255u);
            else x[k] = raw[f][k].get(j, brain);
            if (k == Term::target) x[k] *= target_scale;
          }
          value[j] = evaluate<Term>(x, d);
          mu[j] = x[0], logvar[j] = x[1];
#pragma unroll
          for (int k = 0; k < arity; ++k) g[k][j] = coef * (k == Term::target ? target_scale * d[k] : d[k]);
        }
        if constexpr (sampling) {
          float eps[4], stddev[4];
#pragma unroll
          for (int j = 0; j < 4; ++j) stddev[j] = math::exp(0.5f * logvar[j]);
          for (int64_t s = 0; s < a.sampling.samples; ++s) {
            const int64_t flat = (s * a.rows + row) * a.cols + begin + c;
            math::normal4(key.seed, key.offset, uint64_t(flat) / 4, eps);
            if constexpr (gradients) {
              const Vec upstream =
                  *reinterpret_cast<const Vec*>(static_cast<const char*>(a.sampling.grad_z.data) + flat * size);
#pragma unroll
              for (int j = 0; j < 4; ++j) {
                g[0][j] += upstream.get(j, brain);
                g[1][j] += 0.5f * stddev[j] * eps[j] * upstream.get(j, brain);
              }
            } else {
              Vec z;
#pragma unroll
              for (int j = 0; j < 4; ++j) z.set(j, mu[j] + stddev[j] * eps[j], brain);
              *reinterpret_cast<Vec*>(static_cast<char*>(a.sampling.z.data) + flat * size) = z;
            }
          }
        }
#pragma unroll
        for (int k = 0; k < arity && gradients; ++k) {
          if (!a.grad[k].data) continue;
          if (a.grad[k].col_stride == 0) {
            grad_sum[k] += double(sum_of(g[k]));
          } else {
            Vec packed;
#pragma unroll
            for (int j = 0; j < n; ++j) packed.set(j, g[k][j], brain);
            *reinterpret_cast<Vec*>(out[k] + c * size) = packed;
          }
        }
        sum += double(sum_of(value));
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
