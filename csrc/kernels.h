// The one interface between ops/ (which knows tensors) and the kernels (which do not).
//
// There is one kernel shape, the sweep: operands are read once, as a (rows, cols) matrix each; the term's value and its
// gradient by every operand come out in the same pass, and so do reparameterized samples when they are asked for.
#pragma once

#include <cstdint>

#include "math/terms.h"

namespace vaefast {

enum class DType : int8_t { f32, f64, bf16, f16, u8 };  // u8 also stands for bool

// Element (r, c) lies at data + (r * row_stride + c * col_stride) * itemsize; col_stride is 0 or 1. Read, a stride of 0
// broadcasts. Written, it sums, which is the adjoint of broadcasting: over the row for col_stride 0, over everything
// for both 0. (A gradient is either elementwise or summed over everything.)
struct View {
  void* data = nullptr;  // null: not given, or not wanted
  DType dtype = DType::f32;
  int64_t row_stride = 0, col_stride = 0;
};

// z[k] = operand[0] + exp(operand[1] / 2) * eps[k], eps of flat element i being the normal (seed, offset, i).
struct Sampling {
  int64_t samples = 0;  // 0: no sampling
  uint64_t seed = 0, offset = 0;
  View z;       // forward: (samples * rows, cols), written
  View grad_z;  // backward: the same shape, read; its adjoint is added to grad[0] and grad[1]
};

struct SweepArgs {
  int term = -1;      // index into Terms; -1: sampling alone, of operands mu and logvar
  bool wide = false;  // compute in double; otherwise in float
  int64_t rows = 0, cols = 0;
  View operand[kMaxOperands];
  double target_scale = 1;
  View mask;         // elements where it is 0 contribute neither to value nor to gradient, whatever they hold
  View value;        // the term, elementwise (col_stride 1) or summed over rows (col_stride 0)
  double scale = 1;  // the loss's derivative by element (r, c) of the value is scale * coef(r, c)
  View coef;         // not given: 1
  View grad[kMaxOperands];
  double* total = nullptr;  // sum over rows of scale * coef * (row sum)
  Sampling sampling;
};

namespace cpu {

// A sweep is cut into tiles by its shape alone; each tile's sums go to their own slots of `partial`, and `finish` adds
// them in order. So any number of threads gives the same bits.
int64_t tile_count(const SweepArgs& args);
int64_t partial_count(const SweepArgs& args);
void run_tiles(const SweepArgs& args, double* partial, int64_t begin, int64_t end);
void finish(const SweepArgs& args, double* partial);

// Instruction sets, in ascending order. The best that the machine has is used, or the one that VAEFAST_CPU_ISA names.
constexpr const char* kIsaNames[] = {"baseline", "avx2", "avx512"};
constexpr int kIsaCount = 3;
bool isa_supported(int isa);
int isa_in_use();  // throws std::invalid_argument where VAEFAST_CPU_ISA names none that the machine has
void use_isa(int isa);

}  // namespace cpu
}  // namespace vaefast
