// The elementary functions of csrc/math over bit patterns, beside the same in double. Compiled twice: with REFERENCE,
// for the doubles, with the flags that let a compiler use its vector mathematics, and without it with the package's
// flags.
#include <cstdint>

// name, the double of double x, the float of float x, lowest and highest x, whether it rises (1), falls (-1) or both
// (0)
#define FUNCTIONS(F)                                                                                     \
  F(exp, std::exp(x), exp(x), -87.33654f, 88.72283f, 1)                                                  \
  F(exp_subnormal, std::exp(x), exp(x), -103.97f, -87.33654f, 1)                                         \
  F(exp_nonpositive, std::exp(x), exp_nonpositive(x), -87.33654f, 0.0f, 1)                               \
  F(log, std::log(x), log(x), 1e-45f, 3.4028235e38f, 1)                                                  \
  F(clamped_log, std::log(x), clamped_log(x), 4e-44f, 1.0f, 1)                                           \
  F(clamped_log1m, std::log1p(-x), clamped_log1m(x), 0.0f, 0.99999994f, -1)                              \
  F(log1p, std::log1p(x), -minus_log1p(0.0f, 0.0f, x), 0.0f, 1.0f, 1)                                    \
  F(phi, phi_of(x), phi(x, exp(x)), -3.4028235e38f, 88.72283f, 0)                                        \
  F(expm1, std::expm1(x), expm1(x, exp(x)), -3.4028235e38f, 88.72283f, 1)                                \
  F(softplus_part, std::log1p(std::exp(x)), -minus_log1p(0.0f, 0.0f, exp_nonpositive(x)), -87.33654f, 0.0f, 1) \
  F(sigmoid_part, std::exp(x) / (1 + std::exp(x)), sigmoid_of(x), -87.33654f, 0.0f, 1)                   \
  F(log_x_by_sinh, log_x_by_sinh_of(x), log_x_by_sinh(x, slope), -1.0f, 1.0f, 0)                         \
  F(its_slope, slope_of(x), (log_x_by_sinh(x, slope), slope), -1.0f, 1.0f, -1)

struct Found {
  double worst;  // in ULP of the true value
  float where;
  int64_t checked, drops;  // numbers, and neighbours in the wrong order
  double drop;             // by how many ULP at most
};

#ifdef REFERENCE
#include <cmath>

static double phi_of(double x) {
  double y = x < 1.75 && x > -1 ? x : 0, series = 0;
#pragma GCC unroll 32
  for (int n = 25; n > 1; --n) series = (series * y + 1) * (1.0 / n);
  const double far = std::expm1(x < 90 ? x : 90) - x;
  return x < 1.75 && x > -1 ? series * y * y : far;
}

// Of y = x / 2: sinh(y) / y - 1, and (sinh(y) - y cosh(y)) / y^3.
static void sinh_parts(double x, double& excess, double& ratio) {
  const double w = x * x / 4;
  double factorial = 1, power = 1;
  excess = ratio = 0;
  for (int n = 1; n < 9; ++n) {
    factorial *= 2 * n * (2 * n + 1);
    ratio -= power * (2 * n) / factorial;
    power *= w;
    excess += power / factorial;
  }
}
static double log_x_by_sinh_of(double x) {
  double excess, ratio;
  sinh_parts(x, excess, ratio);
  return -std::log1p(excess);
}
static double slope_of(double x) {
  double excess, ratio;
  sinh_parts(x, excess, ratio);
  return x / 2 * ratio / (2 * (1 + excess));
}

#define F(name, wide, narrow, low, high, rises)                                \
  extern "C" void reference_##name(const double* in, double* out, int64_t n) { \
    for (int64_t i = 0; i < n; ++i) {                                          \
      const double x = in[i];                                                  \
      out[i] = wide;                                                           \
    }                                                                          \
  }
FUNCTIONS(F)

extern "C" void reference_turns(const double* in, double* c, double* s, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const double angle = in[i] * (0x1p-32 * 6.283185307179586476925287);
    c[i] = std::cos(angle);
    s[i] = std::sin(angle);
  }
}

#else
#include <algorithm>

#include "../../csrc/math/half.h"
#include "../../csrc/math/philox.h"

using namespace vaefast::math;

static inline float sigmoid_of(float x) {
  const float e = exp_nonpositive(x);
  return divide(e, 1 + e);
}

constexpr int kBlock = 4096;

// The spacing of floats at |x|, a double.
static inline double ulp(double x) {
  const uint64_t least = 0x3810000000000000u;  // 2^-126
  const uint64_t bits = std::max(bit_cast<uint64_t>(x) & 0x7ff0000000000000u, least);
  return bit_cast<double>(bits - (uint64_t(23) << 52));
}

// Blocks of patterns, every `step`th of them, of one sign: magnitudes rise.
template <class Narrow>
static void run(Narrow narrow, void (*wide)(const double*, double*, int64_t), float low, float high, int rises,
                uint32_t sign, int64_t step, Found* found) {
  static float x[kBlock], y[kBlock];
  static double in[kBlock], out[kBlock];
  const float least = sign ? (high < 0 ? -high : 0.0f) : (low > 0 ? low : 0.0f);
  const float most = sign ? -low : high;
  if (!(most >= least) || (sign && low >= 0)) return;
  const int64_t begin = bit_cast<uint32_t>(least), end = int64_t(bit_cast<uint32_t>(most)) + 1;
  float last = 0;
  bool connected = false;
  for (int64_t b = begin; b < end; b += kBlock * step, connected = step == 1) {
    const int64_t n = std::min<int64_t>(kBlock, end - b);
    for (int64_t i = 0; i < n; ++i) x[i] = bit_cast<float>(uint32_t(b + i) | sign), in[i] = x[i];
    narrow(x, y, n);
    wide(in, out, n);
    double worst = 0;
    for (int64_t i = 0; i < n; ++i) worst = std::max(worst, std::abs(double(y[i]) - out[i]) / ulp(out[i]));
    bool finite = true;
    for (int64_t i = 0; i < n; ++i) finite &= std::abs(y[i]) <= 3.4028235e38f;
    if (!finite) worst = INFINITY;
    if (worst > found->worst) {
      for (int64_t i = 0; i < n; ++i) {
        const double error = std::abs(double(y[i]) - out[i]) / ulp(out[i]);
        if (!(error < worst)) found->where = x[i];
      }
      found->worst = worst;
    }
    found->checked += n;
    if (rises) {
      const float way = float(sign ? -rises : rises);
      if (!connected) last = y[0];
      for (int64_t i = 0; i < n; ++i) {
        const float before = i ? y[i - 1] : last;
        const float drop = (before - y[i]) * way;
        if (drop > 0) found->drops++, found->drop = std::max(found->drop, drop / ulp(y[i]));
      }
      last = y[n - 1];
    }
  }
}

#define F(name, wide, narrow, low, high, rises)                                  \
  extern "C" void reference_##name(const double*, double*, int64_t);             \
  extern "C" void narrow_##name(const float* in, float* out, int64_t n) {        \
    for (int64_t i = 0; i < n; ++i) {                                            \
      const float x = in[i];                                                     \
      [[maybe_unused]] float slope;                                              \
      out[i] = narrow;                                                           \
    }                                                                            \
  }                                                                              \
  extern "C" void check_##name(int64_t step, Found* found) {                     \
    for (const uint32_t sign : {0x80000000u, 0u})                                \
      run(narrow_##name, reference_##name, low, high, rises, sign, step, found); \
  }
FUNCTIONS(F)
#undef F

// All patterns, NaN and infinities among them: what a function is where it has no digits to be right in.
#define LIMITS(F)                                                              \
  F(exp, exp(x), x > 88.72284f ? INFINITY : x < -103.98f ? 0.0f : y)           \
  F(phi, phi(x, exp(x)), x > 88.72284f ? INFINITY : x < -1e30f ? -x : y < 0 ? NAN : y) \
  F(expm1, expm1(x, exp(x)), x > 88.72284f ? INFINITY : x < -20 ? -1.0f : y)   \
  F(log, log(x), x < 0 ? NAN : x == 0 ? -INFINITY : x == INFINITY ? x : y)

#define F(name, narrow, limit)                                                             \
  extern "C" int64_t limits_##name(int64_t step) {                                         \
    int64_t wrong = 0;                                                                     \
    for (int64_t b = 0; b < int64_t(1) << 32; b += kBlock * step) {                        \
      for (int64_t i = b; i < b + kBlock; ++i) {                                           \
        const float x = bit_cast<float>(uint32_t(i)), y = narrow, is = x != x ? x : limit; \
        wrong += is == is ? y != is : y == y;                                              \
      }                                                                                    \
    }                                                                                      \
    return wrong;                                                                          \
  }
LIMITS(F)
#undef F

extern "C" void reference_turns(const double* in, double* c, double* s, int64_t n);

// cos and sin of 2 pi k / 2^32 for every `step`th k: the worst absolute error in units of 2^-24.
extern "C" double check_turns(int64_t step) {
  static float c[kBlock], s[kBlock];
  static double in[kBlock], cosine[kBlock], sine[kBlock];
  double worst = 0;
  for (int64_t b = 0; b < int64_t(1) << 32; b += kBlock * step) {
    for (int64_t i = 0; i < kBlock; ++i)
      cos_sin_turns(uint32_t(b + i * step), c[i], s[i]), in[i] = double(b + i * step);
    reference_turns(in, cosine, sine, kBlock);
    for (int64_t i = 0; i < kBlock; ++i)
      worst = std::max(worst, std::max(std::abs(c[i] - cosine[i]), std::abs(s[i] - sine[i])));
  }
  return worst * 0x1p24;
}

// The raw stream, four words a block.
extern "C" void words(uint64_t seed, uint64_t offset, uint64_t first, int64_t blocks, uint32_t* out) {
  for (int64_t b = 0; b < blocks; ++b) {
    uint32_t w[4];
    philox(seed, offset, first + uint64_t(b), w);
    for (int i = 0; i < 4; ++i) out[4 * b + i] = w[i];
  }
}
#endif
