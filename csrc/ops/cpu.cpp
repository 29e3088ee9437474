// The CPU's backend: ATen's threads, and keys from the CPU generator.
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

// The child of a fork does not have GNU OpenMP's threads and would wait for them for ever, so it works alone.
bool forked = false;
[[maybe_unused]] const int watched = pthread_atfork(nullptr, nullptr, [] { forked = true; });

void run(const SweepArgs& args, const at::Tensor&) {
  const std::unique_ptr<double[]> partial(new double[cpu::partial_count(args)]);
  const int64_t parts = forked ? 1 : std::min<int64_t>(cpu::most_parts(args), at::get_num_threads());
  if (parts <= 1) {
    cpu::Taken taken;
    cpu::run_part(args, partial.get(), &taken, 1, 0);
  } else {
    const std::unique_ptr<cpu::Taken[]> taken(new cpu::Taken[parts]);
    // With fewer threads than parts, a thread is given several parts, or all; run_part leaves no tile.
    at::parallel_for(0, parts, 1,
                     [&](int64_t own, int64_t) { cpu::run_part(args, partial.get(), taken.get(), parts, own); });
  }
  cpu::finish(args, partial.get());
}

void run_mixture(const MixtureArgs& args, const at::Tensor&) {
  const int64_t blocks = cpu::block_count(args), grain = cpu::grain(args);
  std::atomic<int64_t> taken = 0;  // a thread that starts late does less
  const auto run = [&](int64_t, int64_t) {
    for (int64_t begin; (begin = taken.fetch_add(grain)) < blocks;)
      cpu::run_blocks(args, begin, std::min(begin + grain, blocks));
  };
  const int64_t parts = forked ? 1 : std::min<int64_t>((blocks + grain - 1) / grain, at::get_num_threads());
  if (parts <= 1) run(0, 1);
  else at::parallel_for(0, parts, 1, run);
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

[[maybe_unused]] const bool registered = register_backend(at::kCPU, {run, run_mixture, draw_key, scale});

}  // namespace
}  // namespace vaefast
