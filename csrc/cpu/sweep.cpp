// The sweep on the CPU. Its shape alone decides the tiles; threads share them, and their sums are added in order. The
// threads are the caller's (ops/cpu.cpp).
#include <algorithm>

#include "runner.h"

namespace vaefast::cpu {
namespace {

// How many units a thread takes at once, and is started for: those of 16 tiles, about 16 thousand elements, which take
// a few times as long as starting it.
int64_t grain(const Tiling& tiling) { return std::max<int64_t>(1, 16 / tiling.unit_size()); }

template <class T>
void run(const SweepArgs& a, const Loops<T>& loops, Normals normals, double* partial, Taken* taken, int64_t parts,
         int64_t own) {
  const Tiling tiling(a);
  const int64_t units = tiling.units(), taken_at_once = grain(tiling);
  TileRunner<T> runner(a, loops, normals, partial);
  for (int64_t k = own; k < own + parts; ++k) {
    const int64_t part = k % parts, first = units * part / parts, end = units * (part + 1) / parts;
    std::atomic<int64_t>& next = taken[part].units;
    while (first + next.load(std::memory_order_relaxed) < end) {  // a part that is used up is not written to
      const int64_t begin = first + next.fetch_add(taken_at_once, std::memory_order_relaxed);
      for (int64_t i = begin; i < std::min(begin + taken_at_once, end); ++i) {
        tiling.each_tile(i, [&](const Tile& t, int64_t group, bool is_first) { runner.run(t, group, is_first); });
      }
    }
  }
}

double sum_of(const double* row_sums, int64_t rows) {
  double sum;
  active_isa().wide.sums(row_sums, 1, rows, &sum, 1);
  return sum;
}

double total(const SweepArgs& a, const double* row_sums) {
  double sum = 0;
  if (!a.coef.data) {
    sum = sum_of(row_sums, a.rows);
  } else {
    for (int64_t r = 0; r < a.rows; ++r) {
      double coef;
      active_isa().wide.load[int(a.coef.dtype)](at(a.coef, r, 0), 0, 1, 1, &coef);
      sum += coef * row_sums[r];
    }
  }
  return (a.addend ? *a.addend : 0) + a.scale * sum;
}

}  // namespace

int64_t most_parts(const SweepArgs& a) {
  const Tiling tiling(a);
  return (tiling.units() + grain(tiling) - 1) / grain(tiling);
}

int64_t partial_count(const SweepArgs& a) {
  const Tiling tiling(a);
  int64_t rows = a.sums_value(), columns = 0;
  for (int k = 0; k < operand_count(a); ++k) {
    rows += a.sums_gradient(k) || a.sums_rows(k);
    columns += a.sums_columns(k);
  }
  return rows * a.rows * tiling.col_tiles + columns * tiling.groups * a.cols;
}

void run_part(const SweepArgs& a, double* partial, Taken* taken, int64_t parts, int64_t own) {
  const Isa& isa = active_isa();
  if (a.wide) run<double>(a, isa.wide, isa.normals, partial, taken, parts, own);
  else run<float>(a, isa.narrow, isa.normals, partial, taken, parts, own);
}

void finish(const SweepArgs& a, double* partial) {
  const Loops<double>& loops = active_isa().wide;
  const Tiling tiling(a);
  const int64_t col_tiles = tiling.col_tiles;
  // Leaves the row sums in the first a.rows slots of the output that `partial` points at.
  const auto add_tiles = [&] {
    for (int64_t r = 0; r < a.rows && col_tiles != 1; ++r) {
      double s = 0;
      for (int64_t c = 0; c < col_tiles; ++c) s += partial[r * col_tiles + c];
      partial[r] = s;
    }
  };
  if (a.sums_value()) {
    add_tiles();
    if (a.value.data) loops.store[int(a.value.dtype)](partial, a.rows, a.value.data, 1);
    if (a.wants_total()) {
      const double sum = total(a, partial);
      if (a.total) *a.total = sum;
      if (a.loss.data) loops.store[int(a.loss.dtype)](&sum, 1, a.loss.data, 1);
    }
    partial += a.rows * col_tiles;
  }
  for (int k = 0; k < operand_count(a); ++k) {
    const View& g = a.grad[k];
    if (a.sums_columns(k)) {
      if (a.rows == 0) std::fill_n(partial, a.cols, 0.0);  // no tile has written them
      loops.column_sums(partial + a.cols, tiling.groups - 1, a.cols, true, partial);
      loops.store[int(g.dtype)](partial, a.cols, g.data, 1);
      partial += tiling.groups * a.cols;
    } else if (a.sums_gradient(k) || a.sums_rows(k)) {
      add_tiles();
      if (a.sums_rows(k)) {
        loops.store[int(g.dtype)](partial, a.rows, g.data, 1);
      } else {
        const double sum = sum_of(partial, a.rows);
        loops.store[int(g.dtype)](&sum, 1, g.data, 1);
      }
      partial += a.rows * col_tiles;
    }
  }
}

}  // namespace vaefast::cpu
