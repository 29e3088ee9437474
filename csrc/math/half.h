// bfloat16 and float16 to and from float, rounded to nearest even, in branch-free integer arithmetic that vectorizes on
// every instruction set. Both directions are right for subnormals and infinities, and NaN stays NaN.
#pragma once

#include "hd.h"

namespace vaefast::math {

struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

VAEFAST_HD float to_float(bfloat16 x) { return bit_cast<float>(uint32_t(x.bits) << 16); }

VAEFAST_HD float to_float(float16 x) {
  const uint32_t exponent_and_fraction = uint32_t(x.bits & 0x7fffu) << 13;
  // Multiplying by 2^112 moves the exponent bias from 15 to 127 and normalizes subnormals on the way.
  const uint32_t finite = bit_cast<uint32_t>(bit_cast<float>(exponent_and_fraction) * 0x1p112f);
  const uint32_t magnitude = exponent_and_fraction >= 0x0f800000u ? exponent_and_fraction | 0x7f800000u : finite;
  return bit_cast<float>(magnitude | (uint32_t(x.bits & 0x8000u) << 16));
}

VAEFAST_HD bfloat16 to_bfloat16(float x) {
  const uint32_t u = bit_cast<uint32_t>(x);
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  return {uint16_t(x == x ? rounded : 0x7fc0u)};
}

VAEFAST_HD float16 to_float16(float x) {
  const uint32_t u = bit_cast<uint32_t>(x);
  const uint32_t a = u & 0x7fffffffu;
  // Floats near 0.5 are spaced as float16's subnormals are, so this addition rounds |x| to one of them.
  const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(a) + 0.5f) - 0x3f000000u;
  const uint32_t normal = (a + 0xfffu + ((a >> 13) & 1u) - 0x38000000u) >> 13;
  const uint32_t special = a > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t magnitude = a >= 0x47800000u ? special : a < 0x38800000u ? subnormal : normal;
  return {uint16_t(magnitude | ((u >> 16) & 0x8000u))};
}

}  // namespace vaefast::math
