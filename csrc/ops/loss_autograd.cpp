// The loss in the eager autograd graph. The forward pass makes the gradients as well; backward scales them.
#include "autograd.h"

namespace vaefast {
namespace {

const ElboOp& elbo_op() {
  static const ElboOp op("vaefast::elbo");
  return op;
}

// An alias with a version counter of its own.
Tensor given_away(const Tensor& t) { return at::GradMode::is_enabled() || is_batched(t) ? t : t.variable_data(); }

struct ElboLoss : torch::autograd::Function<ElboLoss> {
  static Tensor forward(AutogradContext* ctx, at::TensorList operands, at::TensorList latent,
                        const std::string& likelihood, const LossOptions& options) {
    const int64_t gradients = required_gradients(operands) | required_gradients(latent) << operands.size();
    bool half = false;
    for (const at::TensorList list : {operands, latent}) {
      for (const Tensor& t : list) half |= t.scalar_type() == at::kHalf;
    }
    const at::AutoDispatchBelowADInplaceOrView guard;
    // Unscaled float16 gradients would underflow before a GradScaler's factor reaches them, so they are made in
    // backward.
    auto [loss, fit, kl, grads] = elbo_op()(likelihood, operands, latent, options, half ? 0 : gradients);
    if (gradients == 0) return loss;
    variable_list saved{or_undefined(options.mask), or_undefined(options.weight), or_undefined(options.kl_weight)};
    append(saved, operands);
    append(saved, latent);
    append(saved, grads);
    ctx->save_for_backward(std::move(saved));
    auto& data = ctx->saved_data;
    data["likelihood"] = likelihood;
    data["beta"] = options.beta;
    data["reduction"] = options.reduction;
    data["batch_dims"] = options.batch_dims;
    data["target_scale"] = options.target_scale;
    data["operands"] = int64_t(operands.size());
    data["latents"] = int64_t(latent.size());
    data["gradients"] = gradients;
    data["has_gradients"] = !half;
    return loss;
  }

  static variable_list backward(AutogradContext* ctx, variable_list upstream) {
    auto& data = ctx->saved_data;
    const size_t arity = data["operands"].toInt(), latents = data["latents"].toInt();
    const int64_t gradients = data["gradients"].toInt();
    variable_list result(arity + latents + other_arguments<2>(forward));
    const Tensor& grad = upstream[0];
    if (!grad.defined()) return result;
    SavedTensors saved(ctx);
    const Tensor &mask = saved.next(), &weight = saved.next(), &kl_weight = saved.next();
    const at::TensorList operands = saved.next(arity), latent = saved.next(latents);
    Tensors grads = saved.rest().vec();
    if (at::GradMode::is_enabled() || is_batched(grad) || !data["has_gradients"].toBool()) {
      static const ElboVjpOp vjp("vaefast::elbo_vjp");
      const LossOptions options{given(mask),
                                given(weight),
                                given(kl_weight),
                                data["beta"].toDouble(),
                                data["reduction"].toStringRef(),
                                data["batch_dims"].toInt(),
                                data["target_scale"].toDouble()};
      grads = vjp(data["likelihood"].toStringRef(), operands, latent, options, gradients, grad);
    } else {
      static const auto scale = find_operator<decltype(scale_)>("vaefast::scale_");
      data["has_gradients"] = false;  // the caller gets them
      scale.call(grads, grad);
    }
    auto next = grads.begin();
    for (size_t k = 0; k < arity + latents; ++k) {
      // A gradient is the caller's, who may write to it; a retained graph must not see that.
      if (gradients >> k & 1) result[k] = given_away(*next++);
    }
    return result;
  }
};

}  // namespace

Tensor elbo_loss_value(std::string likelihood, at::TensorList operands, at::TensorList latent,
                       const LossOptions& options) {
  return std::get<0>(elbo_op()(std::move(likelihood), operands, latent, options, 0));
}

Tensor elbo_loss(std::string likelihood, at::TensorList operands, at::TensorList latent, const LossOptions& options) {
  if (!at::GradMode::is_enabled()) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return elbo_loss_value(std::move(likelihood), operands, latent, options);
  }
  for (const OptionalTensor* t : {&options.weight, &options.kl_weight}) {
    TORCH_CHECK(!*t || !((*t)->requires_grad() || (*t)->_fw_grad(0).defined()),
                "vaefast::elbo_loss has no derivative by its weights");
  }
  return ElboLoss::apply(operands, latent, likelihood, options);
}

}  // namespace vaefast
