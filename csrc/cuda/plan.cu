// Plans a sweep, lays out its scratch memory and launches it.
#include "plan.h"

#include <algorithm>

#include "device.h"

namespace vaefast::cuda {
namespace {

constexpr int64_t kItems = 16384;    // about two for every warp that a large device holds
constexpr int64_t kShortest = 1024;  // columns of a chunk; fewer would be mostly overhead
constexpr int64_t kLongest = 16384;  // columns of a chunk; more would leave the device idle at the end
constexpr int64_t kManyRows = 4096;  // so many fill a device without cutting them
constexpr unsigned kBlocks = 4096;
constexpr int64_t kGroupRows = 16;  // rows whose columns a lane adds; fewer would leave more sums than gradients
constexpr int64_t kGroups = 256;    // of rows; more would only make more sums

bool is_aligned(const View& v, int64_t elements) {
  return reinterpret_cast<uintptr_t>(v.data) % (elements * itemsize(v.dtype)) == 0 && v.row_stride % elements == 0;
}

// The element size of the vector kernels where they can run, else 0. All that varies along a row must be of one type,
// float or a half; data may also be bytes. Heavy terms have none. Operands after the first two may broadcast, gradients
// may be summed, and weights are by row.
int vector_size(const SweepArgs& a) {
  const int size = itemsize(a.operand[0].dtype), data = a.term < 0 ? -1 : Terms::target[a.term];
  if (a.wide || size > 4 || (a.term >= 0 && Terms::heavy[a.term]) || a.mask.data || a.coef.col_stride != 0) return 0;
  if (a.value.data && a.value.col_stride != 0) return 0;
  const int64_t n = a.sampling.samples > 0 ? 4 : 16 / size;
  if (a.cols % n != 0) return 0;
  for (int k = 0; k < kMaxOperands; ++k) {
    const View &x = a.operand[k], &g = a.grad[k];
    const bool bytes = k == data && x.dtype == DType::u8;
    if (x.data && x.col_stride != 0 && (!(bytes || x.dtype == a.operand[0].dtype) || !is_aligned(x, n))) return 0;
    if (g.data && g.col_stride != 0 && (g.dtype != a.operand[0].dtype || !is_aligned(g, n))) return 0;
  }
  for (const View* z : {&a.sampling.z, &a.sampling.grad_z}) {
    if (z->data && (z->dtype != a.operand[0].dtype || !is_aligned(*z, n))) return 0;
  }
  return a.operand[0].col_stride == 0 || a.operand[1].col_stride == 0 ? 0 : size;
}

// Doubles that the sums over rows and columns take before they are added.
size_t sum_count(const SweepArgs& a, const Plan& p) {
  size_t count = 0;
  for (int k = 0; k < kMaxOperands; ++k)
    count += a.sums_columns(k) ? p.groups * a.cols : a.sums_rows(k) ? a.rows * p.chunks : 0;
  return count;
}

size_t chunk_sum_count(const SweepArgs& a, const Plan& p) { return p.chunks > 1 ? a.rows * p.chunks : 0; }

}  // namespace

Plan make_plan(const SweepArgs& a) {
  Plan p;
  for (int k = 0; k < kMaxOperands; ++k) p.sums |= a.sums_rows(k) || a.sums_columns(k);
  p.outputs = a.wants_total();
  for (int k = 0; k < kMaxOperands; ++k) p.outputs += a.sums_gradient(k);
  if (p.sums) {
    p.group_rows = std::max(kGroupRows, (a.rows + kGroups - 1) / kGroups);
    p.groups = std::max<int64_t>(1, (a.rows + p.group_rows - 1) / p.group_rows);
    p.chunk = p.group = 32;
    p.chunks = std::max<int64_t>(1, (a.cols + p.chunk - 1) / p.chunk);
    p.items = p.groups * p.chunks;
    p.blocks = unsigned(std::clamp<int64_t>((p.items + kThreads / 32 - 1) / (kThreads / 32), 1, kBlocks));
    return p;
  }
  p.vector = vector_size(a);
  const int64_t wanted = a.rows * a.cols / kItems / kShortest * kShortest;
  p.chunk = a.rows >= kManyRows ? kLongest : std::clamp(wanted, kShortest, kLongest);
  p.chunks = std::max<int64_t>(1, (a.cols + p.chunk - 1) / p.chunk);
  p.items = a.rows * p.chunks;
  const int64_t each = a.sampling.samples > 0 ? 4 : p.vector ? 16 / p.vector : 1;
  while (p.group < 32 && p.group * each < std::min(a.cols, p.chunk)) p.group *= 2;
  const int64_t per_block = kThreads / p.group;
  p.blocks = unsigned(std::clamp<int64_t>((p.items + per_block - 1) / per_block, 1, kBlocks));
  return p;
}

size_t scratch_bytes(const SweepArgs& args) {
  const Plan p = make_plan(args);
  return sizeof(double) * (1 + size_t(p.outputs) * p.blocks + chunk_sum_count(args, p) + sum_count(args, p));
}

void run(const SweepArgs& args, void* scratch, void* stream) {
  Launch l{args, make_plan(args), {}};
  l.scratch.arrived = static_cast<unsigned*>(scratch);
  l.scratch.block_sums = static_cast<double*>(scratch) + 1;
  l.scratch.chunk_sums = l.scratch.block_sums + size_t(l.plan.outputs) * l.plan.blocks;
  l.scratch.sums = l.scratch.chunk_sums + chunk_sum_count(args, l.plan);
  if (l.plan.outputs > 0 || l.plan.chunks > 1) clear(l.scratch.arrived, sizeof(unsigned), stream);
  if (l.plan.sums) launch_sums(l, stream);
  else if (l.plan.vector) launch_vector(l, stream);
  else launch_general(l, stream);
}

}  // namespace vaefast::cuda
