// Branch-free elementary functions, float and double, made so that a compiler vectorizes their loops. Worst errors in
// the comments are over all floats of the range, in units in the last place (ULP) of the true value; those of double
// are like them, and of its logarithms 1.1. tests/ops/test_elementary.py measures both.
#pragma once

#include <cmath>

#include "polynomials.h"

namespace vaefast::math {

constexpr double kLog2Pi = 1.8378770664093454835606594728112;

// Of a type: its bits as an integer, how many of them are the mantissa's, the bias of its exponent, its least normal
// number, log(2) in two parts, of which an integer below 2^12 times the high one is exact, and bounds beyond which exp
// is 0 and infinite.
template <class T>
struct Format;
template <>
struct Format<float> {
  using Bits = uint32_t;
  static constexpr int mantissa = 23, bias = 127;
  static constexpr float least_normal = 0x1p-126f, ln2_high = 0.693115234375f, ln2_low = 3.19461833e-05f;
  static constexpr float exp_least = -104, exp_most = 89;
};
template <>
struct Format<double> {
  using Bits = uint64_t;
  static constexpr int mantissa = 52, bias = 1023;
  static constexpr double least_normal = 0x1p-1022, ln2_high = 0x1.62e42fefap-1, ln2_low = 0x1.cf79abc9e3b3ap-40;
  static constexpr double exp_least = -746, exp_most = 710;
};
template <class T>
using Bits = typename Format<T>::Bits;

VAEFAST_HD float abs(float x) { return fabsf(x); }
VAEFAST_HD double abs(double x) { return fabs(x); }
// The sign bit, which -0 has, too, and a NaN may: vectors select by it without a comparison.
VAEFAST_HD bool is_negative(float x) { return bit_cast<int32_t>(x) < 0; }
VAEFAST_HD bool is_negative(double x) { return bit_cast<int64_t>(x) < 0; }

// exp(y) = (1 + p) 2^k for y from exp_least to exp_most: returns p, in [-0.3, 0.42]. k + offset stands in the low bits
// of `exponent`.
template <int offset, class T>
VAEFAST_HD T exp_reduced(T y, Bits<T>& exponent) {
  // Adding 1.5 * 2^mantissa rounds to an integer, which then stands in the low bits of the sum.
  constexpr T shift = T(uint64_t(3) << (Format<T>::mantissa - 1)) + T(offset);
  const T shifted = y * T(1.44269504088896340736) + shift, n = shifted - shift;
  exponent = bit_cast<Bits<T>>(shifted);
  const T high = y - n * Format<T>::ln2_high, r = high - n * Format<T>::ln2_low;
  T rest = r * r * exp_rest(r);
  if constexpr (sizeof(T) == 8) rest += (high - r) - n * Format<T>::ln2_low;  // what r lost to rounding
  return r + rest;
}

// exp(x) for every x: subnormal results rounded once, 0 below them, +inf where it overflows, NaN for NaN. 1.02 ULP.
// With a bound on either side GCC repeats the comparisons, and two selections at the end it does not vectorize; so what
// is above exp_most is computed as it comes, in arithmetic that is defined, and not used.
template <class T>
VAEFAST_HD T exp(T x) {
  constexpr T least = Format<T>::exp_least;
  const T bounded = x < least ? least : x;
  Bits<T> exponent;
  const T p = exp_reduced<2 * Format<T>::bias>(bounded, exponent);
  // 2^k in two factors: both are normal even where exp(x) is not
  const Bits<T> half = exponent >> 1;
  const T scale = bit_cast<T>(half << Format<T>::mantissa);
  const T y = (scale + scale * p) * bit_cast<T>((exponent - half) << Format<T>::mantissa);
  return x > Format<T>::exp_most ? T(INFINITY) : y;
}

// exp(x) for x <= 0 and NaN, cheaper: 2^k is made 2^64 too high, where it is normal for every k. 1.02 ULP.
template <class T>
VAEFAST_HD T exp_nonpositive(T x) {
  constexpr T least = Format<T>::exp_least;
  const T y = x < least ? least : x;
  Bits<T> exponent;
  const T p = exp_reduced<Format<T>::bias + 64>(y, exponent);
  const T scale = bit_cast<T>(exponent << Format<T>::mantissa);
  return (scale + scale * p) * T(0x1p-64);
}

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
template <class T>
VAEFAST_HD T minus_log1p(T a, T b, T e) {
#if defined(VAEFAST_FMA)
  return (-(a * b) - e * e * (kLog1pC0<T> + e * log1p_rest(e))) - e;
#else
  const T square = e * e, half = kLog1pC0<T> * square, largest = e + half;
  const T rest = square * (e * log1p_rest(e)) + ((e - largest) + half), log1p = largest + rest;
  const T product = a * b, sum = product + log1p;
  const T lost = rounding_of_difference(product, -log1p, sum) + ((largest - log1p) + rest);
  return -(sum + (abs(sum) < T(INFINITY) ? lost : T(0)));
#endif
}

// The exponent of a normal x > 0 = 2^exponent (1 + f), 1 + f in [sqrt(1/2), sqrt(2)).
VAEFAST_HD int32_t exponent_of(float x) { return int32_t(bit_cast<uint32_t>(x) - 0x3f3504f3u) >> 23; }
VAEFAST_HD int32_t exponent_of(double x) {  // AVX2 shifts 64 bits without a sign only
  return int32_t((bit_cast<uint64_t>(x) + 0x00095f619980c433u) >> 52) - 1023;
}
template <class T>
VAEFAST_HD T times_power_of_2(T x, int32_t k) {
  return bit_cast<T>(bit_cast<Bits<T>>(x) + (Bits<T>(k) << Format<T>::mantissa));
}

// log((1 + f) 2^n) for such f.
template <class T>
VAEFAST_HD T log_reduced(T f, int32_t exponent) {
  const T tail = f * f * (f * log_rest(f) - T(0.5)), n = T(exponent);
  return n * Format<T>::ln2_high + (f + (tail + n * Format<T>::ln2_low));
}

// log(x 2^k) for x > 0, finite and normal. 0.9 ULP.
template <class T>
VAEFAST_HD T log_normal(T x, int32_t k = 0) {
  const int32_t exponent = exponent_of(x);
  return log_reduced(times_power_of_2(x, -exponent) - T(1), exponent + k);
}

// 2^mantissa, times which every subnormal number is normal.
template <class T>
constexpr T kToNormal = T(uint64_t(1) << Format<T>::mantissa);

// log(x) for every x: -inf at 0, NaN below. 0.9 ULP.
template <class T>
VAEFAST_HD T log(T x) {
  const bool subnormal = x < Format<T>::least_normal;
  const T y = log_normal(subnormal ? x * kToNormal<T> : x, subnormal ? -Format<T>::mantissa : 0);
  const T zero_or_less = x == T(0) ? -T(INFINITY) : T(NAN);
  return x > T(0) ? (x == T(INFINITY) ? x : y) : zero_or_less;
}

// log(p) and log(1 - p), at least -100, of a probability p; NaN where it is below 0 or above 1. 0.9 ULP. They work on p
// and 1 - p times 2^mantissa, which are normal where they are not 0; floats are bounded as integers, which makes a
// shorter chain of dependent operations. What rounding takes from 1 - p goes to the reduced argument.
VAEFAST_HD float at_least_log_bound(float x) {
  constexpr int32_t least = 0x02d460f9;  // 2^23 exp(-100)
  const int32_t bits = bit_cast<int32_t>(x);
  return bit_cast<float>(bits < least ? least : bits);
}
VAEFAST_HD double at_least_log_bound(double x) {
  constexpr double least = 0x1.a8c1f14e2af5dp-93;  // 2^52 exp(-100)
  return x < least ? least : x;
}
template <class T>
VAEFAST_HD T clamped_log(T p) {
  const T y = log_normal(at_least_log_bound(p * kToNormal<T>), -Format<T>::mantissa);
  return p >= T(0) ? y : T(NAN);
}
template <class T>
VAEFAST_HD T clamped_log1m(T p) {
  const T x = p * kToNormal<T>, difference = kToNormal<T> - x, lost = (kToNormal<T> - difference) - x;
  const T rest = at_least_log_bound(difference);
  const int32_t exponent = exponent_of(rest);
  const T f = (times_power_of_2(rest, -exponent) - T(1)) + lost * times_power_of_2(T(1), -exponent);
  const T y = log_reduced(f, exponent - Format<T>::mantissa);
  return p <= T(1) ? y : T(NAN);
}

// phi(x) = exp(x) - 1 - x for x in [-1, 1.75], where subtracting nearly equal numbers loses digits, near 0 every one.
template <class T>
VAEFAST_HD T phi_series(T x) {
  return x * x * phi_rest(x);
}

// phi(x) = exp(x) - 1 - x >= 0 and expm1(x) from x and e = exp(x), which the Gaussian KL and its gradient need
// together. The series is used as far as it is the better of both. phi 3.4 ULP, expm1 1.62 ULP.
template <class T>
VAEFAST_HD T phi(T x, T e) {
  const T bounded = x > T(1000) ? T(1000) : x;  // keeps phi(+inf) from being inf - inf
  const T far = e - (T(1) + bounded);
  return x > T(-1) && x < T(1.75) ? phi_series(x) : far;
}
template <class T>
VAEFAST_HD T expm1(T x, T e) {
  return x > T(-1) && x < T(1.1) ? x + phi_series(x) : e - T(1);
}

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
