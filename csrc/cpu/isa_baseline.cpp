// The machine that the compiler targets by default (SSE2 on x86-64, NEON on aarch64).
#include <type_traits>
#include <utility>

#include "../math/half.h"
#include "../math/philox.h"
#include "loops.h"

namespace vaefast::cpu {
namespace baseline {
#include "loops.inl"
}  // namespace baseline

constexpr Isa kBaseline = {baseline::loops<float>(Terms()), baseline::loops<double>(Terms()), baseline::normals};

}  // namespace vaefast::cpu
