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
// The sign bit, which -0 has, too, and a NaN may: vectors select by it without a comparison.
VAEFAST_HD bool is_negative(float x) { return bit_cast<int32_t>(x) < 0; }
VAEFAST_HD bool is_negative(double x) { return bit_cast<int64_t>(x) < 0; }

// c[0] + c[1] x + ... by Estrin's scheme: of adjacent terms pairs are made, and of those a polynomial in x^2.
template <int n>
VAEFAST_HD float in_pairs(float x, const float (&c)[n]) {
  if constexpr (n == 1) {
    return c[0];
  } else {
    float pair[(n + 1) / 2];
    for (int i = 0; i < n / 2; ++i) pair[i] = c[2 * i] + c[2 * i + 1] * x;
    if constexpr (n % 2) pair[n / 2] = c[n - 1];
    return in_pairs(x * x, pair);
  }
}

// c0 + c[0] x + c[1] x^2 + ... A device hides latency behind its threads and gets Horner's scheme, which has the fewest
// operations; a CPU gets pairs, whose chain of dependent operations is short, but for the last step, which rounds
// least.
template <int n>
VAEFAST_HD float polynomial(float x, float c0, const float (&c)[n]) {
#if defined(__CUDA_ARCH__)
  float p = c[n - 1];
  for (int i = n - 2; i >= 0; --i) p = p * x + c[i];
  return c0 + x * p;
#else
  return c0 + x * in_pairs(x, c);
#endif
}

// exp(y) = (1 + p) 2^k for y in [-104, 89], beyond which callers select what they return: returns p, in [-0.3, 0.42].
// 2^k's exponent field, biased by `bias`, stands in the low bits of `exponent`.
template <int bias>
VAEFAST_HD float exp_reduced(float y, uint32_t& exponent) {
  // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits of the sum.
  constexpr float shift = 12582912.0f + bias;
  const float shifted = y * 1.44269504f + shift;
  const float n = shifted - shift;
  exponent = bit_cast<uint32_t>(shifted);
  const float r = (y - n * kLn2High) - n * kLn2Low;
  // (exp(r) - 1 - r) / r^2 on |r| <= ln(2)/2, 2^-28
  const float p = polynomial(r, 0.49999994f, {0.166665211f, 0.041668389f, 0.00836871658f, 0.00138145988f});
  return r + r * r * p;
}

// exp(x) for every float: 0 below -104, subnormal results rounded once, +inf above 88.72, NaN for NaN. 1.02 ULP. With a
// bound on either side GCC repeats the comparisons, and two selections at the end it does not vectorize; so what is
// above 89 is computed as it comes, in arithmetic that is defined, and not used.
VAEFAST_HD float exp(float x) {
  const float bounded = x < -104.0f ? -104.0f : x;
  uint32_t shifted;
  const float p = exp_reduced<0>(bounded, shifted);
  const int32_t k = int32_t(shifted - 0x4b400000u), half = k >> 1;
  // 2^k in two factors: both are normal even where exp(x) is not
  const float scale = bit_cast<float>(uint32_t(half + 127) << 23);
  const float y = (scale + scale * p) * bit_cast<float>(uint32_t(k - half + 127) << 23);
  return x > 89.0f ? INFINITY : y;
}
VAEFAST_HD double exp(double x) { return ::exp(x); }

// exp(x) for x <= 0 and NaN, cheaper: 2^k is made 2^64 too high, where it is normal for every k. 1.02 ULP.
VAEFAST_HD float exp_nonpositive(float x) {
  const float y = x < -104.0f ? -104.0f : x;
  uint32_t exponent;
  const float p = exp_reduced<127 + 64>(y, exponent);
  const float scale = bit_cast<float>(exponent << 23);
  return (scale + scale * p) * 0x1p-64f;
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

// What rounding took from the difference = a - b, exactly (Knuth's two-sum); NaN where one of them is infinite.
template <class T>
VAEFAST_HD T rounding_of_difference(T a, T b, T difference) {
  const T part = a - difference;  // b as the difference has it
  return (a - (difference + part)) + (part - b);
}

// -a b - log1p(e) for a, b >= 0 and 0 <= e <= 1. The logarithm is not rounded by itself: with a fused multiply-add its
// largest part is added last; without one, what rounding takes from the sums is added at the end. log1p alone 1.5 ULP.
VAEFAST_HD float minus_log1p(float a, float b, float e) {
  // (log1p(e) - e) / e^2, 2^-27.5
  constexpr float c0 = -0.4999993f;
  constexpr float c[] = {0.33330464f, -0.24958019f, 0.19692102f,  -0.1534488f,
                         0.10661128f, -0.05745723f, 0.020086242f, -0.0032904686f};
#if defined(VAEFAST_FMA)
  return (-(a * b) - e * e * polynomial(e, c0, c)) - e;
#else
  const float square = e * e, half = c0 * square, largest = e + half;
  const float rest = square * (e * in_pairs(e, c)) + ((e - largest) + half), log1p = largest + rest;
  const float product = a * b, sum = product + log1p;
  const float lost = rounding_of_difference(product, -log1p, sum) + ((largest - log1p) + rest);
  return -(sum + (abs(sum) < INFINITY ? lost : 0.0f));
#endif
}
VAEFAST_HD double minus_log1p(double a, double b, double e) { return -(a * b) - ::log1p(e); }

// The exponent of a normal x > 0 = 2^exponent (1 + f), 1 + f in [sqrt(1/2), sqrt(2)).
VAEFAST_HD int32_t exponent_of(float x) { return int32_t(bit_cast<uint32_t>(x) - 0x3f3504f3u) >> 23; }
VAEFAST_HD float times_power_of_2(float x, int32_t k) {
  return bit_cast<float>(bit_cast<uint32_t>(x) + (uint32_t(k) << 23));
}

// log((1 + f) 2^n) for such f.
VAEFAST_HD float log_reduced(float f, int32_t exponent) {
  // (log1p(f) - f + f^2/2) / f^3 for f in [sqrt(1/2) - 1, 1/2], 2^-28.8
  const float r = polynomial(f, 0.333333194f,
                             {-0.250002712f, 0.200017855f, -0.16654025f, 0.142160729f, -0.126368776f, 0.121296376f,
                              -0.104566254f, 0.0480620153f});
  const float tail = f * f * (f * r - 0.5f), n = float(exponent);
  return n * kLn2High + (f + (tail + n * kLn2Low));
}

// log(x 2^k) for x > 0, finite and normal. 0.9 ULP.
VAEFAST_HD float log_normal(float x, int32_t k = 0) {
  const int32_t exponent = exponent_of(x);
  return log_reduced(times_power_of_2(x, -exponent) - 1.0f, exponent + k);
}

// log(x) for every float: -inf at 0, NaN below. 0.9 ULP.
VAEFAST_HD float log(float x) {
  const bool subnormal = x < 0x1p-126f;
  const float y = log_normal(subnormal ? x * 0x1p23f : x, subnormal ? -23 : 0);
  const float zero_or_less = x == 0.0f ? -INFINITY : NAN;
  return x > 0.0f ? (x == INFINITY ? x : y) : zero_or_less;
}
VAEFAST_HD double log(double x) { return ::log(x); }

// log(p) and log(1 - p), at least -100, of a probability p; NaN where it is below 0 or above 1. 0.9 ULP. They work on
// 2^23 p and 2^23 (1 - p), which are normal where they are not 0, and bound them as integers: a comparison of floats
// would make a longer chain of dependent operations. What rounding takes from 1 - p goes to the reduced argument.
VAEFAST_HD float at_least_log_bound(float x) {
  constexpr int32_t least = 0x02d460f9;  // 2^23 exp(-100)
  const int32_t bits = bit_cast<int32_t>(x);
  return bit_cast<float>(bits < least ? least : bits);
}
VAEFAST_HD float clamped_log(float p) {
  const float y = log_normal(at_least_log_bound(p * 0x1p23f), -23);
  return p >= 0.0f ? y : NAN;
}
VAEFAST_HD float clamped_log1m(float p) {
  const float x = p * 0x1p23f, difference = 0x1p23f - x, lost = (0x1p23f - difference) - x;
  const float rest = at_least_log_bound(difference);
  const int32_t exponent = exponent_of(rest);
  const float f = (times_power_of_2(rest, -exponent) - 1.0f) + lost * times_power_of_2(1.0f, -exponent);
  const float y = log_reduced(f, exponent - 23);
  return p <= 1.0f ? y : NAN;
}
VAEFAST_HD double clamped_log(double p) {
  const double y = ::log(p);
  return y < -100.0 ? -100.0 : y;
}
VAEFAST_HD double clamped_log1m(double p) {
  const double y = ::log1p(-p);
  return y < -100.0 ? -100.0 : y;
}

// exp(x) - 1 - x for x in [-1, 1.75], where subtracting nearly equal numbers loses digits, near 0 every one.
VAEFAST_HD float phi_series(float x) {
  // of its quotient by x^2, 2^-28
  return x * x *
         polynomial(x, 0.5f,
                    {0.166666672f, 0.0416666269f, 0.00833327044f, 0.00138904259f, 0.000198513357f, 2.45869414e-05f,
                     2.73551882e-06f, 3.78213969e-07f});
}
VAEFAST_HD double phi_series(double x) {
  double p = 0.0;  // Taylor: 24 terms reach 2^-53 on |x| <= 1.75
  for (int n = 25; n >= 2; --n) p = (p * x + 1.0) / n;
  return p * x * x;
}

// phi(x) = exp(x) - 1 - x >= 0 and expm1(x) from x and e = exp(x), which the Gaussian KL and its gradient need
// together. The series is used as far as it is the better of both. phi 3.4 ULP, expm1 1.62 ULP; in double expm1 is
// libm's.
template <class T>
VAEFAST_HD T phi(T x, T e) {
  const T bounded = x > T(1000) ? T(1000) : x;  // keeps phi(+inf) from being inf - inf
  const T far = e - (T(1) + bounded);
  return x > T(-1) && x < T(1.75) ? phi_series(x) : far;
}
VAEFAST_HD float expm1(float x, float e) { return x > -1.0f && x < 1.1f ? x + phi_series(x) : e - 1.0f; }
VAEFAST_HD double expm1(double x, double) { return ::expm1(x); }

// log((x / 2) / sinh(x / 2)) and its derivative, 1 / x - coth(x / 2) / 2, for |x| <= 1. 2.4 and 1.9 ULP.
VAEFAST_HD float log_x_by_sinh(float x, float& slope) {
  const float w = x * x;
  slope = x * polynomial(w, -0.083333336f, {0.0013888839f, -3.3043867e-05f, 7.8639584e-07f});  // 2^-24.8
  return w * polynomial(w, -0.041666668f, {0.00034722174f, -5.508955e-06f, 9.928557e-08f});    // 2^-25
}
VAEFAST_HD double log_x_by_sinh(double x, double& slope) {
  // -B_2n / (2n)! of the slope's series, whose terms fall by 39 each
  const double c[] = {-1.0 / 12,
                      1.0 / 720,
                      -1.0 / 30240,
                      1.0 / 1209600,
                      -2.0876756987868099e-8,
                      5.28419013868749318e-10,
                      -1.33825365306846788e-11,
                      3.38968029632258287e-13,
                      -8.58606205627784456e-15,
                      2.17486869855806187e-16};
  const double w = x * x;
  double value = 0, derivative = 0;
  for (int n = 10; n >= 1; --n) {
    derivative = derivative * w + c[n - 1];
    value = value * w + c[n - 1] / (2 * n);
  }
  slope = derivative * x;
  return value * w;
}

}  // namespace vaefast::math
