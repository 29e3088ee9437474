// The loss in the autograd graph, eager and traced by torch.compile. Where fits_one_pass allows, the forward pass makes
// the gradients as well, and backward scales them.
#include "autograd.h"

namespace vaefast {
namespace {

const ElboOp& elbo_op() {
  static const ElboOp op("vaefast::elbo");
  return op;
}

const ElboInPlaceOp& elbo_in_place_op() {
  static const ElboInPlaceOp op("vaefast::elbo_");
  return op;
}

// An alias with a version counter of its own.
Tensor given_away(const Tensor& t) { return at::GradMode::is_enabled() || is_batched(t) ? t : t.variable_data(); }

// Whether gradients may be made in the forward pass. Unscaled float16 gradients would underflow before a GradScaler's
// factor reaches them. Where torch.compile traces, they would be constants to a second backward pass, which then is
// silently wrong instead of refused.
bool fits_one_pass(const Tensor& t) {
  return t.scalar_type() != at::kHalf && !t.key_set().has(c10::DispatchKey::Python);
}

// The gradients' order: operands, latents, weight, kl_weight. Returns (loss), or (loss, log-likelihood, KL).
struct ElboLoss : torch::autograd::Function<ElboLoss> {
  static variable_list forward(AutogradContext* ctx, at::TensorList operands, at::TensorList latent,
                               const OptionalTensor& weight, const OptionalTensor& kl_weight,
                               const std::string& likelihood, const LossOptions& options, bool inplace, bool parts) {
    const size_t inputs = operands.size() + latent.size();
    int64_t gradients = required_gradients(operands) | required_gradients(latent) << operands.size();
    bool one_pass = true;
    for (const at::TensorList list : {operands, latent}) {
      for (const Tensor& t : list) one_pass &= fits_one_pass(t);
    }
    const at::AutoDispatchBelowADInplaceOrView guard;
    const int64_t now = one_pass ? gradients : 0;
    auto [loss, fit, kl, grads] =
        inplace ? elbo_in_place_op()(operands[0], likelihood, operands.slice(1), latent, options, now)
                : elbo_op()(likelihood, operands, latent, options, now);
    if (inplace) {
      operands[0].unsafeGetTensorImpl()->bump_version();  // a stale use of it raises torch's version error
      grads.insert(grads.begin(), operands[0].detach());
    }
    bool by_weights = false;
    for (const OptionalTensor* t : {&weight, &kl_weight}) by_weights |= *t && (*t)->requires_grad();
    if (weight && weight->requires_grad()) gradients |= int64_t(1) << inputs;
    if (kl_weight && kl_weight->requires_grad()) gradients |= int64_t(1) << (inputs + 1);

    variable_list saved{or_undefined(options.mask), or_undefined(weight), or_undefined(kl_weight)};
    saved.push_back(by_weights ? fit : Tensor());
    saved.push_back(by_weights ? kl : Tensor());
    append(saved, operands);
    append(saved, latent);
    append(saved, grads);
    ctx->save_for_backward(std::move(saved));
    ctx->set_materialize_grads(false);
    auto& data = ctx->saved_data;
    data["likelihood"] = likelihood;
    data["beta"] = options.beta;
    data["reduction"] = options.reduction;
    data["batch_dims"] = options.batch_dims;
    data["target_scale"] = options.target_scale;
    data["operands"] = int64_t(operands.size());
    data["latents"] = int64_t(latent.size());
    data["gradients"] = gradients;
    data["has_gradients"] = one_pass && !by_weights;
    data["inplace"] = inplace;
    if (parts) return {loss, fit, kl};
    return {loss};
  }

  static variable_list backward(AutogradContext* ctx, variable_list upstream) {
    auto& data = ctx->saved_data;
    const size_t arity = data["operands"].toInt(), inputs = arity + data["latents"].toInt();
    const int64_t gradients = data["gradients"].toInt();
    variable_list result(inputs + other_arguments<2>(forward));
    upstream.resize(3);
    const Tensor &grad = upstream[0], &grad_fit = upstream[1], &grad_kl = upstream[2];
    bool any = false, differentiable = at::GradMode::is_enabled();
    for (const Tensor& g : upstream) {
      any |= g.defined();
      differentiable |= g.defined() && is_batched(g);
    }
    if (!any) return result;
    const bool one_pass =
        data["has_gradients"].toBool() && !differentiable && !grad_fit.defined() && !grad_kl.defined();
    TORCH_CHECK(one_pass || !data["inplace"].toBool(),
                "vaefast.ELBOLoss: with inplace=True the prediction holds its gradient now, so the graph can be run "
                "backward once only, from the loss, and without create_graph");
    SavedTensors saved(ctx);
    const Tensor &mask = saved.next(), &weight = saved.next(), &kl_weight = saved.next();
    const Tensor &fit = saved.next(), &kl = saved.next();
    const at::TensorList operands = saved.next(arity), latent = saved.next(inputs - arity);
    Tensors grads = saved.rest().vec();
    if (one_pass) {
      static const auto scale = find_operator<decltype(scale_)>("vaefast::scale_");
      data["has_gradients"] = false;  // given away, so a second pass computes them anew
      scale.call(grads, grad);
    } else {
      static const ElboVjpOp vjp("vaefast::elbo_vjp");
      const LossOptions options{given(mask),
                                given(weight),
                                given(kl_weight),
                                data["beta"].toDouble(),
                                data["reduction"].toStringRef(),
                                data["batch_dims"].toInt(),
                                data["target_scale"].toDouble()};
      grads = vjp(data["likelihood"].toStringRef(), operands, latent, options, given(fit), given(kl), gradients,
                  given(grad), given(grad_fit), given(grad_kl));
    }
    auto next = grads.begin();
    for (size_t k = 0; k < inputs + 2; ++k) {
      // A gradient is the caller's, who may write to it; a retained graph must not see that.
      if (gradients >> k & 1) result[k] = given_away(*next++);
    }
    return result;
  }
};

variable_list apply(const std::string& likelihood, at::TensorList operands, at::TensorList latent,
                    const LossOptions& options, bool inplace, bool parts) {
  if (at::GradMode::is_enabled()) {
    return ElboLoss::apply(operands, latent, options.weight, options.kl_weight, likelihood, options, inplace, parts);
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  auto [loss, fit, kl, none] = elbo_op()(likelihood, operands, latent, options, 0);
  return {loss, fit, kl};
}

}  // namespace

Tensor elbo_loss_value(std::string likelihood, at::TensorList operands, at::TensorList latent,
                       const LossOptions& options) {
  return std::get<0>(elbo_op()(std::move(likelihood), operands, latent, options, 0));
}

Tensor elbo_loss(std::string likelihood, at::TensorList operands, at::TensorList latent, const LossOptions& options) {
  return apply(likelihood, operands, latent, options, false, false)[0];
}

Parts elbo_parts(std::string likelihood, at::TensorList operands, at::TensorList latent, const LossOptions& options) {
  const variable_list out = apply(likelihood, operands, latent, options, false, true);
  return {out[0], out[1], out[2]};
}

Parts elbo_parts_(const Tensor& prediction, std::string likelihood, at::TensorList others, at::TensorList latent,
                  const LossOptions& options) {
  Tensors operands = others.vec();
  operands.insert(operands.begin(), prediction);
  const variable_list out = apply(likelihood, operands, latent, options, true, true);
  return {out[0], out[1], out[2]};
}

}  // namespace vaefast
