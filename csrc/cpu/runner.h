// What a sweep does with a tile: it brings the operands into L1, runs the loops of an instruction set over them, and
// writes the outputs back.
#pragma once

#include "tiles.h"

namespace vaefast::cpu {

template <class T>
class TileRunner {
 public:
  TileRunner(const SweepArgs& args, const Loops<T>& loops, Normals normals, double* partial)
      : a_(args), tiling_(args), loops_(loops), normals_(normals), partial_(partial), far_(is_far(args)) {}

  // `group` is that of the tile's rows, and `first` says whether the tile is the group's first in its columns.
  void run(const Tile& t, int64_t group, bool first) {
    const int operands = operand_count(a_);
    for (int k = 0; k < operands; ++k) {
      const View& g = a_.grad[k];
      operand_[k] = gather(loops_, a_.operand[k], t, a_.factor[k], operand_buffer_[k]);
      const bool direct = g.data && !a_.sums_columns(k) && is_direct<T>(g, t);
      gradient_[k] = direct ? reinterpret_cast<T*>(at(g, t.row, t.col)) : gradient_buffer_[k];
    }
    if (a_.term >= 0) apply_term(t, operands);
    if (a_.sampling.samples > 0) sample(t);

    double* partial = partial_;
    if (a_.sums_value()) {
      View rows;  // row sums, into the partial sums; finish brings them to their place
      scatter(loops_, value_, rows, t, partial, tiling_.col_tiles);
      partial += a_.rows * tiling_.col_tiles;
    } else if (a_.value.data) {
      scatter(loops_, value_, a_.value, t, partial, tiling_.col_tiles);
    }
    for (int k = 0; k < operands; ++k) {
      if (!a_.grad[k].data) continue;
      if (a_.sums_columns(k)) {
        loops_.column_sums(gradient_[k], t.rows, t.cols, !first, partial + group * a_.cols + t.col);
        partial += tiling_.groups * a_.cols;
        continue;
      }
      scatter(loops_, gradient_[k], a_.grad[k], t, partial, tiling_.col_tiles);
      if (a_.grad[k].col_stride == 0) partial += a_.rows * tiling_.col_tiles;
    }
  }

 private:
  bool has_uniform_coef(const Tile& t) const {
    return !a_.coef.data || (a_.coef.col_stride == 0 && (t.rows == 1 || a_.coef.row_stride == 0));
  }

  void apply_term(const Tile& t, int operands) {
    int wanted = 0;
    for (int k = 0; k < operands; ++k) wanted |= (a_.grad[k].data != nullptr) << k;
    const int parameters = Terms::parameters[a_.term], every = (1 << operands) - 1;
    const int computed = wanted <= 1 ? wanted : wanted & ~parameters ? every : parameters;
    const auto* map = computed == 0            ? loops_.value
                      : computed == 1          ? loops_.first
                      : computed == parameters ? loops_.parameters
                                               : loops_.all;
    const int64_t n = t.size();
    const bool uniform = has_uniform_coef(t);
    T coef = T(a_.scale);
    if (a_.coef.data && uniform) {
      T c;
      loops_.load[int(a_.coef.dtype)](at(a_.coef, t.row, t.col), 0, 1, 1, &c);
      coef = T(a_.scale * c);
    }
    evaluate(t, operands, map[a_.term], coef);

    const auto each_gradient = [&](auto change) {
      for (int k = 0; k < operands; ++k) {
        if (computed >> k & 1) change(k);
      }
    };
    if (!uniform && computed != 0) {
      const T* c = gather(loops_, a_.coef, t, 1, scratch_);
      each_gradient([&](int k) { loops_.multiply(gradient_[k], c, n); });
    }
    if (a_.mask.data) {
      const T* mask = gather(loops_, a_.mask, t, 1, scratch_);
      loops_.keep(value_, mask, n);
      each_gradient([&](int k) { loops_.keep(gradient_[k], mask, n); });
    }
    each_gradient([&](int k) {  // the chain rule through the factors
      if (a_.factor[k] != 1) loops_.load[int(kComputeType<T>)](gradient_[k], 1, n, a_.factor[k], gradient_[k]);
    });
  }

  void evaluate(const Tile& t, int operands, typename Loops<T>::Map map, T coef) {
    const int64_t n = t.size();
    Lines lines[2 * kMaxOperands];
    bool asks = false;
    for (int k = 0; far_ && k < operands; ++k) {
      lines[2 * k] = operand_lines(k, t, kAhead);
      lines[2 * k + 1] = gradient_lines(k, t);
      asks |= lines[2 * k].given() || lines[2 * k + 1].given();
    }
    if (!asks) {
      prepare(operand_, n, value_);
      map(operand_, n, coef, value_, gradient_);
      return;
    }
    // Chunks have like sizes, in multiples of 16, so that vectors end where they do in a tile that is not cut.
    const int64_t chunks = std::max<int64_t>(1, n / kChunk), chunk = ((n + chunks - 1) / chunks + 15) / 16 * 16;
    for (int64_t begin = 0; begin < n; begin += chunk) {
      const int64_t size = std::min(chunk, n - begin);
      const T* operand[kMaxOperands];
      T* gradient[kMaxOperands];
      for (int k = 0; k < operands; ++k) {
        operand[k] = operand_[k] + begin;
        gradient[k] = gradient_[k] + begin;
      }
      for (const Lines& l : lines) l.fetch(begin, size);
      prepare(operand, size, value_ + begin);
      map(operand, size, coef, value_ + begin, gradient);
    }
  }

  // What to prefetch of operand k: the next tile, where this one is in a buffer already.
  Lines operand_lines(int k, const Tile& t, int64_t ahead) const {
    if (operand_[k] == operand_buffer_[k]) return Lines(a_.operand[k], t, t.size());
    return ahead == 0 || asks_in_order() ? Lines(a_.operand[k], t, ahead) : Lines();
  }
  Lines gradient_lines(int k, const Tile& t) const {
    if (gradient_[k] == gradient_buffer_[k]) return Lines(a_.grad[k], t, 0);
    return asks_in_order() ? Lines(a_.grad[k], t, kAhead) : Lines();
  }

  void prepare(const T* const* operand, int64_t n, T* value) {
    const int from = Terms::prepared_from[a_.term];
    if (from == 0 || n == 0) return;
    bool one = true;
    for (int k = 0; k < Terms::arity[a_.term]; ++k) one &= !(from >> k & 1) || is_one_number(a_.operand[k]);
    loops_.prepare[a_.term](operand, one ? 1 : n, value);
    if (one) loops_.load[int(kComputeType<T>)](value, 0, n, 1, value);
  }

  void sample(const Tile& t) {
    const Sampling& s = a_.sampling;
    const int64_t n = t.size();
    const NoiseKey key = s.key.resolved();
    const bool backward = s.grad_z.data != nullptr;
    // z's derivative by operand 1 is `slope` times stddev times eps; 1 for a stddev that is this operand
    const T slope = s.by_scale ? T(1) : T(0.5 * a_.factor[1]), one = 1;
    const T* stddev = s.by_scale && !backward ? operand_[1] : stddev_;
    for (int64_t k = 0; k < s.samples; ++k) {
      const int64_t row = k * a_.rows + t.row;
      const uint64_t first = uint64_t(row) * uint64_t(a_.cols) + uint64_t(t.col);
      const Tile out{row, t.col, t.rows, t.cols};
      draw(key, first, t, out);
      const float* eps = normal_buffer_ + first % 4;
      if (k == 0 && stddev == stddev_) {  // after the noise, during which memory brought operand 1
        if (s.by_scale) loops_.load[int(kComputeType<T>)](&one, 0, n, 1, stddev_);
        else loops_.stddev(operand_[1], n, stddev_);
      }
      if (backward) {
        const bool add = a_.term >= 0 || k > 0;
        const T* grad_z = gather(loops_, s.grad_z, out, 1, scratch_);
        loops_.adjoint[add](grad_z, stddev, slope, eps, n, gradient_[0], gradient_[1]);
      } else {
        T* z = is_direct<T>(s.z, out) ? reinterpret_cast<T*>(at(s.z, out.row, out.col)) : scratch_;
        loops_.reparameterize(operand_[0], stddev, eps, n, z);
        scatter(loops_, z, s.z, out, partial_, tiling_.col_tiles);
      }
    }
  }

  // Makes the tile's noise, from element `first` on, while memory brings what is read and written after it.
  void draw(const NoiseKey& key, uint64_t first, const Tile& t, const Tile& out) {
    const int64_t blocks = (int64_t(first % 4) + t.size() + 3) / 4;
    if (!far_) return normals_(key.seed, key.offset, first / 4, blocks, normal_buffer_);
    const Sampling& s = a_.sampling;
    const Lines lines[] = {s.grad_z.data ? Lines() : operand_lines(0, t, 0),
                           operand_lines(1, t, 0),
                           Lines(a_.grad[0], t, 0),
                           Lines(a_.grad[1], t, 0),
                           Lines(s.z, out, 0),
                           Lines(s.grad_z, out, 0)};
    constexpr int64_t chunk = kNoiseChunk / 4;
    for (int64_t b = 0; b < blocks; b += chunk) {
      for (const Lines& l : lines) l.fetch(4 * b, kNoiseChunk);
      normals_(key.seed, key.offset, first / 4 + b, std::min(chunk, blocks - b), normal_buffer_ + 4 * b);
    }
  }

  // In elements: a chunk, a chunk of noise, and how far ahead to prefetch. Smaller and larger ones took longer.
  static constexpr int64_t kChunk = 256, kNoiseChunk = 128, kAhead = 512;

  const SweepArgs& a_;
  const Tiling tiling_;
  const Loops<T>& loops_;
  const Normals normals_;
  double* const partial_;
  const bool far_;
  const T* operand_[kMaxOperands];  // of the tile
  T* gradient_[kMaxOperands];
  alignas(64) T operand_buffer_[kMaxOperands][kTile], gradient_buffer_[kMaxOperands][kTile];
  alignas(64) T value_[kTile], scratch_[kTile], stddev_[kTile];
  alignas(64) float normal_buffer_[kTile + 128];  // a tile, its start within a block of 4, and one whole vector
};

}  // namespace vaefast::cpu
