// Samples and their KL in the autograd graph, eager and traced by torch.compile.
#include "autograd.h"

namespace vaefast {
namespace {

const auto& rsample_op() {
  static const auto op = find_operator<decltype(rsample)>("vaefast::rsample");
  return op;
}

struct SampleAndKl : torch::autograd::Function<SampleAndKl> {
  static variable_list forward(AutogradContext* ctx, at::TensorList latent, int64_t num_samples, bool kl,
                               int64_t batch_dims, std::optional<at::Generator> generator, int64_t spreads) {
    const int64_t gradients = required_gradients(latent);
    const at::AutoDispatchBelowADInplaceOrView guard;
    auto [z, sums, key] = rsample_op().call(latent, {}, num_samples, kl, batch_dims, std::move(generator), spreads);
    variable_list saved{key};
    append(saved, latent);
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["integers"] =  // one entry: each costs time
        c10::IValue(std::vector<int64_t>{num_samples, kl, batch_dims, spreads, gradients});
    ctx->set_materialize_grads(false);
    return {z, sums};
  }

  static variable_list backward(AutogradContext* ctx, variable_list upstream) {
    const auto integers = ctx->saved_data["integers"].toIntVector();
    const int64_t num_samples = integers[0], kl = integers[1], batch_dims = integers[2];
    int64_t spreads = integers[3], gradients = integers[4];
    SavedTensors saved(ctx);
    const Tensor& key = saved.next();
    at::TensorList latent = saved.rest();
    variable_list result(latent.size() + other_arguments<1>(forward));
    const OptionalTensor grad_z = given(upstream[0]);
    const OptionalTensor grad_kl = kl ? given(upstream[1]) : std::nullopt;
    if (!grad_z && !grad_kl) return result;
    const bool composite = needs_composite(upstream);
    if (!composite && !grad_kl) {  // z depends on (mu, spread) and not on the prior
      latent = latent.slice(0, 2);
      spreads &= ~kPriorLogScale;
      gradients &= 3;
    }
    static const auto once = find_operator<decltype(rsample_backward)>("vaefast::rsample_backward"),
                      vjp = find_operator<decltype(rsample_backward)>("vaefast::rsample_vjp");
    const Tensors grads =
        (composite ? vjp : once).call(latent, key, grad_z, grad_kl, num_samples, batch_dims, gradients, spreads);
    auto next = grads.begin();
    for (size_t k = 0; k < latent.size(); ++k) {
      if (gradients >> k & 1) result[k] = *next++;
    }
    return result;
  }
};

}  // namespace

std::tuple<Tensor, Tensor> sample_and_kl_value(at::TensorList latent, int64_t num_samples, bool kl, int64_t batch_dims,
                                               std::optional<at::Generator> generator, int64_t spreads) {
  auto [z, sums, key] = rsample_op().call(latent, {}, num_samples, kl, batch_dims, std::move(generator), spreads);
  return {z, sums};
}

std::tuple<Tensor, Tensor> sample_and_kl(at::TensorList latent, int64_t num_samples, bool kl, int64_t batch_dims,
                                         std::optional<at::Generator> generator, int64_t spreads) {
  const variable_list out = SampleAndKl::apply(latent, num_samples, kl, batch_dims, std::move(generator), spreads);
  return {out[0], out[1]};
}

}  // namespace vaefast
