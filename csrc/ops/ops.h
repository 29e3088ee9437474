// The operators torch.ops.vaefast.*, one to a source file of its name; schema.cpp registers them. In all of them, bit k
// of `gradients` asks for the gradient by operand k; the gradients come in the operands' order.
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

// Everything about a loss but its likelihood and its operands.
struct LossOptions {
  OptionalTensor mask;       // elements of the data where it is false contribute nothing
  OptionalTensor weight;     // of each sample, or one for all
  OptionalTensor kl_weight;  // multiplies beta; stands for weight * beta where beta is a tensor
  double beta = 1;           // of the KL
  std::string reduction;     // "sum" or "mean"
  int64_t batch_dims = 1;    // leading dimensions that are samples
  double target_scale = 1;   // multiplies the data
};

// term.cpp. A term reduced over each row, over everything or not at all, and gradients of that times coef. `value`
// false: gradients alone.
std::tuple<Tensor, Tensors> row_sum(std::string term, at::TensorList operands, const OptionalTensor& mask,
                                    const OptionalTensor& coef, std::string reduction, int64_t batch_dims,
                                    double target_scale, int64_t gradients, bool value);

// loss.cpp. loss = reduction over the batch of weight * (beta * KL - log-likelihood); then the log-likelihood and the
// KL of each sample, and the gradients of the loss by the operands and then the latents. latent: (mu, logvar), or with
// (prior_mu, prior_logvar) after them.
using Loss = std::tuple<Tensor, Tensor, Tensor, Tensors>;
Loss elbo(std::string likelihood, at::TensorList operands, at::TensorList latent, const LossOptions& options,
          int64_t gradients);
// The same, but the prediction, operand 0, becomes its own gradient, which is not returned.
Loss elbo_(const Tensor& prediction, std::string likelihood, at::TensorList others, at::TensorList latent,
           const LossOptions& options, int64_t gradients);

// loss_autograd.cpp. The loss alone: with a derivative, and where nothing is recorded. elbo_vjp is its derivative where
// more is asked than one plain backward pass; Python implements it.
Tensor elbo_loss(std::string likelihood, at::TensorList operands, at::TensorList latent, const LossOptions& options);
Tensor elbo_loss_value(std::string likelihood, at::TensorList operands, at::TensorList latent,
                       const LossOptions& options);

// sample.cpp. (z, KL of each row or nothing, key of the noise). num_samples -1: one sample, without the leading
// dimension. A key is (seed, offset) as two int64; without one, one is drawn.
using Sample = std::tuple<Tensor, Tensor, Tensor>;
Sample rsample(at::TensorList latent, const OptionalTensor& given_key, int64_t num_samples, bool kl, int64_t batch_dims,
               std::optional<at::Generator> generator);
Tensors rsample_backward(at::TensorList latent, const Tensor& key, const OptionalTensor& grad_z,
                         const OptionalTensor& grad_kl, int64_t num_samples, int64_t batch_dims, int64_t gradients);

// sample_autograd.cpp. (z, KL) with a derivative. rsample_vjp is to it what elbo_vjp is to elbo_loss.
std::tuple<Tensor, Tensor> sample_and_kl(at::TensorList latent, int64_t num_samples, bool kl, int64_t batch_dims,
                                         std::optional<at::Generator> generator);

// scale.cpp. Multiplies gradients that the forward pass left by the upstream gradient, in place.
void scale_(at::TensorList tensors, const Tensor& factor);

}  // namespace vaefast
