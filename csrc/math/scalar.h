// Branch-free elementary functions, float and double. The float versions are polynomials that a compiler vectorizes;
// they are minimax fits whose error is stated as a power of two relative to the function. The double versions are
// libm's. Worst errors in the comments are over all floats of the range, in units in the last place (ULP) of the
// true value; tests/test_numerics.py measures them.
#pragma once

#include <cmath>

#include "hd.h"

namespace vaefast::math {

constexpr double kLog2Pi = 1.8378770664093454835606594728112;

// exp(x) for every float: 0 below -104, subnormal results rounded once, +inf above 88.72, NaN for NaN. 1.1 ULP.
VAEFAST_HD float exp(float x) {
  float y = x < -104.0f ? -104.0f : x;
  y = y > 89.0f ? 89.0f : y;
  // Adding 1.5 * 2^23 rounds to an integer n, which then stands in the low bits of the sum.
  const float shifted = y * 1.44269504f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const int32_t k = bit_cast<int32_t>(shifted) - 0x4b400000;
  const float r = (y - n * 0.693115234375f) - n * 3.19461833e-05f;  // the first product is exact
  float p = 0.00138145988f;  // (exp(r) - 1 - r) / r^2 on |r| <= ln(2)/2, 2^-28
  p = p * r + 0.00836871658f;
  p = p * r + 0.041668389f;
  p = p * r + 0.166665211f;
  p = p * r + 0.49999994f;
  p = 1.0f + (r + r * r * p);
  const int32_t half = k >> 1;  // 2^k in two factors: both are normal even where exp(x) is not
  return p * bit_cast<float>(uint32_t(half + 127) << 23) * bit_cast<float>(uint32_t(k - half + 127) << 23);
}
VAEFAST_HD double exp(double x) { return ::exp(x); }

// log1p(e) for 0 <= e <= 1. 1.1 ULP.
VAEFAST_HD float log1p_unit(float e) {
  float q = -0.00331847393f;  // (log1p(e) - e) / e^2 on [0, 1], 2^-27.5
  q = q * e + 0.0202045888f;
  q = q * e - 0.0576644465f;
  q = q * e + 0.106805556f;
  q = q * e - 0.153553963f;
  q = q * e + 0.196953997f;
  q = q * e - 0.249585867f;
  q = q * e + 0.33330512f;
  q = q * e - 0.499999315f;
  return e + e * (e * q);
}
VAEFAST_HD double log1p_unit(double e) { return ::log1p(e); }

// log(x) for every float: -inf at 0, NaN below. 1.2 ULP.
VAEFAST_HD float log(float x) {
  const bool subnormal = x < 0x1p-126f;
  const uint32_t u = bit_cast<uint32_t>(subnormal ? x * 0x1p23f : x);
  const int32_t k = int32_t(u - 0x3f3504f3u) >> 23;  // x = 2^k m, m in [sqrt(1/2), sqrt(2))
  const float f = bit_cast<float>(u - (uint32_t(k) << 23)) - 1.0f;
  const float n = float(subnormal ? k - 23 : k);
  float r = -0.0763450265f;  // (log1p(f) - f + f^2/2) / f^3, 2^-27.3
  r = r * f + 0.12761578f;
  r = r * f - 0.13160181f;
  r = r * f + 0.142017573f;
  r = r * f - 0.166233569f;
  r = r * f + 0.200012267f;
  r = r * f - 0.250008196f;
  r = r * f + 0.333333313f;
  const float tail = f * f * (f * r - 0.5f);
  const float y = n * 0.693115234375f + (f + (tail + n * 3.19461833e-05f));
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
// because subtracting nearly equal numbers loses every digit there. phi 2 ULP, expm1 1.5 ULP.
VAEFAST_HD float phi_series(float x) {
  float p = 2.7798697e-07f;  // (exp(x) - 1 - x) / x^2 on |x| <= 1.25, 2^-29
  p = p * x + 2.84429393e-06f;
  p = p * x + 2.48084289e-05f;
  p = p * x + 0.000198309732f;
  p = p * x + 0.00138887763f;
  p = p * x + 0.00833337754f;
  p = p * x + 0.0416666716f;
  p = p * x + 0.166666657f;
  p = p * x + 0.5f;
  return x * x * p;
}
VAEFAST_HD double phi_series(double x) {
  double p = 0.0;  // Taylor: 22 terms reach 2^-53 on |x| <= 1.25
  for (int n = 23; n >= 2; --n) p = (p * x + 1.0) / n;
  return p * x * x;
}
template <class T>
VAEFAST_HD T phi(T x) {
  const T bounded = x > T(1000) ? T(1000) : x;  // keeps phi(+inf) from being inf - inf
  const T far = exp(x) - (T(1) + bounded);
  return x > T(-1.25) && x < T(1.25) ? phi_series(x) : far;
}
VAEFAST_HD float expm1(float x) { return x > -1.25f && x < 1.25f ? x + phi_series(x) : exp(x) - 1.0f; }
VAEFAST_HD double expm1(double x) { return ::expm1(x); }

}  // namespace vaefast::math
