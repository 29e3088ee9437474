// The loss in one pass over its operands. It is two sweeps: the likelihood's term, and the KL.
#include "ops.h"
#include "sweep.h"

namespace vaefast {
namespace {

// The latents' number and form choose their KL, so no two KL terms may take the same.
constexpr bool kl_terms_differ() {
  for (int i = 0; i < Terms::size; ++i) {
    for (int j = 0; j < i; ++j) {
      const bool same = Terms::arity[i] == Terms::arity[j] && Terms::by_scale[i] == Terms::by_scale[j];
      if (Terms::is_kl[i] && Terms::is_kl[j] && same) return false;
    }
  }
  return true;
}
static_assert(kl_terms_differ());

// The gradient by the prediction is written to `place` where that is given.
Loss elbo_into(const OptionalTensor& place, const std::string& likelihood, at::TensorList operands,
               at::TensorList latent, const LossOptions& options, int64_t gradients) {
  TORCH_CHECK_VALUE(!operands.empty() && !latent.empty(), "vaefast: elbo needs operands and latent");
  const auto& [mask, weight, kl_weight, beta, reduction, batch_dims, target_scale, spreads] = options;
  Sweep fit(find_term(likelihood), operands, batch_dims);
  Sweep kl(Terms::kl_term(latent.size(), spreads == kScale), latent, batch_dims);
  TORCH_CHECK_VALUE(latent[0].device() == operands[0].device(), "vaefast: elbo got data on ", operands[0].device(),
                    " and latents on ", latent[0].device());
  TORCH_CHECK_VALUE(fit.args.rows == kl.args.rows, "vaefast: elbo got ", fit.args.rows, " samples of data and ",
                    kl.args.rows, " of latents");
  TORCH_CHECK_VALUE(reduction == "sum" || reduction == "mean", "vaefast: elbo reduces by 'sum' or 'mean'");
  const double scale = reduction_scale(reduction, fit.args.rows);
  for (const OptionalTensor* t : {&weight, &kl_weight}) {
    TORCH_CHECK_VALUE(!*t || (*t)->numel() == 1 || (*t)->sizes() == fit.batch_shape(),
                      "vaefast: weights must have shape ", fit.batch_shape(), ", got ", (*t)->sizes());
  }
  fit.set_target_scale(target_scale);
  kl.set_spreads(spreads);
  fit.set_mask(mask);
  fit.set_coef(-scale, weight);
  kl.set_coef(scale * beta, kl_weight);
  Tensor fit_rows = fit.want_row_sums(), kl_rows = kl.want_row_sums();
  fit.want_total();
  kl.add_total(fit);
  const Tensor loss = kl.want_loss(fit.args.wide || kl.args.wide);
  Tensors grads = fit.want_gradients(gradients & ((1 << operands.size()) - 1), place);
  const Tensors kl_grads = kl.want_gradients(gradients >> operands.size());
  grads.insert(grads.end(), kl_grads.begin(), kl_grads.end());
  fit.run();
  kl.run();
  return {loss, fit_rows, kl_rows, grads};
}

}  // namespace

Loss elbo(std::string likelihood, at::TensorList operands, at::TensorList latent, const LossOptions& options,
          int64_t gradients) {
  return elbo_into({}, likelihood, operands, latent, options, gradients);
}

Loss elbo_(const Tensor& prediction, std::string likelihood, at::TensorList others, at::TensorList latent,
           const LossOptions& options, int64_t gradients) {
  Tensors operands = others.vec();
  operands.insert(operands.begin(), prediction);
  Loss loss = elbo_into(prediction, likelihood, operands, latent, options, gradients | 1);
  Tensors& grads = std::get<3>(loss);
  grads.erase(grads.begin());
  return loss;
}

}  // namespace vaefast
