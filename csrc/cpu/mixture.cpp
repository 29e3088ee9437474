// A mixture on the CPU. All components of a block of pixels are in the second cache at once: their bins are computed
// first, with their derivatives, and multiplied by the components' posterior shares when these are known.
#include <algorithm>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include "blocks.h"
#include "loops.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace vaefast::cpu {
namespace {

// While it lives, results below the least normal number are 0 on x86-64. Far components have posterior shares like
// that, and a processor takes a hundred times as long for a subnormal number.
class FlushesToZero {
 public:
#if defined(__x86_64__)
  FlushesToZero() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | _MM_FLUSH_ZERO_ON); }
  ~FlushesToZero() { _mm_setcsr(saved_); }

 private:
  const unsigned saved_;
#else
  FlushesToZero() {}
#endif
};

template <class T>
class BlockRunner {
 public:
  BlockRunner(const MixtureArgs& a, const Blocks& blocks, const MixtureLoops<T>& loops, const Loops<T>& all)
      : a_(a),
        blocks_(blocks),
        loops_(loops),
        all_(all),
        gradients_(a.wants_gradients()),
        grid_(grid_of(a, all)),
        apart_(blocks.size) {
    const int64_t bins = a.components * a.channels, pairs = a.components * pairs_();
    memory_.reset(static_cast<T*>(::operator new(Blocks::slots(a) * apart_ * sizeof(T), std::align_val_t(64))));
    T* next = memory_.get();
    const auto take = [&](int64_t count) { return std::exchange(next, next + count * apart_); };
    prior_ = take(a.components), posterior_ = take(a.components), x_ = take(a.channels);
    by_mean_ = take(gradients_ ? bins : 0), by_log_scale_ = take(gradients_ ? bins : 0);
    by_coupling_ = take(gradients_ ? pairs : 0), others_ = take(Blocks::kOthers);
  }

  // Memory is asked for the next block's pixels while this one is computed. They are many pieces, each from a page of
  // its own, which processors do not prefetch by themselves.
  void run(int64_t block, int64_t next) {
    row_ = blocks_.row(block), rows_ = blocks_.rows(block);
    pixel_ = blocks_.pixel(block), pixels_ = blocks_.pixels(block);
    next_row_ = blocks_.row(next), next_pixel_ = blocks_.pixel(next);
    const int64_t n = n_ = rows_ * pixels_;
    T *most = other(0), *total = other(1), *prior_total = other(2), *value = other(3);
    for (int64_t m = 0; m < a_.components; ++m) load(a_.parameter[a_.kLogits], m, 0, 1, prior_ + m * apart_);
    loops_.relative(prior_, a_.components, apart_, n, most);
    for (int64_t c = 0; c < a_.channels; ++c) load(a_.x, 0, c, a_.target_scale, x_ + c * apart_);
    for (int64_t m = 0; m < a_.components; ++m) component(m);
    loops_.shares(prior_, a_.components, apart_, n, prior_total);
    loops_.relative(posterior_, a_.components, apart_, n, most);
    loops_.shares(posterior_, a_.components, apart_, n, total);
    loops_.value(most, total, prior_total, n, value);
    if (a_.mask.data) load(a_.mask, 0, 0, 1, other(4));
    store(value, a_.value, 0, 0);
    if (!gradients_) return;
    T* coef = other(5);
    std::fill_n(coef, n, T(a_.scale));
    if (a_.coef.data) load(a_.coef, 0, 0, a_.scale, coef);
    for (int64_t m = 0; m < a_.components; ++m) {
      T *prior = prior_ + m * apart_, *posterior = posterior_ + m * apart_;
      loops_.weigh(posterior, total, prior, prior_total, coef, n);
      store(prior, a_.grad[a_.kLogits], m, 0);
      const int64_t bins = m * a_.channels, pairs = m * pairs_();
      for (int64_t c = 0; c < a_.channels; ++c) {
        store_times(by_mean_ + (bins + c) * apart_, posterior, a_.grad[a_.kMean], m, c);
        store_times(by_log_scale_ + (bins + c) * apart_, posterior, a_.grad[a_.kLogScale], m, c);
      }
      for (int64_t k = 0; k < pairs_(); ++k)
        store_times(by_coupling_ + (pairs + k) * apart_, posterior, a_.grad[a_.kCoupling], m, k);
    }
  }

 private:
  struct Free {
    void operator()(T* memory) const { ::operator delete(memory, std::align_val_t(64)); }
  };

  static MixtureGrid<T> grid_of(const MixtureArgs& a, const Loops<T>& loops) {
    T numbers[] = {0, 0, 1};
    loops.load[int(a.grid.dtype)](a.grid.data, 1, a.has_range ? 3 : 1, 1, numbers);
    return {numbers[0], numbers[1], numbers[2]};
  }

  T* other(int64_t k) { return others_ + k * apart_; }
  int64_t pairs_() const { return a_.parameter[a_.kCoupling].data ? coupling_at(a_.channels, 0) : 0; }

  // Adds the log mass of the bins of component m to its logit, in posterior_.
  void component(int64_t m) {
    T* log_p = posterior_ + m * apart_;
    for (int64_t c = 0; c < a_.channels; ++c) {
      const int64_t bin = (m * a_.channels + c) * apart_, pair = (m * pairs_() + coupling_at(c, 0)) * apart_;
      const T* mean = gather(a_.parameter[a_.kMean], m, c, other(6));
      if (c > 0 && pairs_() > 0) {
        for (int64_t b = 0; b < c; ++b) {
          const T* coupling = gather(a_.parameter[a_.kCoupling], m, coupling_at(c, b), other(7));
          T* slope = gradients_ ? by_coupling_ + pair + b * apart_ : other(8);
          loops_.couple(coupling, x_ + b * apart_, grid_.middle, mean, n_, other(6), slope);
          mean = other(6);
        }
      }
      const T* log_scale = gather(a_.parameter[a_.kLogScale], m, c, other(9));
      const T* from = c == 0 ? prior_ + m * apart_ : log_p;
      loops_.bin[gradients_](mean, x_ + c * apart_, log_scale, grid_, from, n_, log_p, by_mean_ + bin,
                             by_log_scale_ + bin);
      if (!gradients_ || pairs_() == 0) continue;
      for (int64_t b = 0; b < c; ++b)
        loops_.by_coupling(by_mean_ + bin, x_ + b * apart_, grid_.middle, n_, by_coupling_ + pair + b * apart_);
    }
  }

  char* at(const MixtureView& v, int64_t m, int64_t c, int64_t row = 0) const {
    return static_cast<char*>(v.data) + v.offset(row_ + row, m, c, pixel_) * itemsize(v.dtype);
  }

  // Whether a loop can use the block's pixels where they lie.
  bool is_direct(const MixtureView& v) const {
    return v.dtype == (std::is_same_v<T, float> ? DType::f32 : DType::f64) && v.col_stride == 1 && rows_ == 1;
  }

  void fetch(const MixtureView& v, int64_t m, int64_t c) const {
    if (v.col_stride != 1) return;
    const char* next = static_cast<char*>(v.data) + v.offset(next_row_, m, c, next_pixel_) * itemsize(v.dtype);
    for (int64_t i = 0; i < pixels_ * itemsize(v.dtype); i += 64) __builtin_prefetch(next + i);
  }

  // The block's pixels of component m and channel c, in `to`.
  void load(const MixtureView& v, int64_t m, int64_t c, double scale, T* to) const {
    fetch(v, m, c);
    for (int64_t r = 0; r < rows_; ++r)
      all_.load[int(v.dtype)](at(v, m, c, r), v.col_stride, pixels_, scale, to + r * pixels_);
  }
  // The same where they lie, if a loop can read them there.
  const T* gather(const MixtureView& v, int64_t m, int64_t c, T* buffer) const {
    if (is_direct(v)) {
      fetch(v, m, c);
      return reinterpret_cast<const T*>(at(v, m, c));
    }
    load(v, m, c, 1, buffer);
    return buffer;
  }

  void store(T* x, const MixtureView& v, int64_t m, int64_t c) {
    if (!v.data) return;
    fetch(v, m, c);
    if (a_.mask.data) all_.keep(x, other(4), n_);
    for (int64_t r = 0; r < rows_; ++r)
      all_.store[int(v.dtype)](x + r * pixels_, pixels_, at(v, m, c, r), v.col_stride);
  }
  void store_times(T* x, const T* by, const MixtureView& v, int64_t m, int64_t c) {
    if (!v.data) return;
    const bool direct = is_direct(v) && !a_.mask.data;
    T* to = direct ? reinterpret_cast<T*>(at(v, m, c)) : x;
    loops_.product(x, by, n_, to);
    if (direct) fetch(v, m, c);
    else store(x, v, m, c);
  }

  const MixtureArgs& a_;
  const Blocks& blocks_;
  const MixtureLoops<T>& loops_;
  const Loops<T>& all_;
  const bool gradients_;
  const MixtureGrid<T> grid_;
  const int64_t apart_;  // components of a block, from each other
  std::unique_ptr<T, Free> memory_;
  T *prior_, *posterior_, *x_, *by_mean_, *by_log_scale_, *by_coupling_, *others_;
  int64_t row_ = 0, rows_ = 0, pixel_ = 0, pixels_ = 0, n_ = 0, next_row_ = 0, next_pixel_ = 0;
};

template <class T>
void run(const MixtureArgs& a, const MixtureLoops<T>& mixture, const Loops<T>& loops, int64_t begin, int64_t end) {
  const Blocks blocks(a);
  BlockRunner<T> runner(a, blocks, mixture, loops);
  for (int64_t i = begin; i < end; ++i) runner.run(i, std::min(i + 1, blocks.count() - 1));
}

}  // namespace

int64_t block_count(const MixtureArgs& a) { return Blocks(a).count(); }

int64_t grain(const MixtureArgs& a) {
  const int64_t bins = std::max<int64_t>(1, a.components * a.channels) * Blocks(a).size;
  return std::max<int64_t>(1, 16384 / bins);
}

void run_blocks(const MixtureArgs& a, int64_t begin, int64_t end) {
  const FlushesToZero mode;
  const Isa& isa = active_isa();
  if (a.wide) run<double>(a, isa.wide_mixture, isa.wide, begin, end);
  else run<float>(a, isa.narrow_mixture, isa.narrow, begin, end);
}

}  // namespace vaefast::cpu
