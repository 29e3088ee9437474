// The CPU's sweeps from 8 threads at once, without torch and OpenMP, whose
// library ThreadSanitizer cannot see into: whole sweeps over shared inputs, the
// choice of the instruction set among them, and one sweep in parts, of which a
// thread takes what others have left. `threads ROUNDS TYPES` prints how many
// sweeps ran, and ends with 1 where a bit differs from the same sweep in one
// thread.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "../../csrc/kernels.h"

namespace {

using namespace vaefast;

constexpr int kThreads = 8;
constexpr int64_t kRows = 7, kCols = 1500, kSamples = 2;  // two tiles a row
constexpr int64_t kMost = kSamples * kRows * kCols;

// Numbers between 0 and 1 in every type, the mask's zeros among the bytes.
struct Inputs {
  std::vector<float> f32;
  std::vector<double> f64;
  std::vector<uint16_t> bf16, f16;
  std::vector<uint8_t> u8;

  Inputs() {
    for (int64_t i = 0; i < kMost; ++i) {
      const uint32_t word = uint32_t(i) * 2654435761u >> 16;
      f32.push_back(float(word % 1021 + 1) / 1024);
      f64.push_back(double(word % 1019 + 1) / 1024);
      bf16.push_back(uint16_t(0x3e80 + word % 0xff));
      f16.push_back(uint16_t(0x3400 + word % 0x7ff));
      u8.push_back(uint8_t(word % 2));
    }
  }

  View view(DType dtype) const {
    const void* data[] = {f32.data(), f64.data(), bf16.data(), f16.data(), u8.data()};
    return {const_cast<void*>(data[int(dtype)]), dtype, kCols, 1};
  }
};

struct Work {
  SweepArgs args;
  std::vector<std::vector<char>> outputs;
  std::vector<double> partial;

  View output(DType dtype, int64_t rows, int64_t cols) {
    outputs.emplace_back(size_t(rows * cols * itemsize(dtype)));
    return {outputs.back().data(), dtype, cols == 1 ? 1 : cols, cols == 1 ? 0 : 1};
  }

  // term -1: samples. Variants: row sums and a total; elements under a mask
  // with a coefficient each; a gradient that is a sum.
  Work(const Inputs& in, int term, DType dtype, int variant) {
    outputs.reserve(16);
    SweepArgs& a = args;
    a.term = term;
    a.wide = dtype == DType::f64;
    a.rows = kRows;
    a.cols = kCols;
    const DType sums = a.wide ? DType::f64 : DType::f32;
    const int operands = term < 0 ? 2 : Terms::arity[term];
    const bool forward = term < 0 && variant == 0;
    for (int k = 0; k < operands; ++k) {
      const bool bytes = variant == 1 && term >= 0 && k == Terms::target[term];
      a.operand[k] = in.view(bytes ? DType::u8 : dtype);
      if (!forward) a.grad[k] = output(dtype, kRows, kCols);
    }
    if (term < 0) {
      a.sampling.samples = kSamples;
      a.sampling.by_scale = variant == 1;
      a.sampling.key.seed = 42;
      if (forward) a.sampling.z = output(dtype, kSamples * kRows, kCols);
      else a.sampling.grad_z = in.view(dtype);
      return;
    }
    if (variant == 1) {
      a.value = output(sums, kRows, kCols);
      a.mask = in.view(DType::u8);
      a.coef = in.view(sums);
      const int k = Terms::target[a.term];
      a.factor[k >= 0 ? k : 1] = 0.5;
    } else {
      a.value = output(sums, kRows, 1);
      a.loss = output(sums, 1, 1);
      a.loss.row_stride = 0;
    }
    if (variant == 2) {
      a.grad[0] = output(dtype, 1, 1);
      a.grad[0].row_stride = 0;
    }
  }
  Work(const Work&) = delete;

  void run(cpu::Taken* taken, int64_t parts, int64_t own) {
    cpu::run_part(args, partial.data(), taken, parts, own);
  }
  void start() { partial.assign(size_t(cpu::partial_count(args)) + 1, 0); }
  void whole() {
    start();
    cpu::Taken taken;
    run(&taken, 1, 0);
    cpu::finish(args, partial.data());
  }
};

void in_threads(const auto& body) {
  std::atomic<bool> go{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      while (!go.load(std::memory_order_relaxed)) {
      }  // orders nothing, so that only the code under test can
      body(t);
    });
  }
  go.store(true, std::memory_order_relaxed);
  for (std::thread& t : threads) t.join();
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? atoi(argv[1]) : 1, types = argc > 2 ? atoi(argv[2]) : 4;
  const Inputs in;
  int64_t sweeps = 0, different = 0;
  for (int round = 0; round < rounds; ++round) {
    cpu::use_isa(-1);  // unset: the first sweeps choose
    for (int term = -1; term < Terms::size; ++term) {
      for (int type = 0; type < types; ++type) {
        const DType dtype = DType(type);
        for (int variant = 0; variant < (term < 0 ? 2 : 3); ++variant) {
          std::vector<std::vector<std::vector<char>>> found(kThreads);
          in_threads([&](int t) {
            Work w(in, term, dtype, variant);
            w.whole();
            found[size_t(t)] = w.outputs;
          });
          Work alone(in, term, dtype, variant), shared(in, term, dtype, variant);
          alone.whole();
          shared.start();
          cpu::Taken taken[kThreads];
          in_threads([&](int t) { shared.run(taken, kThreads, t); });
          cpu::finish(shared.args, shared.partial.data());
          found.push_back(shared.outputs);
          for (const auto& each : found) different += each != alone.outputs;
          sweeps += kThreads + 2;
        }
      }
    }
  }
  printf("%lld sweeps, %lld different\n", static_cast<long long>(sweeps), static_cast<long long>(different));
  return different != 0;
}
