// The one interface between ops/, which knows tensors, and the kernels, which do not.
//
// Two shapes of kernel compute. The sweep reads every operand once, as a (rows, cols) matrix. The term's value and its
// gradient by every operand come out in the same pass, and so do reparameterized samples where they are asked for. The
// mixture has several parameters for each element of the data, one for each component.
#pragma once

#include <atomic>
#include <cstdint>

#include "math/mixture.h"
#include "math/terms.h"

// Exported: other shared libraries may call it.
#define VAEFAST_VISIBLE __attribute__((visibility("default")))

namespace vaefast {

enum class DType : int8_t { f32, f64, bf16, f16, u8, i16, i32, i64 };  // u8 also stands for bool; integers hold data
constexpr int kDTypes = 8, kFloatingDTypes = 4;

inline int64_t itemsize(DType dtype) {
  constexpr int64_t bytes[kDTypes] = {4, 8, 2, 2, 1, 2, 4, 8};
  return bytes[int(dtype)];
}

// Element (r, c) lies at data + (r * row_stride + c * col_stride) * itemsize; col_stride is 0 or 1. Where a view is
// read, a stride of 0 broadcasts. Where it is written, a stride of 0 sums, which is the adjoint of broadcasting: over
// each row for col_stride 0, over each column for row_stride 0, over everything for both 0.
struct View {
  void* data = nullptr;  // null: not given, or not wanted
  DType dtype = DType::f32;
  int64_t row_stride = 0, col_stride = 0;
};

// The noise's seed and offset, given here or in memory of the sweep's device.
struct NoiseKey {
  uint64_t seed = 0, offset = 0;
  const int64_t *seed_at = nullptr, *offset_at = nullptr;  // not null: the key is *seed_at and *offset_at + offset
  int64_t* store = nullptr;  // not null: the kernel keeps both there for the backward pass

  VAEFAST_HD NoiseKey resolved() const {
    NoiseKey key;
    key.seed = seed_at ? uint64_t(*seed_at) : seed;
    key.offset = offset_at ? uint64_t(*offset_at) + offset : offset;
    return key;
  }
};

// z[k] = operand[0] + sigma * eps[k], where sigma is exp(operand[1] / 2), or operand[1] itself. The eps of flat element
// i is the normal of (seed, offset, i).
struct Sampling {
  int64_t samples = 0;    // 0: no sampling
  bool by_scale = false;  // operand[1] is sigma
  NoiseKey key;
  View z;       // forward: (samples * rows, cols), written
  View grad_z;  // backward: of the same shape, read; its adjoint is added to grad[0] and grad[1]
};

struct SweepArgs {
  int term = -1;      // index into Terms; -1: sampling alone, from the operands mu and logvar
  bool wide = false;  // compute in double; otherwise in float
  int64_t rows = 0, cols = 0;
  View operand[kMaxOperands];
  double factor[kMaxOperands] = {1, 1, 1, 1};  // multiplies the operand as it is read, and so its gradient
  View mask;         // where it is 0, an element adds nothing to value and gradients, whatever it holds
  View value;        // the term, elementwise (col_stride 1) or summed over rows (col_stride 0)
  double scale = 1;  // times coef(r, c): the loss's derivative by element (r, c) of the value
  View coef;         // not given: 1
  View grad[kMaxOperands];
  // The total is scale * (sum over rows of coef * row sum) + *addend. It goes to `total`, in the device's memory, and
  // to the tensor `loss`.
  const double* addend = nullptr;
  double* total = nullptr;
  View loss;
  Sampling sampling;

  VAEFAST_HD bool sums_value() const { return term >= 0 && value.col_stride == 0 && (value.data || wants_total()); }
  // Whether the gradient by operand k is summed over everything, over each row, or over each column.
  VAEFAST_HD bool sums_gradient(int k) const { return grad[k].data && !grad[k].col_stride && !grad[k].row_stride; }
  VAEFAST_HD bool sums_rows(int k) const { return grad[k].data && !grad[k].col_stride && grad[k].row_stride; }
  VAEFAST_HD bool sums_columns(int k) const { return grad[k].data && grad[k].col_stride && !grad[k].row_stride; }
  VAEFAST_HD bool wants_total() const { return total || loss.data; }
};

// A tensor of (rows, components, channels, pixels); one that lacks a dimension has a stride of 0 there. Element
// (r, m, c, p) lies at data + (r * row_stride + m * component + c * channel + p * col_stride) * itemsize.
struct MixtureView : View {
  int64_t component = 0, channel = 0;

  VAEFAST_HD int64_t offset(int64_t row, int64_t m, int64_t c, int64_t pixel) const {
    return row * row_stride + m * component + c * channel + pixel * col_stride;
  }
};

// A mixture of discretized logistics for each pixel: log sum_m pi_m prod_c p(x_c | mean_mc, log_scale_mc). Channels are
// coupled: mean_mc is mean[m, c] + sum over b < c of tanh(coupling[m, c (c - 1) / 2 + b]) (x_b - middle).
struct MixtureArgs {
  enum { kLogits, kMean, kLogScale, kCoupling, kParameters };
  bool wide = false;
  int64_t rows = 0, components = 0, channels = 0, pixels = 0;
  MixtureView parameter[kParameters], grad[kParameters];
  MixtureView x;
  double target_scale = 1;  // multiplies x
  View grid;                // half the width of a bin; then the least and the largest datum, if has_range; 0 and 1 else
  bool has_range = false;
  MixtureView mask;   // where it is 0, a pixel adds nothing to value and gradients, whatever it holds
  MixtureView value;  // log p of each pixel, of the compute type
  double scale = 1;   // times coef: the loss's derivative by a pixel of the value
  MixtureView coef;   // not given: 1

  VAEFAST_HD bool wants_gradients() const {
    return grad[kLogits].data || grad[kMean].data || grad[kLogScale].data || grad[kCoupling].data;
  }
};

namespace cpu {

// A sweep is cut into tiles by its shape alone. Each tile's sums go to their own slots of `partial`, and `finish` adds
// them in order. So any number of threads gives the same bits, whichever thread runs a tile. Tiles of a group of rows
// whose columns are summed share slots, and one thread runs them in order.
int64_t partial_count(const SweepArgs& args);
void finish(const SweepArgs& args, double* partial);

// The tiles are divided into parts, one for each thread. `run_part` runs the tiles of its own part, whose memory the
// thread's caches may still hold, and then what is left of the others. So a thread that starts late, or shares its core
// with a data loader, does less, and one that never starts is not missed. most_parts: more threads than that do not
// pay.
struct alignas(64) Taken {  // how many units of tiles of one part are taken; on a cache line of its own
  std::atomic<int64_t> units = 0;
};
int64_t most_parts(const SweepArgs& args);
void run_part(const SweepArgs& args, double* partial, Taken* taken, int64_t parts, int64_t own);

// A mixture is cut into blocks of pixels, and one thread computes a block. `grain` are as many blocks as are
// worth a thread.
int64_t block_count(const MixtureArgs& args);
int64_t grain(const MixtureArgs& args);
void run_blocks(const MixtureArgs& args, int64_t begin, int64_t end);

// Instruction sets in ascending order. The best one of the machine is used, or the one that VAEFAST_CPU_ISA names.
constexpr const char* kIsaNames[] = {"baseline", "avx2", "avx512"};
constexpr int kIsaCount = 3;
bool isa_supported(int isa);
int isa_in_use();  // std::invalid_argument where the machine has not what VAEFAST_CPU_ISA names
void use_isa(int isa);

}  // namespace cpu

namespace cuda {

// Queues everything on `stream`, a cudaStream_t, and waits for nothing. std::runtime_error where CUDA reports an error.
size_t scratch_bytes(const SweepArgs& args);
void run(const SweepArgs& args, void* scratch, void* stream);
void run(const MixtureArgs& args, void* stream);

// Multiplies tensors by a factor in the device's memory. Where it is 1, nothing is read or written.
constexpr int kMaxScaled = 8;
struct ScaleArgs {
  View tensor[kMaxScaled];
  int64_t size[kMaxScaled] = {};
  int count = 0;
  View factor;
};
void scale(const ScaleArgs& args, void* stream);

}  // namespace cuda
}  // namespace vaefast
