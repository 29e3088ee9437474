#include "buffers.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <sys/mman.h>

#include <cstdlib>
#include <mutex>
#include <vector>

namespace vaefast {
namespace {

constexpr size_t kLarge = size_t(64) << 10;  // smaller ones malloc recycles by itself
constexpr size_t kHugePage = size_t(2) << 20;

struct Block {
  void* data;
  size_t bytes;
};

struct Cache {
  std::mutex mutex;
  std::vector<Block> blocks;  // the most recently freed last
  size_t bytes = 0;
};

Cache& cache() {
  static Cache* leaked = new Cache;  // tensors may be freed while the process ends
  return *leaked;
}

Block allocate(size_t bytes) {
  const bool huge = bytes >= kHugePage;
  const size_t alignment = huge ? kHugePage : 64, rounded = (bytes + alignment - 1) / alignment * alignment;
  void* data = std::aligned_alloc(alignment, rounded);
  TORCH_CHECK_WITH(OutOfMemoryError, data != nullptr, "vaefast: cannot allocate ", rounded, " bytes");
#if defined(MADV_HUGEPAGE)
  if (huge) madvise(data, rounded, MADV_HUGEPAGE);
#endif
  return {data, rounded};
}

Block take(size_t bytes) {
  Cache& c = cache();
  {
    const std::lock_guard<std::mutex> lock(c.mutex);
    for (auto block = c.blocks.rbegin(); block != c.blocks.rend(); ++block) {
      if (block->bytes < bytes || block->bytes > 2 * bytes + kHugePage) continue;
      const Block found = *block;
      c.bytes -= found.bytes;
      c.blocks.erase(std::next(block).base());
      return found;
    }
  }
  return allocate(bytes);
}

void give_back(Block block) {
  Cache& c = cache();
  std::vector<Block> evicted;
  {
    const std::lock_guard<std::mutex> lock(c.mutex);
    c.blocks.push_back(block);
    c.bytes += block.bytes;
    while (c.bytes > kCacheLimit) {
      evicted.push_back(c.blocks.front());
      c.bytes -= c.blocks.front().bytes;
      c.blocks.erase(c.blocks.begin());
    }
  }
  for (const Block& each : evicted) std::free(each.data);
}

}  // namespace

at::Tensor empty_result(at::IntArrayRef sizes, const at::TensorOptions& options) {
  uint64_t bytes = options.dtype().itemsize();
  for (const int64_t size : sizes) {
    TORCH_CHECK_VALUE(size >= 0 && !__builtin_mul_overflow(bytes, uint64_t(size), &bytes) && bytes < uint64_t(1) << 62,
                      "vaefast: a result of shape ", sizes, " is too large");
  }
  if (bytes < kLarge || !options.device().is_cpu()) return at::empty(sizes, options);
  const Block block = take(bytes);
  return at::from_blob(block.data, sizes, [block](void*) { give_back(block); }, options);
}

size_t cached_bytes() {
  const std::lock_guard<std::mutex> lock(cache().mutex);
  return cache().bytes;
}

void empty_cache() {
  Cache& c = cache();
  std::vector<Block> blocks;
  {
    const std::lock_guard<std::mutex> lock(c.mutex);
    blocks.swap(c.blocks);
    c.bytes = 0;
  }
  for (const Block& block : blocks) std::free(block.data);
}

}  // namespace vaefast
