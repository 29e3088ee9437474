// What the autograd nodes share. They are in C++ because a Python Function costs as much per call as a small batch's
// arithmetic. A backward pass of which more is asked (create_graph, batched gradients, a retained graph of a loss) goes
// to vaefast::elbo_vjp, row_sum_vjp and rsample_vjp, which Python implements (vaefast/ops/loss.py, term.py, sample.py).
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/custom_function.h>

#include "dispatch.h"

namespace vaefast {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

inline bool is_batched(const Tensor& t) {
  return t.key_set().has_any(c10::DispatchKeySet({c10::DispatchKey::Batched, c10::DispatchKey::FuncTorchBatched}));
}

// Whether a backward pass must be differentiable itself (create_graph=True, forward-mode AD) or is batched
// (is_grads_batched=True), or both (torch.func).
inline bool needs_composite(at::TensorList upstream) {
  bool composite = at::GradMode::is_enabled() ||
                   c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode);
  for (const Tensor& g : upstream) composite |= g.defined() && (is_batched(g) || g._fw_grad(0).defined());
  return composite;
}

// Whether gradients may be made in the forward pass. Unscaled float16 gradients would underflow before a GradScaler's
// factor reaches them. Where torch.compile traces, they would be constants to a second backward pass, which then is
// silently wrong instead of refused.
inline bool fits_one_pass(const Tensor& t) {
  return t.scalar_type() != at::kHalf && !t.key_set().has(c10::DispatchKey::Python);
}

// The gradients of the forward pass, given away: scaled in place, as aliases with version counters of their own. Their
// caller may write to them, and a retained graph must not see that.
inline void give_away(Tensors& gradients, const Tensor& factor) {
  static const auto scale = find_operator<decltype(scale_)>("vaefast::scale_");
  scale.call(gradients, factor);
  for (Tensor& g : gradients) g = g.variable_data();
}

// Bit k is set where tensor k requires a gradient.
inline int64_t required_gradients(at::TensorList tensors) {
  int64_t bits = 0;
  for (size_t k = 0; k < tensors.size(); ++k) bits |= int64_t(tensors[k].requires_grad()) << k;
  return bits;
}

// An optional tensor from one that may be undefined, and back; lists of saved tensors hold the latter.
inline OptionalTensor given(const Tensor& t) { return t.defined() ? OptionalTensor(t) : std::nullopt; }
inline Tensor or_undefined(const OptionalTensor& t) { return t.value_or(Tensor()); }

inline void append(variable_list& list, at::TensorList tensors) {
  list.insert(list.end(), tensors.begin(), tensors.end());
}

// The tensors that forward saved, read in the order in which it saved them.
class SavedTensors {
 public:
  explicit SavedTensors(const AutogradContext* ctx) : all_(ctx->get_saved_variables()) {}

  const Tensor& next() { return all_[taken_++]; }
  at::TensorList next(size_t count) { return at::TensorList(all_).slice(std::exchange(taken_, taken_ + count), count); }
  at::TensorList rest() { return at::TensorList(all_).slice(taken_); }

 private:
  const variable_list all_;
  size_t taken_ = 0;
};

// How many arguments a node's forward has after its `lists` lists of tensors. Backward must return an undefined
// gradient for each of them.
template <size_t lists, class Result, class... Arguments>
constexpr size_t other_arguments(Result (*)(AutogradContext*, Arguments...)) {
  return sizeof...(Arguments) - lists;
}

}  // namespace vaefast
