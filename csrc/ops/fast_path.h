// The fast path: checks and runs the common loss in one call.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

namespace vaefast {

// vaefast::elbo_loss, its batch being the first dimension. `numbers` are the likelihood's operands after the prediction
// and the data, such as a fixed scale. Nothing where the call does not fit the fast path; Python must then look at it.
std::optional<at::Tensor> fast_elbo_loss(const std::string& likelihood, const at::Tensor& recon_x, const at::Tensor& x,
                                         const at::Tensor& mu, const at::Tensor& logvar, double beta,
                                         const std::string& reduction, double target_scale,
                                         const std::vector<double>& numbers);

}  // namespace vaefast
