// The instruction set that the compiler targets by default: SSE2 on x86-64, NEON on aarch64.
#include <type_traits>
#include <utility>

#include "../math/half.h"
#include "../math/philox.h"
#include "loops.h"

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace vaefast::cpu {
namespace baseline {
constexpr int kLanes = 2;
typedef uint64_t Lanes __attribute__((vector_size(16)));
inline Lanes multiply_low(Lanes a, Lanes b) {
#if defined(__x86_64__)
  return Lanes(_mm_mul_epu32(__m128i(a), __m128i(b)));
#else
  return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}
#include "loops.inl"
#include "mixture.inl"
#include "noise.inl"
}  // namespace baseline

constexpr Isa kBaseline = {baseline::loops<float>(Terms()), baseline::loops<double>(Terms()),
                           baseline::mixture_loops<float>(), baseline::mixture_loops<double>(), baseline::normals};

}  // namespace vaefast::cpu
