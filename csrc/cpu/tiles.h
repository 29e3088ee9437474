// The tiles that a sweep is cut into. They are brought into L1 in the compute type, and written back to memory.
#pragma once

#include <algorithm>
#include <type_traits>

#include "loops.h"

namespace vaefast::cpu {

inline int operand_count(const SweepArgs& a) { return a.term < 0 ? 2 : Terms::arity[a.term]; }

struct Tile {
  int64_t row, col, rows, cols;  // first row and column, and how many

  int64_t size() const { return rows * cols; }
};

// A tile is whole rows where rows are short, and part of one row where they are long. A thread runs a unit of tiles at
// a time: one tile, or where a gradient is summed over columns, those of a group of rows in a strip of columns. A strip
// is up to four tiles wide, because a narrower one reads memory in pieces that are too short for it to be brought
// ahead.
struct Tiling {
  static constexpr int64_t kGroup = 16, kMostGroups = 64;  // row tiles of a group, and groups whose sums memory holds
  static constexpr int64_t kStrip = 4;                     // column tiles

  int64_t rows_per_tile, row_tiles, col_tiles, groups, strips;

  explicit Tiling(const SweepArgs& a) : rows_(a.rows), cols_(a.cols) {
    rows_per_tile = std::max<int64_t>(1, kTile / std::max<int64_t>(1, a.cols));
    row_tiles = (a.rows + rows_per_tile - 1) / rows_per_tile;
    col_tiles = std::max<int64_t>(1, (a.cols + kTile - 1) / kTile);  // also for empty rows, which have a sum
    bool columns = false;
    for (int k = 0; k < operand_count(a); ++k) columns |= a.sums_columns(k);
    const int64_t several = std::min(kMostGroups, (row_tiles + kGroup - 1) / kGroup);
    groups = columns ? std::max<int64_t>(1, several) : row_tiles;
    strips = columns ? (col_tiles + kStrip - 1) / kStrip : col_tiles;
  }

  int64_t units() const { return groups * strips; }
  int64_t unit_size() const {  // in tiles
    return groups == 0 ? 1 : std::max<int64_t>(1, row_tiles / groups * (col_tiles / strips));
  }

  // Runs run(tile, group, is_first) over the tiles of a unit, in order.
  template <class Run>
  void each_tile(int64_t unit, Run run) const {
    const int64_t group = unit / strips, strip = unit % strips;
    const int64_t first = row_tiles * group / groups, end = row_tiles * (group + 1) / groups;
    for (int64_t i = first; i < end; ++i) {
      const int64_t row = i * rows_per_tile;
      for (int64_t c = col_tiles * strip / strips; c < col_tiles * (strip + 1) / strips; ++c) {
        const int64_t col = c * kTile;
        run(Tile{row, col, std::min(rows_per_tile, rows_ - row), std::min(kTile, cols_ - col)}, group, i == first);
      }
    }
  }

 private:
  int64_t rows_, cols_;
};

inline char* at(const View& v, int64_t row, int64_t col) {
  return static_cast<char*>(v.data) + (row * v.row_stride + col * v.col_stride) * itemsize(v.dtype);
}

template <class T>
constexpr DType kComputeType = std::is_same_v<T, float> ? DType::f32 : DType::f64;

// Whether the tile's elements of v lie one after another.
inline bool is_contiguous(const View& v, const Tile& t) {
  return v.col_stride == 1 && (t.rows == 1 || v.row_stride == t.cols);
}
// Whether a loop can use them where they lie: they are also of the compute type.
template <class T>
bool is_direct(const View& v, const Tile& t) {
  return v.dtype == kComputeType<T> && is_contiguous(v, t);
}

inline bool is_one_number(const View& v) { return v.row_stride == 0 && v.col_stride == 0; }

// The tile of v as contiguous T: in its place if it is that already, otherwise in `buffer`.
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

// Writes a tile element by element, or its row sums into `partial`.
template <class T>
void scatter(const Loops<T>& loops, const T* x, const View& v, const Tile& t, double* partial, int64_t col_tiles) {
  if (v.col_stride == 0) {
    loops.sums(x, t.rows, t.cols, partial + t.row * col_tiles + t.col / kTile, col_tiles);
  } else if (x != reinterpret_cast<const T*>(at(v, t.row, t.col))) {
    const auto store = loops.store[int(v.dtype)];
    if (is_contiguous(v, t)) return store(x, t.size(), at(v, t.row, t.col), 1);
    for (int64_t r = 0; r < t.rows; ++r) store(x + r * t.cols, t.cols, at(v, t.row + r, t.col), 1);
  }
}

// Whether a sweep is so large that prefetching pays. Its tiles are then computed in chunks, and before each chunk
// memory is asked for the next. Processors prefetch by themselves, but only up to the end of a page. What lies in the
// cache gains less than the requests cost. Beside noise, which takes longer, prefetching pays from fewer elements on.
inline bool is_far(const SweepArgs& a) {
  const int64_t samples = a.sampling.samples, elements = a.rows * a.cols * std::max<int64_t>(1, samples);
  return elements >= int64_t(1) << (samples > 0 ? 18 : 22);
}

// Whether to prefetch also what a loop reads or writes in order. AMD's processors bring it by themselves: prefetching
// made a loss take 1.15 times as long on Zen 4, and 0.66 times as long on an Intel processor.
inline bool asks_in_order() {
#if defined(__x86_64__)
  static const bool intel = __builtin_cpu_is("intel");
  return intel;
#else
  return false;
#endif
}

// The cache lines of a tile's elements, or of those that lie `ahead` of them; none where they are not contiguous.
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
