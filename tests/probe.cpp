// The functions of csrc/math over arrays, for test_numerics.py and test_noise.py: compiled by them, without torch, with the
// flags of the package.
#include "../csrc/math/half.h"
#include "../csrc/math/philox.h"

using namespace vaefast::math;

#define UNARY(name, expression)                                   \
  extern "C" void name(const float* in, float* out, int64_t n) {  \
    for (int64_t i = 0; i < n; ++i) {                             \
      const float x = in[i];                                      \
      out[i] = expression;                                        \
    }                                                             \
  }

UNARY(f_exp, exp(x))
UNARY(f_log, log(x))
UNARY(f_clamped_log, clamped_log(x))
UNARY(f_clamped_log1m, clamped_log1m(x))
UNARY(f_log1p, -minus_log1p(0, 0, x))
UNARY(f_phi, phi(x, exp(x)))
UNARY(f_expm1, expm1(x, exp(x)))
UNARY(f_through_bfloat16, to_float(to_bfloat16(x)))
UNARY(f_through_float16, to_float(to_float16(x)))

extern "C" void turns(const uint32_t* in, float* c, float* s, int64_t n) {
  for (int64_t i = 0; i < n; ++i) cos_sin_turns(in[i], c[i], s[i]);
}

extern "C" void philox_words(uint64_t seed, uint64_t offset, uint64_t block, uint32_t* out) {
  uint32_t w[4];
  philox(seed, offset, block, w);
  for (int i = 0; i < 4; ++i) out[i] = w[i];
}
