// Logarithms of any number, of probabilities, and of 1 + e. scalar.h says how errors are stated.
#pragma once

#include "floating.h"
#include "polynomials.h"

namespace vaefast::math {

// -a b - log1p(e) for a, b >= 0 and 0 <= e <= 1. The logarithm is not rounded by itself. With a fused multiply-add, its
// largest part is added last. Without one, what rounding takes from the sums is added at the end. log1p alone 1.5 ULP.
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

// The exponent of a normal x > 0, x = 2^exponent (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)).
VAEFAST_HD int32_t exponent_of(float x) { return int32_t(bit_cast<uint32_t>(x) - 0x3f3504f3u) >> 23; }
VAEFAST_HD int32_t exponent_of(double x) {  // AVX2 has no signed shift of 64 bits
  return int32_t((bit_cast<uint64_t>(x) + 0x00095f619980c433u) >> 52) - 1023;
}
template <class T>
VAEFAST_HD T times_power_of_2(T x, int32_t k) {
  return bit_cast<T>(bit_cast<Bits<T>>(x) + (Bits<T>(k) << Format<T>::mantissa));
}

// log((1 + f) 2^exponent) for such f.
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

// 2^mantissa. Times it, every subnormal number is normal.
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

// log(x) of a finite x >= 0, or NaN; -kMostLog at 0.
template <class T>
VAEFAST_HD T log_of_rate(T x) {
  const bool subnormal = x < Format<T>::least_normal;
  const T y = log_normal(subnormal ? x * kToNormal<T> : x, subnormal ? -Format<T>::mantissa : 0);
  return x > T(0) ? y : x - kMostLog<T>;
}

// log(p) and log(1 - p), at least -100, of a probability p; log(p) is NaN for p below 0, log(1 - p) for p above 1. 0.9
// ULP. They work on p and 1 - p times 2^mantissa: those are normal where they are not 0. What rounding takes from 1 - p
// is added to the reduced argument.
template <class T>
constexpr T kLogBound = sizeof(T) == 4 ? T(0x1.a8c1f2p-122) : T(0x1.a8c1f14e2af5dp-93);  // 2^mantissa exp(-100)
template <class T>
VAEFAST_HD T clamped_log(T p) {
  const T y = log_normal(at_least(p * kToNormal<T>, kLogBound<T>), -Format<T>::mantissa);
  return p >= T(0) ? y : T(NAN);
}
template <class T>
VAEFAST_HD T clamped_log1m(T p) {
  const T x = p * kToNormal<T>, difference = kToNormal<T> - x, lost = (kToNormal<T> - difference) - x;
  const T rest = at_least(difference, kLogBound<T>);
  const int32_t exponent = exponent_of(rest);
  const T f = (times_power_of_2(rest, -exponent) - T(1)) + lost * times_power_of_2(T(1), -exponent);
  const T y = log_reduced(f, exponent - Format<T>::mantissa);
  return p <= T(1) ? y : T(NAN);
}

}  // namespace vaefast::math
