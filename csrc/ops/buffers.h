// Memory for large results. A fresh gradient of the logits costs more in page faults than in arithmetic, and each
// training step frees a block of the size that the next one asks for.
#pragma once

#include <ATen/core/Tensor.h>

namespace vaefast {

// An uninitialized contiguous tensor. On the CPU, a large one reuses a block that an earlier one has left, or comes
// from huge pages.
at::Tensor empty_result(at::IntArrayRef sizes, const at::TensorOptions& options);

// Bytes that freed results have left in the cache, at most kCacheLimit; `empty_cache` gives them back to the system.
constexpr size_t kCacheLimit = size_t(256) << 20;
size_t cached_bytes();
void empty_cache();

}  // namespace vaefast
