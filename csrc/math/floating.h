// How float and double are laid out, and the few operations on them that need care.
#pragma once

#include <cmath>

#include "hd.h"

namespace vaefast::math {

// Constants of a type. `mantissa` counts bits; `bias` is the exponent's. log(2) is in two parts, so that the high one
// times an integer below 2^12 is exact. exp is 0 below exp_least and infinite above exp_most.
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

constexpr double kLog2Pi = 1.8378770664093454835606594728112;

VAEFAST_HD float abs(float x) { return fabsf(x); }
VAEFAST_HD double abs(double x) { return fabs(x); }
// The sign bit; -0 has it, too, and a NaN may. Vectors select by it without a comparison.
VAEFAST_HD bool is_negative(float x) { return bit_cast<int32_t>(x) < 0; }
VAEFAST_HD bool is_negative(double x) { return bit_cast<int64_t>(x) < 0; }

// a / b for 1 <= b <= 2. On a device it has 2 ULP and takes two instructions; the exact quotient takes ten.
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

// max(x, least) for least > 0; a NaN may be lost. Floats are compared as integers, for a shorter chain of dependent
// operations.
VAEFAST_HD float at_least(float x, float least) {
  const int32_t bits = bit_cast<int32_t>(x), bound = bit_cast<int32_t>(least);
  return bit_cast<float>(bits < bound ? bound : bits);
}
VAEFAST_HD double at_least(double x, double least) { return x < least ? least : x; }

// Parameters and logarithms that are bounded, so that infinite ones make no inf - inf. NaN stays NaN.
template <class T>
constexpr T kMostLog = sizeof(T) == 4 ? T(1e37) : T(1e307);
template <class T>
constexpr T kMost = sizeof(T) == 4 ? T(3e38) : T(1.7e308);
template <class T>
VAEFAST_HD T bounded(T x, T most) {
  return x > most ? most : x;
}
template <class T>
VAEFAST_HD T bounded_log(T x) {
  const T below = bounded(x, kMostLog<T>);
  return below < -kMostLog<T> ? -kMostLog<T> : below;
}

// What rounding took from `difference` = a - b, exactly (Knuth's two-sum). NaN where a or b is infinite.
template <class T>
VAEFAST_HD T rounding_of_difference(T a, T b, T difference) {
  const T part = a - difference;  // b, as far as the difference has it
  return (a - (difference + part)) + (part - b);
}

}  // namespace vaefast::math
