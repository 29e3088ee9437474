// Counter-based noise: the standard normal of an element is a function of (seed, offset, element index) alone. So it is
// the same for any number of threads, launch shape, dtype or device.
// Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#pragma once

#include "scalar.h"

namespace vaefast::math {

// Four 32-bit words of the stream `seed` at counter (block, offset).
VAEFAST_HD void philox(uint64_t seed, uint64_t offset, uint64_t block, uint32_t (&w)[4]) {
  uint32_t key0 = uint32_t(seed), key1 = uint32_t(seed >> 32);
  w[0] = uint32_t(block), w[1] = uint32_t(block >> 32), w[2] = uint32_t(offset), w[3] = uint32_t(offset >> 32);
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t(0xD2511F53u) * w[0], b = uint64_t(0xCD9E8D57u) * w[2];
    const uint32_t w1 = w[1], w3 = w[3];
    w[0] = uint32_t(b >> 32) ^ w1 ^ key0;
    w[1] = uint32_t(b);
    w[2] = uint32_t(a >> 32) ^ w3 ^ key1;
    w[3] = uint32_t(a);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

// cos and sin of 2 pi k / 2^32. Quarter turns are found in integers, so that 2 pi is never rounded. 1.5 ULP.
VAEFAST_HD void cos_sin_turns(uint32_t k, float& c, float& s) {
  const uint32_t quarter = k + 0x20000000u;                                // the nearest one, in the two upper bits
  const float v = float(int32_t(k - (quarter & 0xc0000000u))) * 0x1p-30f;  // in quarter turns, |v| <= 1/2
  const float w = v * v;
  float sine = -0.00460165786f;  // sin(pi/2 v) / v, 2^-28
  sine = sine * w + 0.079680033f;
  sine = sine * w - 0.64596349f;
  sine = (sine * w + 1.57079637f) * v;
  float cosine = 0.000903766544f;  // (cos(pi/2 v) - 1) / v^2, 2^-34
  cosine = cosine * w - 0.0208601654f;
  cosine = cosine * w + 0.253669232f;
  cosine = 1.0f + (cosine * w - 1.23370051f) * w;
  const bool swap = quarter & 0x40000000u;
  const uint32_t negative_cosine = (quarter + 0x40000000u) & 0x80000000u, negative_sine = quarter & 0x80000000u;
  c = bit_cast<float>(bit_cast<uint32_t>(swap ? sine : cosine) ^ negative_cosine);
  s = bit_cast<float>(bit_cast<uint32_t>(swap ? cosine : sine) ^ negative_sine);
}

// Box-Muller on 32-bit uniforms in (0, 1]: |z| <= 6.66.
VAEFAST_HD void box_muller(uint32_t radius, uint32_t angle, float& z0, float& z1) {
  const float uniform = float(radius) * 0x1p-32f + 0x1p-32f;
  const float r = sqrtf(-2.0f * log_normal(uniform));
  float c, s;
  cos_sin_turns(angle, c, s);
  z0 = r * c;
  z1 = r * s;
}

// The normals of elements 4 * block ... 4 * block + 3.
VAEFAST_HD void normal4(uint64_t seed, uint64_t offset, uint64_t block, float (&z)[4]) {
  uint32_t w[4];
  philox(seed, offset, block, w);
  box_muller(w[0], w[1], z[0], z[1]);
  box_muller(w[2], w[3], z[2], z[3]);
}

}  // namespace vaefast::math
