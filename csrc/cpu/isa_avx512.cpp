// AVX-512 F, BW, DQ and VL: x86-64 servers since 2017.
#if defined(__x86_64__)
#define VAEFAST_FMA  // every formula is inlined into this file's loops

#include <immintrin.h>

#include <type_traits>
#include <utility>

#include "../math/half.h"
#include "../math/philox.h"
#include "loops.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#endif

namespace vaefast::cpu {
namespace avx512 {
constexpr int kLanes = 8;
typedef uint64_t Lanes __attribute__((vector_size(64)));
// The intrinsic without a mask reads an undefined register, and GCC 12 warns of that.
inline Lanes multiply_low(Lanes a, Lanes b) { return Lanes(_mm512_maskz_mul_epu32(0xff, __m512i(a), __m512i(b))); }
#include "loops.inl"
#include "mixture.inl"
#include "noise.inl"
}  // namespace avx512

constexpr Isa kAvx512 = {avx512::loops<float>(Terms()), avx512::loops<double>(Terms()), avx512::mixture_loops<float>(),
                         avx512::mixture_loops<double>(), avx512::normals};

}  // namespace vaefast::cpu
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
