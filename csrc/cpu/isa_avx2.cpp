// AVX2 with FMA: x86-64 since 2013.
#include <type_traits>
#include <utility>

#include "../math/half.h"
#include "../math/philox.h"
#include "loops.h"

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2")

namespace vaefast::cpu {
namespace avx2 {
#include "loops.inl"
}  // namespace avx2

constexpr Isa kAvx2 = {avx2::loops<float>(Terms()), avx2::loops<double>(Terms()), avx2::normals};

}  // namespace vaefast::cpu
#pragma GCC pop_options
#endif
