// The operators torch.ops.vaefast.*, which schema.cpp registers. In all of them, bit k of `gradients` asks for the
// gradient by operand k; the gradients come in the operands' order.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

namespace vaefast {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Tensors = std::vector<Tensor>;

// How the latents' spreads are given, as bits. Without one, they are log sigma^2. A list would say it more plainly, but
// the programs that torch._inductor.aoti_compile_and_package makes lose an empty list.
enum Spreads : int64_t {
  kLogScale = 1,       // q's is log sigma
  kPriorLogScale = 2,  // the prior's is log sigma
  kScale = 4,          // all are sigma
};

// Everything about a loss except its likelihood and its operands.
struct LossOptions {
  OptionalTensor mask;       // of the data; an element where it is false adds nothing
  OptionalTensor weight;     // of each sample, or one for all; of the log-likelihood
  OptionalTensor kl_weight;  // the same of the KL: the weight, times beta where beta is a tensor
  double beta = 1;           // multiplies kl_weight
  std::string reduction;     // "sum" or "mean"
  int64_t batch_dims = 1;    // the leading dimensions, whose elements are samples
  double target_scale = 1;   // multiplies the data, 1 / 255 for bytes
  int64_t spreads = 0;       // of the latents, as bits of Spreads
};

// term.cpp: a term, summed over each row, over everything or not at all, and its gradients times coef. `value` false:
// the gradients alone. A KL takes `spreads`.
std::tuple<Tensor, Tensors> row_sum(std::string term, at::TensorList operands, const OptionalTensor& mask,
                                    const OptionalTensor& coef, std::string reduction, int64_t batch_dims,
                                    double target_scale, int64_t gradients, bool value, int64_t spreads);

// mixture.cpp: the same of a mixture, whose name is kMixture. Its operands are logits (batch, M, P), x (batch, C, P),
// mean and log_scale (batch, M, C, P), the grid (MixtureArgs), and where channels are coupled their coefficients
// (batch, M, C (C - 1) / 2, P). An element of the value is a pixel: (batch, P).
constexpr const char* kMixture = "discretized_logistic_mixture";
std::tuple<Tensor, Tensors> mixture(at::TensorList operands, const OptionalTensor& mask, const OptionalTensor& coef,
                                    const std::string& reduction, int64_t batch_dims, double target_scale,
                                    int64_t gradients, bool value);

// term_autograd.cpp: the value of row_sum with a derivative. That with _value serves where autograd records nothing.
// Python implements row_sum_vjp, the derivative where it must have one itself or is batched.
Tensor reduced_term(std::string term, at::TensorList operands, const OptionalTensor& mask, std::string reduction,
                    int64_t batch_dims, double target_scale, int64_t spreads);
Tensor reduced_term_value(std::string term, at::TensorList operands, const OptionalTensor& mask, std::string reduction,
                          int64_t batch_dims, double target_scale, int64_t spreads);
Tensors row_sum_vjp(std::string term, at::TensorList operands, const OptionalTensor& mask, const Tensor& grad,
                    std::string reduction, int64_t batch_dims, double target_scale, int64_t gradients, int64_t spreads);

// loss.cpp: the loss is the reduction over the batch of beta * kl_weight * KL - weight * log-likelihood. It comes with
// the log-likelihood and the KL of each sample, and with its gradients by the operands and then the latents. latent is
// (mu, spread), or (mu, spread, prior_mu, prior_spread).
using Loss = std::tuple<Tensor, Tensor, Tensor, Tensors>;
Loss elbo(std::string likelihood, at::TensorList operands, at::TensorList latent, const LossOptions& options,
          int64_t gradients);
// In place: the prediction, operand 0, is overwritten by its own gradient, which is not returned.
Loss elbo_(const Tensor& prediction, std::string likelihood, at::TensorList others, at::TensorList latent,
           const LossOptions& options, int64_t gradients);

// loss_autograd.cpp, with a derivative: elbo_loss is the loss alone, elbo_parts is (loss, log-likelihood, KL), and
// elbo_parts_ overwrites the prediction by its gradient. Those with _value serve where autograd records nothing.
// Python implements elbo_vjp, the derivative if one backward pass from the loss does not suffice.
Tensor elbo_loss(std::string likelihood, at::TensorList operands, at::TensorList latent, const LossOptions& options);
Tensor elbo_loss_value(std::string likelihood, at::TensorList operands, at::TensorList latent,
                       const LossOptions& options);
using Parts = std::tuple<Tensor, Tensor, Tensor>;
Parts elbo_parts(std::string likelihood, at::TensorList operands, at::TensorList latent, const LossOptions& options);
Parts elbo_parts_value(std::string likelihood, at::TensorList operands, at::TensorList latent,
                       const LossOptions& options);
Parts elbo_parts_(const Tensor& prediction, std::string likelihood, at::TensorList others, at::TensorList latent,
                  const LossOptions& options);

// sample.cpp: z, the KL of each row where it is asked for, and the key of the noise, which is (seed, offset) as two
// int64. Without a given key, one is drawn. num_samples -1: one sample, without the leading dimension.
using Sample = std::tuple<Tensor, Tensor, Tensor>;
Sample rsample(at::TensorList latent, const OptionalTensor& given_key, int64_t num_samples, bool kl, int64_t batch_dims,
               std::optional<at::Generator> generator, int64_t spreads);
Tensors rsample_backward(at::TensorList latent, const Tensor& key, const OptionalTensor& grad_z,
                         const OptionalTensor& grad_kl, int64_t num_samples, int64_t batch_dims, int64_t gradients,
                         int64_t spreads);

// sample_autograd.cpp: (z, KL) with a derivative. rsample_vjp is to it what elbo_vjp is to elbo_loss.
std::tuple<Tensor, Tensor> sample_and_kl(at::TensorList latent, int64_t num_samples, bool kl, int64_t batch_dims,
                                         std::optional<at::Generator> generator, int64_t spreads);
std::tuple<Tensor, Tensor> sample_and_kl_value(at::TensorList latent, int64_t num_samples, bool kl, int64_t batch_dims,
                                               std::optional<at::Generator> generator, int64_t spreads);

// scale.cpp: multiplies the gradients that the forward pass has made by the upstream gradient, in place.
void scale_(at::TensorList tensors, const Tensor& factor);

}  // namespace vaefast
