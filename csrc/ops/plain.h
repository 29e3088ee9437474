// The whole of an everyday call in one step.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

namespace vaefast {

// vaefast::elbo_loss of four ordinary tensors that fit together, and of numbers as the likelihood's other operands;
// nothing where anything about the tensors is unusual, and Python must look at it.
std::optional<at::Tensor> plain_elbo_loss(const std::string& likelihood, const at::Tensor& recon_x, const at::Tensor& x,
                                          const at::Tensor& mu, const at::Tensor& logvar, double beta,
                                          const std::string& reduction, double target_scale,
                                          const std::vector<double>& numbers);

}  // namespace vaefast
