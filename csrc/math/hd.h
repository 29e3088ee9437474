// The host/device qualifier and bit casts. Everything under math/ is pure: no torch, no CUDA runtime, no state.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define VAEFAST_HD __host__ __device__ __forceinline__
#else
// Inlining is forced: of two out-of-line copies, the linker could pick the one compiled for a newer machine.
#define VAEFAST_HD inline __attribute__((always_inline))
#endif

// Defined where a * b + c is rounded once; isa_avx2.cpp and isa_avx512.cpp define it themselves.
#if defined(__FMA__) || defined(__CUDA_ARCH__) || defined(__aarch64__)
#define VAEFAST_FMA
#endif

namespace vaefast::math {

template <class To, class From>
VAEFAST_HD To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

}  // namespace vaefast::math
