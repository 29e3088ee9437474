// AVX-512 F, BW, DQ and VL: x86-64 servers since 2017.
#include <type_traits>
#include <utility>

#include "../math/half.h"
#include "../math/philox.h"
#include "loops.h"

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")

namespace vaefast::cpu {
namespace avx512 {
#include "loops.inl"
}  // namespace avx512

constexpr Isa kAvx512 = {avx512::loops<float>(Terms()), avx512::loops<double>(Terms()), avx512::normals};

}  // namespace vaefast::cpu
#pragma GCC pop_options
#endif
