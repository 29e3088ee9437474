#include "buffers.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>
#include <pthread.h>
#include <sys/mman.h>

#include <cstdlib>
#include <list>
#include <mutex>

namespace vaefast {
namespace {

constexpr size_t kLarge = size_t(64) << 10;  // malloc recycles smaller blocks by itself
constexpr size_t kHugePage = size_t(2) << 20;

struct Block {
  void* data;
  size_t bytes;
  std::list<Block>::iterator place;  // the block's own, in one of the cache's lists
};

// Blocks change lists by splicing, which cannot fail: a tensor's destructor may not throw.
struct Cache {
  std::mutex mutex;
  std::list<Block> used, free;  // free: the most recently freed last
  size_t bytes = 0;             // of the free ones
};

Cache& cache() {
  static Cache* leaked = new Cache;  // never destroyed: tensors may be freed while the process ends
  return *leaked;
}

// A fork takes the lock first, so that the child does not get it locked by a thread that the child does not have.
[[maybe_unused]] const int watched =
    pthread_atfork([] { cache().mutex.lock(); }, [] { cache().mutex.unlock(); }, [] { cache().mutex.unlock(); });

void* allocate(size_t bytes) {
  const bool huge = bytes >= kHugePage;
  void* data = std::aligned_alloc(huge ? kHugePage : 64, bytes);
#if defined(MADV_HUGEPAGE)
  if (huge && data) madvise(data, bytes, MADV_HUGEPAGE);
#endif
  return data;
}

Block* take(size_t bytes) {
  Cache& c = cache();
  {
    const std::lock_guard<std::mutex> lock(c.mutex);
    for (auto block = c.free.rbegin(); block != c.free.rend(); ++block) {
      if (block->bytes < bytes || block->bytes > 2 * bytes + kHugePage) continue;
      c.bytes -= block->bytes;
      c.used.splice(c.used.end(), c.free, block->place);
      return &c.used.back();
    }
  }
  const size_t alignment = bytes >= kHugePage ? kHugePage : 64;
  std::list<Block> fresh(1);
  Block& block = fresh.back();
  block = {nullptr, (bytes + alignment - 1) / alignment * alignment, fresh.begin()};
  block.data = allocate(block.bytes);
  if (!block.data) empty_cache(), block.data = allocate(block.bytes);
  TORCH_CHECK_WITH(OutOfMemoryError, block.data, "vaefast: cannot allocate ", block.bytes, " bytes");
  const std::lock_guard<std::mutex> lock(c.mutex);
  c.used.splice(c.used.end(), fresh);
  return &block;
}

void free_all(const std::list<Block>& blocks) noexcept {
  for (const Block& block : blocks) std::free(block.data);
}

void give_back(void* context) noexcept {
  Block* block = static_cast<Block*>(context);
  Cache& c = cache();
  std::list<Block> evicted;
  {
    const std::lock_guard<std::mutex> lock(c.mutex);
    c.bytes += block->bytes;
    c.free.splice(c.free.end(), c.used, block->place);
    while (c.bytes > kCacheLimit) {
      c.bytes -= c.free.front().bytes;
      evicted.splice(evicted.end(), c.free, c.free.begin());
    }
  }
  free_all(evicted);
}

struct Recycling final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    Block* block = take(bytes);
    return {block->data, block, give_back, c10::Device(c10::kCPU)};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};

}  // namespace

at::Tensor empty_result(at::IntArrayRef sizes, const at::TensorOptions& options) {
  uint64_t bytes = options.dtype().itemsize();
  for (const int64_t size : sizes) {
    TORCH_CHECK_VALUE(size >= 0 && !__builtin_mul_overflow(bytes, uint64_t(size), &bytes) && bytes < uint64_t(1) << 62,
                      "vaefast: a result of shape ", sizes, " is too large");
  }
  if (bytes < kLarge || !options.device().is_cpu()) return at::empty(sizes, options);
  static Recycling* leaked = new Recycling;
  return at::detail::empty_generic(sizes, leaked, c10::DispatchKeySet(c10::DispatchKey::CPU),
                                   c10::typeMetaToScalarType(options.dtype()), std::nullopt);
}

size_t cached_bytes() {
  const std::lock_guard<std::mutex> lock(cache().mutex);
  return cache().bytes;
}

void empty_cache() {
  Cache& c = cache();
  std::list<Block> blocks;
  {
    const std::lock_guard<std::mutex> lock(c.mutex);
    blocks.swap(c.free);
    c.bytes = 0;
  }
  free_all(blocks);
}

}  // namespace vaefast
