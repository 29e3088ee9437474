// Branch-free elementary functions, float and double. The float versions are polynomials that a compiler vectorizes;
// they are minimax fits whose error is stated as a power of two relative to the function. The double versions are
// libm's. Worst errors in the comments are over all floats of the range, in units in the last place (ULP) of the
// true value; tests/test_numerics.py measures them.
#pragma once

#include <cmath>

#include "hd.h"

namespace vaefast::math {

constexpr double kLog2Pi = 1.8378770664093454835606594728112;
// log(2) in two parts: an integer below 2^12 times the high one is exact.
constexpr float kLn2High = 0.693115234375f, kLn2Low = 3.19461833e-05f;

VAEFAST_HD float abs(float x) { return fabsf(x); }
VAEFAST_HD double abs(double x) { return fabs(x); }

// exp(y) = p 2^k: the reduced part p, in [0.7, 1.42], and k, for y in [-104, 89]. Careful: with the rounding errors of
// the argument's reduction and of the last sum carried along.
template <bool careful>
VAEFAST_HD float exp_reduced(float y, int32_t& k) {
  // Adding 1.5 * 2^23 rounds to an integer n, which then stands in the low bits of the sum.
  const float shifted = y * 1.44269504f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  k = bit_cast<int32_t>(shifted) - 0x4b400000;
  const float coarse = y - n * kLn2High;
  const float r = coarse - n * kLn2Low;
  float p = 0.00138145988f;  // (exp(r) - 1 - r) / r^2 on |r| <= ln(2)/2, 2^-28
  p = p * r + 0.00836871658f;
  p = p * r + 0.041668389f;
  p = p * r + 0.166665211f;
  p = p * r + 0.49999994f;
  if constexpr (!careful) return 1.0f + (r + r * r * p);
  const float lost = (coarse - r) - n * kLn2Low;
  const float high = 1.0f + r;
  return high + (((1.0f - high) + r) + (r * r * p + lost));
}

// exp(x) for every float: 0 below -104, subnormal results rounded once, +inf above 88.72, NaN for NaN. 1 ULP; careful,
// 0.8 ULP.
template <bool careful>
VAEFAST_HD float exp_float(float x) {
  float y = x < -104.0f ? -104.0f : x;
  y = y > 89.0f ? 89.0f : y;
  int32_t k;
  const float p = exp_reduced<careful>(y, k);
  const int32_t half = k >> 1;  // 2^k in two factors: both are normal even where exp(x) is not
  return p * bit_cast<float>(uint32_t(half + 127) << 23) * bit_cast<float>(uint32_t(k - half + 127) << 23);
}
VAEFAST_HD float exp(float x) { return exp_float<false>(x); }
VAEFAST_HD double exp(double x) { return ::exp(x); }
VAEFAST_HD float exp_careful(float x) { return exp_float<true>(x); }
VAEFAST_HD double exp_careful(double x) { return ::exp(x); }

// exp(x) for x <= 0 and NaN, cheaper: 2^k is made 2^64 too high, where it is normal for every k.
VAEFAST_HD float exp_nonpositive(float x) {
  const float y = x < -104.0f ? -104.0f : x;
  int32_t k;
  const float p = exp_reduced<false>(y, k);
  return p * bit_cast<float>(uint32_t(k + (127 + 64)) << 23) * 0x1p-64f;
}
VAEFAST_HD double exp_nonpositive(double x) { return ::exp(x); }

// a / b for 1 <= b <= 2: on a device 2 ULP, in two instructions where the exact quotient takes ten.
VAEFAST_HD float divide(float a, float b) {
#if defined(__CUDA_ARCH__)
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(b));
  return a * r;
#else
  return a / b;
#endif
}
VAEFAST_HD double divide(double a, double b) { return a / b; }

// log1p(f) + n log(2) for f in [sqrt(1/2) - 1, 1/2].
VAEFAST_HD float log_reduced(float f, float n) {
  float r = 0.0480620153f;  // (log1p(f) - f + f^2/2) / f^3, 2^-28.8
  r = r * f - 0.104566254f;
  r = r * f + 0.121296376f;
  r = r * f - 0.126368776f;
  r = r * f + 0.142160729f;
  r = r * f - 0.16654025f;
  r = r * f + 0.200017855f;
  r = r * f - 0.250002712f;
  r = r * f + 0.333333194f;
  const float tail = f * f * (f * r - 0.5f);
  return n * kLn2High + (f + (tail + n * kLn2Low));
}

// log1p(e) for 0 <= e <= 1. 0.9 ULP.
VAEFAST_HD float log1p_unit(float e) {
  const bool upper = e > 0.5f;  // 1 + e = 2 (1 + (e - 1) / 2), and the halved difference is exact
  return log_reduced(upper ? 0.5f * e - 0.5f : e, upper ? 1.0f : 0.0f);
}
VAEFAST_HD double log1p_unit(double e) { return ::log1p(e); }

// log(x) for every float: -inf at 0, NaN below. 0.9 ULP.
VAEFAST_HD float log(float x) {
  const bool subnormal = x < 0x1p-126f;
  const uint32_t u = bit_cast<uint32_t>(subnormal ? x * 0x1p23f : x);
  const int32_t k = int32_t(u - 0x3f3504f3u) >> 23;  // x = 2^k m, m in [sqrt(1/2), sqrt(2))
  const float f = bit_cast<float>(u - (uint32_t(k) << 23)) - 1.0f;
  const float y = log_reduced(f, float(subnormal ? k - 23 : k));
  const float zero_or_less = x == 0.0f ? -INFINITY : NAN;
  return x > 0.0f ? (x == INFINITY ? x : y) : zero_or_less;
}
VAEFAST_HD double log(double x) { return ::log(x); }

// log(1 - p) for p <= 1, from log by the error of the rounded 1 - p.
template <class T>
VAEFAST_HD T log1m(T p) {
  const T u = T(1) - p;
  const T lost = (T(1) - u) - p;
  return log(u) + (lost == T(0) ? T(0) : lost / u);
}

// phi(x) = exp(x) - 1 - x >= 0 and expm1(x), which the Gaussian KL and its gradient need together: near 0 a series,
// because subtracting nearly equal numbers loses every digit there. phi 2.5 ULP, expm1 1.6 ULP.
template <class T>
VAEFAST_HD bool near_zero(T x) {
  return x > T(-1) && x < T(1.75);
}
VAEFAST_HD float phi_series(float x) {
  float p = 3.78213969e-07f;  // (exp(x) - 1 - x) / x^2 on [-1, 1.75], 2^-28
  p = p * x + 2.73551882e-06f;
  p = p * x + 2.45869414e-05f;
  p = p * x + 0.000198513357f;
  p = p * x + 0.00138904259f;
  p = p * x + 0.00833327044f;
  p = p * x + 0.0416666269f;
  p = p * x + 0.166666672f;
  p = p * x + 0.5f;
  return x * x * p;
}
VAEFAST_HD double phi_series(double x) {
  double p = 0.0;  // Taylor: 24 terms reach 2^-53 on |x| <= 1.75
  for (int n = 25; n >= 2; --n) p = (p * x + 1.0) / n;
  return p * x * x;
}
template <class T>
VAEFAST_HD T phi(T x) {
  const T bounded = x > T(1000) ? T(1000) : x;  // keeps phi(+inf) from being inf - inf
  const T far = exp(x) - (T(1) + bounded);
  return near_zero(x) ? phi_series(x) : far;
}
VAEFAST_HD float expm1(float x) { return x > -1.0f && x < 1.1f ? x + phi_series(x) : exp(x) - 1.0f; }
VAEFAST_HD double expm1(double x) { return ::expm1(x); }

}  // namespace vaefast::math
