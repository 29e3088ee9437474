// The functions of csrc/math over arrays, for test_elementary.py and test_sample.py: compiled by them, without torch, with the
// flags of the package.
#include "../../csrc/math/half.h"
#include "../../csrc/math/philox.h"

using namespace vaefast::math;
namespace math = vaefast::math;  // exp and log of doubles are libm's, too

#define UNARY(name, T, expression)                       \
  extern "C" void name(const T* in, T* out, int64_t n) { \
    for (int64_t i = 0; i < n; ++i) {                    \
      const T x = in[i], zero = 0;                       \
      out[i] = expression;                               \
    }                                                    \
  }

#define FLOAT_AND_DOUBLE(name, expression) \
  UNARY(f_##name, float, expression)       \
  UNARY(d_##name, double, expression)

FLOAT_AND_DOUBLE(exp, math::exp(x))
FLOAT_AND_DOUBLE(exp_nonpositive, exp_nonpositive(x))
FLOAT_AND_DOUBLE(log, math::log(x))
FLOAT_AND_DOUBLE(clamped_log, clamped_log(x))
FLOAT_AND_DOUBLE(clamped_log1m, clamped_log1m(x))
FLOAT_AND_DOUBLE(log1p, -minus_log1p(zero, zero, x))
FLOAT_AND_DOUBLE(phi, phi(x, math::exp(x)))
FLOAT_AND_DOUBLE(expm1, math::expm1(x, math::exp(x)))
FLOAT_AND_DOUBLE(expm1_nonpositive, [&] { auto exp = x; return expm1_nonpositive(x, exp); }())
FLOAT_AND_DOUBLE(log_of_rate, log_of_rate(x))
FLOAT_AND_DOUBLE(log1p_of_any, math::log1p(x))
UNARY(f_through_bfloat16, float, to_float(to_bfloat16(x)))
UNARY(f_through_float16, float, to_float(to_float16(x)))

extern "C" void turns(const uint32_t* in, float* c, float* s, int64_t n) {
  for (int64_t i = 0; i < n; ++i) cos_sin_turns(in[i], c[i], s[i]);
}

extern "C" void philox_words(uint64_t seed, uint64_t offset, uint64_t block, uint32_t* out) {
  uint32_t w[4];
  philox(seed, offset, block, w);
  for (int i = 0; i < 4; ++i) out[i] = w[i];
}
