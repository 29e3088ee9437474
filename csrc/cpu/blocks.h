// The blocks of pixels that a mixture is cut into.
#pragma once

#include <algorithm>

#include "../kernels.h"

namespace vaefast::cpu {

// Blocks are part of a row where rows are long, and several rows where they are short. A block is as large as the
// second cache allows: its components are read in pieces that are far apart, and memory brings long pieces in half the
// time. Where a pixel's components lie side by side, a block has few pixels, which the first cache holds while the
// components are read one after another.
struct Blocks {
  int64_t size, rows_per_block, per_row;  // size: pixels, at most

  explicit Blocks(const MixtureArgs& a) : size(kLeast), a_(a) {
    if (a.parameter[a.kMean].col_stride == 1) {
      const int64_t fit = kCache / ((a.wide ? 8 : 4) * slots(a));
      size = std::min(std::clamp(fit / kLeast * kLeast, kLeast, kMost), rounded(a.pixels));
      while (size > kLeast && a.rows * per_row_of(size) < kEnough) size = std::max(kLeast, size / 2);
    }
    rows_per_block = std::max<int64_t>(1, kLeast / std::max<int64_t>(1, a.pixels));
    per_row = per_row_of(size);
  }

  // How many numbers are kept of a pixel: its data, components and shares, the derivatives of each bin, and some
  // others.
  static int64_t slots(const MixtureArgs& a) {
    const int64_t pairs = a.parameter[a.kCoupling].data ? coupling_at(a.channels, 0) : 0;
    const int64_t derivatives = a.wants_gradients() ? a.components * (2 * a.channels + pairs) : 0;
    return 2 * a.components + a.channels + derivatives + kOthers;
  }
  int64_t count() const { return per_row * ((a_.rows + rows_per_block - 1) / rows_per_block); }
  int64_t row(int64_t block) const { return block / per_row * rows_per_block; }
  int64_t rows(int64_t block) const { return std::min(rows_per_block, a_.rows - row(block)); }
  int64_t pixel(int64_t block) const { return block % per_row * size; }
  int64_t pixels(int64_t block) const { return std::min(size, a_.pixels - pixel(block)); }

  static constexpr int64_t kOthers = 10;

 private:
  static constexpr int64_t kLeast = 64, kMost = 512;  // pixels
  static constexpr int64_t kCache = 256 << 10;        // bytes, half of a small second cache
  static constexpr int64_t kEnough = 64;              // blocks, for the threads

  static int64_t rounded(int64_t pixels) { return std::max<int64_t>(1, (pixels + kLeast - 1) / kLeast) * kLeast; }
  int64_t per_row_of(int64_t pixels) const { return (a_.pixels + pixels - 1) / pixels; }

  const MixtureArgs& a_;
};

}  // namespace vaefast::cpu
