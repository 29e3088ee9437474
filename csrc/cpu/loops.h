// The loops over one tile. They are compiled once for each instruction set, everything else on the CPU once.
#pragma once

#include "../kernels.h"

namespace vaefast::cpu {

constexpr int64_t kTile = 1024;    // elements: two float operands with a gradient and the value take 16 KB of L1
constexpr int64_t kFewCounts = 3;  // zeros are computed apart where at most 1 in so many data is not 0

// The loops of a mixture, over blocks of n pixels. Components of a block lie `apart`.
template <class T>
struct MixtureLoops {
  // mean = from + tanh(coupling) (x - middle); slope = the derivative of tanh
  void (*couple)(const T* coupling, const T* x, T middle, const T* from, int64_t n, T* mean, T* slope);
  // log_p = from + the log mass of x's bin, [1] with its derivatives
  void (*bin[2])(const T* mean, const T* x, const T* log_scale, const Grid<T>& grid, const T* from, int64_t n, T* log_p,
                 T* by_mean, T* by_log_scale);
  void (*by_coupling)(const T* by_mean, const T* x, T middle, int64_t n, T* slope);  // slope *= by_mean (x - middle)
  void (*relative)(T* x, int64_t components, int64_t apart, int64_t n, T* most);     // x -= most, the largest component
  void (*shares)(T* x, int64_t components, int64_t apart, int64_t n, T* total);      // x = exp(x); total = their sum
  // value = most + log(total) - log(prior_total); the totals become their inverses
  void (*value)(const T* most, T* total, T* prior_total, int64_t n, T* value);
  // posterior *= inverse * coef; prior = coef times the derivative by a logit
  void (*weigh)(T* posterior, const T* inverse, T* prior, const T* prior_inverse, const T* coef, int64_t n);
  void (*product)(const T* x, const T* by, int64_t n, T* to);  // to = x by
};

// Loops that compute in T (float or double), over contiguous arrays of T.
template <class T>
struct Loops {
  // Widen n elements of a dtype, `stride` apart, to T, times scale; stride 0 repeats the first.
  using Load = void (*)(const void* from, int64_t stride, int64_t n, double scale, T* to);
  using Store = void (*)(const T* from, int64_t n, void* to, int64_t stride);
  // value[i] = what the term prepares of operands[i]
  using Prepare = void (*)(const T* const* operand, int64_t n, T* value);
  // value[i] = the term, from operands[i] and what it prepared in value[i]; gradient[k][i] = coef * its derivative by
  // operand k
  using Map = void (*)(const T* const* operand, int64_t n, T coef, T* value, T* const* gradient);

  Load load[kDTypes];
  Store store[kFloatingDTypes];
  Prepare prepare[Terms::size];
  Map value[Terms::size];       // no gradient
  Map first[Terms::size];       // value, and gradient by the first operand
  Map parameters[Terms::size];  // value, and gradient by every operand but the data
  Map all[Terms::size];         // value, and gradient by every operand
  // to[r * stride] = the sum of row r, in a fixed order: pairs in T, then lanes in double
  void (*sums)(const T* x, int64_t rows, int64_t cols, double* to, int64_t stride);
  // to[c] = the sum of column c, or to[c] += that sum
  void (*column_sums)(const T* x, int64_t rows, int64_t cols, bool add, double* to);
  void (*multiply)(T* x, const T* by, int64_t n);    // x *= by
  void (*keep)(T* x, const T* mask, int64_t n);      // x = mask != 0 ? x : 0
  void (*stddev)(const T* logvar, int64_t n, T* s);  // exp(logvar / 2)
  void (*reparameterize)(const T* mu, const T* s, const float* eps, int64_t n, T* z);
  // the gradients by mu and by the spread, by which s has the derivative slope * s: [0] writes them, [1] adds them
  void (*adjoint[2])(const T* grad_z, const T* s, T slope, const float* eps, int64_t n, T* grad_mu, T* grad_spread);
};

// The normals of `blocks` blocks of four elements; `blocks` is rounded up to a multiple of 16.
using Normals = void (*)(uint64_t seed, uint64_t offset, uint64_t first_block, int64_t blocks, float* z);

struct Isa {
  Loops<float> narrow;
  Loops<double> wide;
  MixtureLoops<float> narrow_mixture;
  MixtureLoops<double> wide_mixture;
  Normals normals;
};

extern const Isa kBaseline, kAvx2, kAvx512;
const Isa& active_isa();

}  // namespace vaefast::cpu
