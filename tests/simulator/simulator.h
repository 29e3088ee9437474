// Stands for CUDA where the kernels of csrc/cuda are compiled for the CPU: one block at a time, its threads as fibers
// that yield at barriers and shuffles. Shared memory is static storage. Threads run in turn, forwards and backwards, so
// that a missing barrier shows; lanes that do not meet at a shuffle end the program.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <vector>

#define __device__
#define __global__
#define __grid_constant__
#define __shared__ static
#define __launch_bounds__(...)

namespace vaefast::cuda {

using std::min;

struct Index {
  unsigned x;
};
inline Index threadIdx, blockIdx, gridDim;

class Simulator {
 public:
  static Simulator& get() {
    static Simulator simulator;
    return simulator;
  }

  template <class Args>
  void launch(void (*kernel)(Args), unsigned blocks, unsigned threads, const Args& args) {
    const std::lock_guard<std::mutex> lock(mutex_);
    body_ = [&] { kernel(args); };
    gridDim.x = blocks;
    for (unsigned b = 0; b < blocks; ++b) {
      blockIdx.x = b;
      run_block(threads);
    }
  }

  void barrier() { yield(kBarrier); }

  // What the lane whose number differs by the bits of `mask` has brought.
  template <class T>
  T exchange(T x, unsigned mask) {
    const unsigned self = threadIdx.x;
    memcpy(fibers_[self].brought, &x, sizeof(T));
    yield(kShuffle);
    T theirs;
    memcpy(&theirs, fibers_[self ^ mask].brought, sizeof(T));
    yield(kShuffle);  // nobody brings the next value before all have read this one
    return theirs;
  }

 private:
  enum State { kReady, kBarrier, kShuffle, kDone };
  struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(128 << 10);
    State state;
    char brought[16];
  };

  static void enter() {
    Simulator& s = get();
    s.body_();
    s.fibers_[threadIdx.x].state = kDone;
  }

  void yield(State state) {
    Fiber& f = fibers_[threadIdx.x];
    f.state = state;
    swapcontext(&f.context, &scheduler_);
  }

  bool all(unsigned begin, unsigned end, State state) const {
    return std::all_of(fibers_.begin() + begin, fibers_.begin() + end,
                       [&](const Fiber& f) { return f.state == state; });
  }
  void release(unsigned begin, unsigned end) {
    for (unsigned t = begin; t < end; ++t) fibers_[t].state = kReady;
  }

  void run_block(unsigned threads) {
    while (fibers_.size() < threads) fibers_.emplace_back();
    for (Fiber& f : fibers_) {
      f.state = kReady;
      getcontext(&f.context);
      f.context.uc_stack.ss_sp = f.stack.data();
      f.context.uc_stack.ss_size = f.stack.size();
      f.context.uc_link = &scheduler_;
      makecontext(&f.context, enter, 0);
    }
    for (bool backwards = false; !all(0, threads, kDone); backwards = !backwards) {
      bool progress = false;
      for (unsigned i = 0; i < threads; ++i) {
        threadIdx.x = backwards ? threads - 1 - i : i;
        if (fibers_[threadIdx.x].state != kReady) continue;
        swapcontext(&scheduler_, &fibers_[threadIdx.x].context);
        progress = true;
      }
      for (unsigned warp = 0; warp < threads; warp += 32) {
        if (all(warp, warp + 32, kShuffle)) release(warp, warp + 32), progress = true;
      }
      if (all(0, threads, kBarrier)) release(0, threads), progress = true;
      if (!progress) {
        fprintf(stderr, "simulator: threads of a block wait for each other\n");
        abort();
      }
    }
  }

  std::mutex mutex_;
  std::function<void()> body_;
  std::vector<Fiber> fibers_;
  ucontext_t scheduler_;
};

inline void __syncthreads() { Simulator::get().barrier(); }
inline void __threadfence() {}
template <class T>
T __shfl_xor_sync(uint32_t, T x, int mask) {
  return Simulator::get().exchange(x, unsigned(mask));
}
inline unsigned atomicAdd(unsigned* to, unsigned x) { return std::exchange(*to, *to + x); }

template <class Args>
void launch(void (*kernel)(Args), unsigned blocks, unsigned threads, void*, const Args& args) {
  Simulator::get().launch(kernel, blocks, threads, args);
}
inline void clear(void* memory, size_t bytes, void*) { memset(memory, 0, bytes); }

}  // namespace vaefast::cuda
