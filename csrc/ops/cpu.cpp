// The CPU's backend: threads through ATen, keys from the CPU generator.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>

#include "backend.h"

namespace vaefast {
namespace {

// Tiles that a thread is started for and takes at once: about 16 thousand elements, a few times what starting it costs.
constexpr int64_t kGrain = 16;

// GNU OpenMP's threads are not in the child of a fork, which would wait for them for ever: it works alone.
bool forked = false;
[[maybe_unused]] const int watched = pthread_atfork(nullptr, nullptr, [] { forked = true; });

// A thread has a part of its own, whose memory its caches may still hold. When it is through, it takes from the parts
// of others: one that starts late, or shares its core with a data loader, does less.
void run_in_parts(const SweepArgs& args, double* partial, int64_t tiles, int64_t parts) {
  struct alignas(64) Taken {  // on a cache line of its own
    std::atomic<int64_t> tiles = 0;
  };
  const std::unique_ptr<Taken[]> taken(new Taken[parts]);
  at::parallel_for(0, parts, 1, [&](int64_t own, int64_t) {
    for (int64_t k = own; k < own + parts; ++k) {
      const int64_t part = k % parts, end = tiles * (part + 1) / parts;
      for (int64_t at; (at = tiles * part / parts + taken[part].tiles.fetch_add(kGrain)) < end;)
        cpu::run_tiles(args, partial, at, std::min(at + kGrain, end));
    }
  });
}

void run(const SweepArgs& args, const at::Tensor&) {
  const std::unique_ptr<double[]> partial(new double[cpu::partial_count(args)]);
  const int64_t tiles = cpu::tile_count(args), grains = (tiles + kGrain - 1) / kGrain;
  const int64_t parts = std::min<int64_t>(grains, at::get_num_threads());
  if (forked || parts <= 1) cpu::run_tiles(args, partial.get(), 0, tiles);
  else run_in_parts(args, partial.get(), tiles, parts);
  cpu::finish(args, partial.get());
}

at::Tensor draw_key(const std::optional<at::Generator>& generator, const at::Tensor&, NoiseKey& key) {
  auto* g = at::get_generator_or_default<at::CPUGeneratorImpl>(generator, at::detail::getDefaultCPUGenerator());
  at::Tensor drawn = at::empty({2}, at::kLong);
  int64_t* words = drawn.mutable_data_ptr<int64_t>();
  const std::lock_guard<std::mutex> lock(g->mutex_);
  words[0] = int64_t(g->random64());
  words[1] = 0;
  key.seed_at = words;
  key.offset_at = words + 1;
  return drawn;
}

void scale(at::TensorList tensors, const at::Tensor& factor) {
  if (factor.scalar_type() == at::kFloat ? *factor.const_data_ptr<float>() == 1.0f : factor.item<double>() == 1.0)
    return;
  const at::AutoDispatchBelowADInplaceOrView guard;
  for (const at::Tensor& t : tensors) at::Tensor(t).mul_(factor);
}

[[maybe_unused]] const bool registered = register_backend(at::kCPU, {run, draw_key, scale});

}  // namespace
}  // namespace vaefast
