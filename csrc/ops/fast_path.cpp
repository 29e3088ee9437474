#include "fast_path.h"

#include <ATen/ops/scalar_tensor.h>

#include "backend.h"
#include "dispatch.h"

namespace vaefast {
namespace {

// Whether a tensor is dense memory of a device with kernels and nothing else: no wrapper of torch.func, no subclass,
// lazy conjugate or negative view, other layout, inference tensor or forward-mode tangent.
bool is_dense_memory(const Tensor& t) {
  const auto keys_on = [](c10::DispatchKey device, c10::BackendComponent backend) {
    return c10::DispatchKeySet(device) | c10::inplace_or_view_ks | c10::getAutogradRelatedKeySetFromBackend(backend) |
           c10::getAutocastRelatedKeySetFromBackend(backend);
  };
  static const c10::DispatchKeySet cpu = keys_on(c10::DispatchKey::CPU, c10::BackendComponent::CPUBit);
  if (t._fw_grad(0).defined()) return false;
  if (t.is_cpu()) return t.key_set() == cpu;
  if (!t.is_cuda() || !has_backend(at::kCUDA)) return false;
  static const c10::DispatchKeySet cuda = keys_on(c10::DispatchKey::CUDA, c10::BackendComponent::CUDABit);
  return t.key_set() == cuda;
}

bool is_prediction(const Tensor& t) {
  const at::ScalarType type = t.scalar_type();
  return type == at::kFloat || type == at::kBFloat16 || type == at::kHalf || type == at::kDouble;
}

bool is_target(const Tensor& t) {
  return is_prediction(t) || t.scalar_type() == at::kByte || t.scalar_type() == at::kBool;
}

}  // namespace

std::optional<Tensor> fast_elbo_loss(const std::string& likelihood, const Tensor& recon_x, const Tensor& x,
                                     const Tensor& mu, const Tensor& logvar, double beta, const std::string& reduction,
                                     double target_scale, const std::vector<double>& numbers) {
  if (c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode)) return std::nullopt;
  for (const Tensor* t : {&recon_x, &x, &mu, &logvar}) {
    if (!is_dense_memory(*t) || t->device() != x.device()) return std::nullopt;
  }
  const bool types = is_prediction(recon_x) && is_target(x) && is_prediction(mu) && is_prediction(logvar);
  const bool shapes = recon_x.sizes() == x.sizes() && mu.sizes() == logvar.sizes() && x.dim() > 0 && mu.dim() > 0;
  if (!types || !shapes || x.size(0) != mu.size(0)) return std::nullopt;
  static const ElboLossOp elbo_loss("vaefast::elbo_loss");
  LossOptions options;
  options.beta = beta;
  options.reduction = reduction;
  options.target_scale = target_scale;
  Tensors operands{recon_x, x};
  const at::ScalarType type = recon_x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  for (const double number : numbers) operands.push_back(at::scalar_tensor(number, recon_x.options().dtype(type)));
  return elbo_loss(likelihood, operands, {mu, logvar}, options);
}

}  // namespace vaefast
