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

// The whole numbers that backward needs, saved as one list: a call for a small batch is all overhead, and each entry of
// saved_data adds to it.
struct Integers {
  int64_t operands, latents, batch_dims, spreads, gradients, shared, inplace;

  static Integers of(const std::vector<int64_t>& v) { return {v[0], v[1], v[2], v[3], v[4], v[5], v[6]}; }
  std::vector<int64_t> packed() const { return {operands, latents, batch_dims, spreads, gradients, shared, inplace}; }
};

// The gradients' order: operands, latents, weight, kl_weight. Where both weights are one tensor, its whole gradient is
// that of `weight`. Returns (loss), or (loss, log-likelihood, KL). The weights stand beside the options that hold them,
// because autograd sees arguments alone.
struct ElboLoss : torch::autograd::Function<ElboLoss> {
  static variable_list forward(AutogradContext* ctx, at::TensorList operands, at::TensorList latent,
                               const OptionalTensor& weight, const OptionalTensor& kl_weight,
                               const std::string& likelihood, const LossOptions& options, bool inplace, bool parts) {
    const size_t inputs = operands.size() + latent.size();
    int64_t gradients = required_gradients(operands) | required_gradients(latent) << operands.size();
    const bool shared = weight && kl_weight && weight->is_same(*kl_weight);
    const bool by_weight = weight && weight->requires_grad();
    const bool by_kl_weight = kl_weight && kl_weight->requires_grad() && !shared;
    bool one_pass = !by_weight && !by_kl_weight;
    for (const at::TensorList list : {operands, latent}) {
      for (const Tensor& t : list) one_pass &= fits_one_pass(t);
    }
    TORCH_CHECK(one_pass || !inplace, "vaefast: the loss in place takes neither float16 nor weights with a gradient");
    const at::AutoDispatchBelowADInplaceOrView guard;
    const int64_t now = one_pass ? gradients : 0;
    auto [loss, fit, kl, grads] =
        inplace ? elbo_in_place_op()(operands[0], likelihood, operands.slice(1), latent, options, now)
                : elbo_op()(likelihood, operands, latent, options, now);
    if (inplace) {
      operands[0].unsafeGetTensorImpl()->bump_version();  // a stale use of it raises torch's version error
      grads.insert(grads.begin(), operands[0].detach());
    }
    gradients |= int64_t(by_weight) << inputs | int64_t(by_kl_weight) << (inputs + 1);
    ctx->set_materialize_grads(false);
    if (gradients == 0) return parts ? variable_list{loss, fit, kl} : variable_list{loss};

    const bool by_weights = by_weight || by_kl_weight;
    variable_list saved{or_undefined(options.mask), or_undefined(weight), shared ? Tensor() : or_undefined(kl_weight),
                        by_weights ? fit : Tensor(), by_weights ? kl : Tensor()};
    append(saved, operands);
    append(saved, latent);
    append(saved, grads);
    ctx->save_for_backward(std::move(saved));
    auto& data = ctx->saved_data;
    data["likelihood"] = likelihood;
    data["reduction"] = options.reduction;
    data["factors"] = c10::IValue(std::vector<double>{options.beta, options.target_scale});
    data["integers"] = c10::IValue(Integers{int64_t(operands.size()), int64_t(latent.size()), options.batch_dims,
                                            options.spreads, gradients, shared, inplace}
                                       .packed());
    data["has_gradients"] = one_pass;
    if (parts) return {loss, fit, kl};
    return {loss};
  }

  static variable_list backward(AutogradContext* ctx, variable_list upstream) {
    auto& data = ctx->saved_data;
    const Integers of = Integers::of(data["integers"].toIntVector());
    const size_t arity = of.operands, inputs = of.operands + of.latents;
    variable_list result(inputs + other_arguments<2>(forward));
    upstream.resize(3);
    const Tensor &grad = upstream[0], &grad_fit = upstream[1], &grad_kl = upstream[2];
    int64_t gradients = of.gradients;
    if (!grad.defined()) {  // the parts alone: each reaches its own operands, and neither reaches the weights
      const int64_t of_fit = (int64_t(1) << arity) - 1, of_kl = ((int64_t(1) << inputs) - 1) & ~of_fit;
      gradients &= (grad_fit.defined() ? of_fit : 0) | (grad_kl.defined() ? of_kl : 0);
    }
    if (gradients == 0) return result;
    const bool kept_suffice =
        data["has_gradients"].toBool() && !needs_composite(upstream) && !grad_fit.defined() && !grad_kl.defined();
    TORCH_CHECK(kept_suffice || !of.inplace,
                "vaefast.ELBOLoss: with inplace=True the prediction holds its gradient now, so the graph can be run "
                "backward once only, from the loss, and without create_graph");
    SavedTensors saved(ctx);
    const Tensor &mask = saved.next(), &weight = saved.next(), &own = saved.next();
    const Tensor& kl_weight = of.shared ? weight : own;
    const Tensor &fit = saved.next(), &kl = saved.next();
    const at::TensorList operands = saved.next(arity), latent = saved.next(inputs - arity);
    Tensors grads = saved.rest().vec();
    if (kept_suffice) {
      data["has_gradients"] = false;  // a second pass computes them anew
      give_away(grads, grad);
    } else {
      static const ElboVjpOp vjp("vaefast::elbo_vjp");
      const auto factors = data["factors"].toDoubleVector();
      const LossOptions options{
          given(mask),   given(weight), given(kl_weight), factors[0], data["reduction"].toStringRef(),
          of.batch_dims, factors[1],    of.spreads};
      grads = vjp(data["likelihood"].toStringRef(), operands, latent, options, given(fit), given(kl), gradients,
                  given(grad), given(grad_fit), given(grad_kl));
    }
    TORCH_INTERNAL_ASSERT(int(grads.size()) == __builtin_popcountll(uint64_t(gradients)));
    auto next = grads.begin();
    for (size_t k = 0; k < inputs + 2; ++k) {
      if (gradients >> k & 1) result[k] = *next++;
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
  const auto [loss, fit, kl] = elbo_parts_value(likelihood, operands, latent, options);
  return {loss, fit, kl};
}

}  // namespace

Tensor elbo_loss_value(std::string likelihood, at::TensorList operands, at::TensorList latent,
                       const LossOptions& options) {
  return std::get<0>(elbo_parts_value(std::move(likelihood), operands, latent, options));
}

Parts elbo_parts_value(std::string likelihood, at::TensorList operands, at::TensorList latent,
                       const LossOptions& options) {
  auto [loss, fit, kl, none] = elbo_op()(std::move(likelihood), operands, latent, options, 0);
  return {loss, fit, kl};
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
