// exp(x), expm1(x) = exp(x) - 1 and phi(x) = exp(x) - 1 - x. scalar.h says how errors are stated.
#pragma once

#include "floating.h"
#include "polynomials.h"

namespace vaefast::math {

// exp(y) = (1 + p) 2^k for y from exp_least to exp_most. Returns p, which lies in [-0.3, 0.42]. The low bits of
// `exponent` hold k + offset.
template <int offset, class T>
VAEFAST_HD T exp_reduced(T y, Bits<T>& exponent) {
  // Adding 1.5 * 2^mantissa rounds to an integer and leaves it in the low bits of the sum.
  constexpr T shift = T(uint64_t(3) << (Format<T>::mantissa - 1)) + T(offset);
  const T shifted = y * T(1.44269504088896340736) + shift, n = shifted - shift;
  exponent = bit_cast<Bits<T>>(shifted);
  const T high = y - n * Format<T>::ln2_high, r = high - n * Format<T>::ln2_low;
  T rest = r * r * exp_rest(r);
  if constexpr (sizeof(T) == 8) rest += (high - r) - n * Format<T>::ln2_low;  // what r lost to rounding
  return r + rest;
}

// exp(x) for every x: subnormal results are rounded once, 0 lies below them, overflow gives +inf and NaN gives
// NaN. 1.02 ULP. Only the lower side is bounded: with two bounds GCC repeats the comparisons, and two selections at the
// end do not vectorize. Above exp_most the arithmetic is defined, but its result is not used.
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

// exp(x) for every x, rounded better: 0.53 ULP. What r lost to rounding is kept, and 1 + r is rounded last, together
// with the rest of the polynomial. For a result from which a number of its size is subtracted.
template <class T>
VAEFAST_HD T exp_rounded(T x) {
  constexpr T least = Format<T>::exp_least,
              shift = T(uint64_t(3) << (Format<T>::mantissa - 1)) + T(2 * Format<T>::bias);
  const T y = x < least ? least : x;
  const T shifted = y * T(1.44269504088896340736) + shift, n = shifted - shift;
  const Bits<T> exponent = bit_cast<Bits<T>>(shifted), half = exponent >> 1;
  const T high = y - n * Format<T>::ln2_high, r = high - n * Format<T>::ln2_low;
  const T lost = (high - r) - n * Format<T>::ln2_low, sum = T(1) + r;
  const T rest = (r - (sum - T(1))) + (r * r * exp_rest(r) + lost);
  const T power = (sum + rest) * bit_cast<T>(half << Format<T>::mantissa);
  const T result = power * bit_cast<T>((exponent - half) << Format<T>::mantissa);
  return x > Format<T>::exp_most ? T(INFINITY) : result;
}

// exp(x) for x <= 0 and NaN, in less time: 2^k is made 2^64 too large, so that it is normal for every k. 1.02 ULP.
template <class T>
VAEFAST_HD T exp_nonpositive(T x) {
  constexpr T least = Format<T>::exp_least;
  const T y = x < least ? least : x;
  Bits<T> exponent;
  const T p = exp_reduced<Format<T>::bias + 64>(y, exponent);
  const T scale = bit_cast<T>(exponent << Format<T>::mantissa);
  return (scale + scale * p) * T(0x1p-64);
}

// expm1(x) for x <= 0 and NaN, and exp(x), which is at least exp(-80) in float, exp(-700) in double: a processor takes
// a hundred times as long for a subnormal number. 1.6 ULP and 1.02 ULP.
template <class T>
VAEFAST_HD T expm1_nonpositive(T x, T& exp) {
  constexpr T least = sizeof(T) == 4 ? T(-80) : T(-700);
  const T y = x < least ? least : x;
  Bits<T> exponent;
  const T p = exp_reduced<Format<T>::bias>(y, exponent);
  const T scale = bit_cast<T>(exponent << Format<T>::mantissa), rest = scale * p;
  exp = scale + rest;
  return (scale - T(1)) + rest;
}

// phi(x) for x in [-1, 1.75]. There exp(x) - 1 - x subtracts nearly equal numbers and loses digits, near 0 all of them.
template <class T>
VAEFAST_HD T phi_series(T x) {
  return x * x * phi_rest(x);
}

// phi(x) >= 0 and expm1(x) from x and e = exp(x): the Gaussian KL and its gradient need both. The series is used where
// it is more accurate than the difference. phi 3.4 ULP, expm1 1.62 ULP.
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

}  // namespace vaefast::math
