// AVX2 with FMA: x86-64 since 2013.
#if defined(__x86_64__)
#define VAEFAST_FMA  // every formula is inlined into this file's loops

#include <immintrin.h>

#include <type_traits>
#include <utility>

#include "../math/half.h"
#include "../math/philox.h"
#include "loops.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2")
#endif

namespace vaefast::cpu {
namespace avx2 {
constexpr int kLanes = 4;
typedef uint64_t Lanes __attribute__((vector_size(32)));
inline Lanes multiply_low(Lanes a, Lanes b) { return Lanes(_mm256_mul_epu32(__m256i(a), __m256i(b))); }
#include "loops.inl"
#include "mixture.inl"
#include "noise.inl"
}  // namespace avx2

constexpr Isa kAvx2 = {avx2::loops<float>(Terms()), avx2::loops<double>(Terms()), avx2::mixture_loops<float>(),
                       avx2::mixture_loops<double>(), avx2::normals};

}  // namespace vaefast::cpu
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
