// Chooses the instruction set whose loops run, once, at first use.
#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "loops.h"

namespace vaefast::cpu {
namespace {

constexpr int kUnset = -1;
std::atomic<int> chosen{kUnset};

int choose() {
  const char* wanted = std::getenv("VAEFAST_CPU_ISA");
  for (int isa = kIsaCount - 1; isa >= 0; --isa) {
    if (isa_supported(isa) && (wanted == nullptr || std::string(wanted) == kIsaNames[isa])) return isa;
  }
  throw std::invalid_argument("VAEFAST_CPU_ISA=" + std::string(wanted) +
                              " is not an instruction set of this machine; vaefast has baseline, avx2 and avx512");
}

}  // namespace

bool isa_supported(int isa) {
#if defined(__x86_64__)
  if (isa == 1)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2");
  if (isa == 2) {
    return isa_supported(1) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
#endif
  return isa == 0;
}

int isa_in_use() {
  int isa = chosen.load(std::memory_order_relaxed);
  if (isa == kUnset) {
    isa = choose();
    chosen.store(isa, std::memory_order_relaxed);
  }
  return isa;
}

void use_isa(int isa) { chosen.store(isa, std::memory_order_relaxed); }

const Isa& active_isa() {
#if defined(__x86_64__)
  switch (isa_in_use()) {
    case 1: return kAvx2;
    case 2: return kAvx512;
  }
#endif
  return kBaseline;
}

}  // namespace vaefast::cpu
