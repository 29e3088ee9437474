// The tiles that a sweep is cut into, and how they get into L1, in the compute type, and back to memory.
#pragma once

#include <algorithm>
#include <type_traits>

#include "loops.h"

namespace vaefast::cpu {

// Whole rows where they are short, part of one row where it is long.
struct Tiling {
  int64_t rows_per_tile, row_tiles, col_tiles;

  explicit Tiling(const SweepArgs& a) {
    rows_per_tile = std::max<int64_t>(1, kTile / std::max<int64_t>(1, a.cols));
    row_tiles = (a.rows + rows_per_tile - 1) / rows_per_tile;
    col_tiles = std::max<int64_t>(1, (a.cols + kTile - 1) / kTile);  // empty rows have a sum, too
  }
};

struct Tile {
  int64_t row, col, rows, cols;  // first row and column, and how many

  int64_t size() const { return rows * cols; }
};

inline char* at(const View& v, int64_t row, int64_t col) {
  return static_cast<char*>(v.data) + (row * v.row_stride + col * v.col_stride) * itemsize(v.dtype);
}

template <class T>
constexpr DType kComputeType = std::is_same_v<T, float> ? DType::f32 : DType::f64;

// Whether the tile's elements of v lie one after another; directly, as the loops take them.
inline bool is_contiguous(const View& v, const Tile& t) {
  return v.col_stride == 1 && (t.rows == 1 || v.row_stride == t.cols);
}
template <class T>
bool is_direct(const View& v, const Tile& t) {
  return v.dtype == kComputeType<T> && is_contiguous(v, t);
}

inline bool is_one_number(const View& v) { return v.row_stride == 0 && v.col_stride == 0; }

// The tile of v as contiguous T: where it lies if it is that already, else brought into `buffer`.
template <class T>
const T* gather(const Loops<T>& loops, const View& v, const Tile& t, double scale, T* buffer) {
  if (scale == 1 && is_direct<T>(v, t)) return reinterpret_cast<const T*>(at(v, t.row, t.col));
  const auto load = loops.load[int(v.dtype)];
  if (is_one_number(v) || is_contiguous(v, t)) {
    load(at(v, t.row, t.col), v.col_stride, t.size(), scale, buffer);
  } else {
    for (int64_t r = 0; r < t.rows; ++r)
      load(at(v, t.row + r, t.col), v.col_stride, t.cols, scale, buffer + r * t.cols);
  }
  return buffer;
}

// Writes a tile out: elementwise, or its row sums into `partial`.
template <class T>
void scatter(const Loops<T>& loops, const T* x, const View& v, const Tile& t, double* partial, int64_t col_tiles) {
  if (v.col_stride == 0) {
    loops.sums(x, t.rows, t.cols, partial + t.row * col_tiles + t.col / kTile, col_tiles);
  } else if (x != reinterpret_cast<const T*>(at(v, t.row, t.col))) {
    const auto store = loops.store[int(v.dtype)];
    if (is_contiguous(v, t)) return store(x, t.size(), at(v, t.row, t.col));
    for (int64_t r = 0; r < t.rows; ++r) store(x + r * t.cols, t.cols, at(v, t.row + r, t.col));
  }
}

// Whether a sweep is so large that asking memory ahead pays. Its tiles are then computed in chunks, before each of
// which memory is asked for what comes next: processors do so by themselves, but only up to the end of a page. In the
// cache the requests cost more than they bring; beside noise, which takes longer, they pay from fewer elements on.
inline bool is_far(const SweepArgs& a) {
  const int64_t samples = a.sampling.samples, elements = a.rows * a.cols * std::max<int64_t>(1, samples);
  return elements >= int64_t(1) << (samples > 0 ? 18 : 22);
}

// Whether that includes what a loop reads or writes in order, one element after another. AMD's processors bring it by
// themselves: on Zen 4, asking for it made a loss take 1.15 times as long, where on an Intel one it takes 0.66.
inline bool asks_in_order() {
#if defined(__x86_64__)
  static const bool intel = __builtin_cpu_is("intel");
  return intel;
#else
  return false;
#endif
}

// The lines in memory of a tile's elements, or of those `ahead` of them, where they lie one after another.
class Lines {
 public:
  Lines() = default;
  Lines(const View& v, const Tile& t, int64_t ahead) {
    if (!v.data || v.col_stride == 0 || !is_contiguous(v, t)) return;
    itemsize_ = itemsize(v.dtype);
    first_ = reinterpret_cast<uintptr_t>(at(v, t.row, t.col)) + ahead * itemsize_;
  }

  bool given() const { return itemsize_ > 0; }

  void fetch(int64_t begin, int64_t size) const {
    for (int64_t i = begin * itemsize_; i < (begin + size) * itemsize_; i += 64)
      __builtin_prefetch(reinterpret_cast<const void*>(first_ + i));
  }

 private:
  uintptr_t first_ = 0;  // may lie beyond the tensor
  int64_t itemsize_ = 0;
};

}  // namespace vaefast::cpu
