// A tile of a sweep: where it lies, and what is done with it. Operands are brought into L1 in the compute type where
// they are not there already, the loops of an instruction set run over them, and the outputs are written back.
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
    double* slot = partial + t.row * col_tiles + t.col / kTile;
    for (int64_t r = 0; r < t.rows; ++r) slot[r * col_tiles] = loops.sum(x + r * t.cols, t.cols);
  } else if (x != reinterpret_cast<const T*>(at(v, t.row, t.col))) {
    const auto store = loops.store[int(v.dtype)];
    if (is_contiguous(v, t)) return store(x, t.size(), at(v, t.row, t.col));
    for (int64_t r = 0; r < t.rows; ++r) store(x + r * t.cols, t.cols, at(v, t.row + r, t.col));
  }
}

inline int operand_count(const SweepArgs& a) { return a.term < 0 ? 2 : Terms::arity[a.term]; }

template <class T>
class TileRunner {
 public:
  TileRunner(const SweepArgs& args, const Loops<T>& loops, Normals normals, double* partial)
      : a_(args), tiling_(args), loops_(loops), normals_(normals), partial_(partial) {}

  void run(const Tile& t) {
    const int operands = operand_count(a_);
    for (int k = 0; k < operands; ++k) {
      const double scale = a_.term >= 0 && k == Terms::target[a_.term] ? a_.target_scale : 1;
      const View& g = a_.grad[k];
      operand_[k] = gather(loops_, a_.operand[k], t, scale, operand_buffer_[k]);
      gradient_[k] = g.data && is_direct<T>(g, t) ? reinterpret_cast<T*>(at(g, t.row, t.col)) : gradient_buffer_[k];
    }
    if (a_.term >= 0) apply_term(t, operands);
    if (a_.sampling.samples > 0) sample(t);

    double* partial = partial_;
    if (a_.sums_value()) {
      View rows;  // row sums, wherever they go from the partial sums
      scatter(loops_, value_, rows, t, partial, tiling_.col_tiles);
      partial += a_.rows * tiling_.col_tiles;
    } else if (a_.value.data) {
      scatter(loops_, value_, a_.value, t, partial, tiling_.col_tiles);
    }
    for (int k = 0; k < operands; ++k) {
      if (!a_.grad[k].data) continue;
      scatter(loops_, gradient_[k], a_.grad[k], t, partial, tiling_.col_tiles);
      if (a_.sums_gradient(k)) partial += a_.rows * tiling_.col_tiles;
    }
  }

 private:
  bool has_uniform_coef(const Tile& t) const {
    return !a_.coef.data || (a_.coef.col_stride == 0 && (t.rows == 1 || a_.coef.row_stride == 0));
  }

  void apply_term(const Tile& t, int operands) {
    bool any = false, beyond_first = false;
    for (int k = 0; k < operands; ++k) {
      any |= a_.grad[k].data != nullptr;
      beyond_first |= k > 0 && a_.grad[k].data;
    }
    const auto* map = !any ? loops_.value : beyond_first ? loops_.all : loops_.first;
    const int64_t n = t.size();
    const bool uniform = has_uniform_coef(t);
    T coef = T(a_.scale);
    if (a_.coef.data && uniform) {
      T c;
      loops_.load[int(a_.coef.dtype)](at(a_.coef, t.row, t.col), 0, 1, 1, &c);
      coef = T(a_.scale * c);
    }
    prepare(n);
    map[a_.term](operand_, n, coef, value_, gradient_);

    const int computed = !any ? 0 : beyond_first ? operands : 1;
    if (!uniform && computed > 0) {
      const T* c = gather(loops_, a_.coef, t, 1, scratch_);
      for (int k = 0; k < computed; ++k) loops_.multiply(gradient_[k], c, n);
    }
    if (a_.mask.data) {
      const T* mask = gather(loops_, a_.mask, t, 1, scratch_);
      loops_.keep(value_, mask, n);
      for (int k = 0; k < computed; ++k) loops_.keep(gradient_[k], mask, n);
    }
    if (const int k = Terms::target[a_.term]; k >= 0 && k < computed && a_.target_scale != 1) {
      // the chain rule through x * target_scale
      loops_.load[int(kComputeType<T>)](gradient_[k], 1, n, a_.target_scale, gradient_[k]);
    }
  }

  void prepare(int64_t n) {
    const int from = Terms::prepared_from[a_.term];
    if (from == 0 || n == 0) return;
    bool one = true;
    for (int k = 0; k < Terms::arity[a_.term]; ++k) one &= !(from >> k & 1) || is_one_number(a_.operand[k]);
    loops_.prepare[a_.term](operand_, one ? 1 : n, value_);
    if (one) loops_.load[int(kComputeType<T>)](value_, 0, n, 1, value_);
  }

  void sample(const Tile& t) {
    const Sampling& s = a_.sampling;
    const int64_t n = t.size();
    const NoiseKey key = s.key.resolved();
    const bool backward = s.grad_z.data != nullptr;
    loops_.stddev(operand_[1], n, stddev_);
    for (int64_t k = 0; k < s.samples; ++k) {
      const int64_t row = k * a_.rows + t.row;
      const uint64_t first = uint64_t(row) * uint64_t(a_.cols) + uint64_t(t.col);
      normals_(key.seed, key.offset, first / 4, (int64_t(first % 4) + n + 3) / 4, normal_buffer_);
      const float* eps = normal_buffer_ + first % 4;
      const Tile out{row, t.col, t.rows, t.cols};
      if (backward) {
        const bool add = a_.term >= 0 || k > 0;
        const T* grad_z = gather(loops_, s.grad_z, out, 1, scratch_);
        loops_.adjoint[add](grad_z, stddev_, eps, n, gradient_[0], gradient_[1]);
      } else {
        T* z = is_direct<T>(s.z, out) ? reinterpret_cast<T*>(at(s.z, out.row, out.col)) : scratch_;
        loops_.reparameterize(operand_[0], stddev_, eps, n, z);
        scatter(loops_, z, s.z, out, partial_, tiling_.col_tiles);
      }
    }
  }

  const SweepArgs& a_;
  const Tiling tiling_;
  const Loops<T>& loops_;
  const Normals normals_;
  double* const partial_;
  const T* operand_[kMaxOperands];  // of the tile
  T* gradient_[kMaxOperands];
  alignas(64) T operand_buffer_[kMaxOperands][kTile], gradient_buffer_[kMaxOperands][kTile];
  alignas(64) T value_[kTile], scratch_[kTile], stddev_[kTile];
  alignas(64) float normal_buffer_[kTile + 128];  // a tile, its start within a block of 4, and a whole vector more
};

}  // namespace vaefast::cpu
