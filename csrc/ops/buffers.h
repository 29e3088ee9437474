// Memory for large results. A fresh gradient of the logits costs more in page faults than in arithmetic, and a training
// step frees one of the same size that it is about to ask for.
#pragma once

#include <ATen/core/Tensor.h>

namespace vaefast {

// An uninitialized contiguous tensor; a large one on the CPU comes from the blocks that earlier ones left behind, or
// from huge pages.
at::Tensor empty_result(at::IntArrayRef sizes, const at::TensorOptions& options);

// Bytes that freed results have left in the cache, at most kCacheLimit; `empty_cache` gives them back to the system.
constexpr size_t kCacheLimit = size_t(256) << 20;
size_t cached_bytes();
void empty_cache();

}  // namespace vaefast
