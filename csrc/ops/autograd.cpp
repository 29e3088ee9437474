// Loss and samples in the eager autograd graph. A Python Function costs as much per call as a small batch's arithmetic,
// so the common cases are nodes in C++. Whatever else may be asked of their backward passes (a retained graph,
// create_graph, batched gradients) goes to vaefast::elbo_vjp and rsample_vjp, which are written in Python
// (vaefast/autograd.py).
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/scalar_tensor.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <string>
#include <tuple>

#include "backend.h"
#include "plain.h"

namespace vaefast {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Tensors = std::vector<Tensor>;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Everything about a loss but its operands, as the operators' schemas order it.
#define VAEFAST_LOSS_OPTIONS                                                                              \
  const OptionalTensor &mask, const OptionalTensor &weight, const OptionalTensor &kl_weight, double beta, \
      std::string reduction, int64_t batch_dims, double target_scale

using Elbo = std::tuple<Tensor, Tensor, Tensor, Tensors>(std::string, at::TensorList, at::TensorList,
                                                         const OptionalTensor&, const OptionalTensor&,
                                                         const OptionalTensor&, double, std::string, int64_t, double,
                                                         int64_t);
using ElboVjp = Tensors(std::string, at::TensorList, at::TensorList, const OptionalTensor&, const OptionalTensor&,
                        const OptionalTensor&, double, std::string, int64_t, double, int64_t, const Tensor&);
using Scale = void(at::TensorList, const Tensor&);

template <class Signature>
c10::TypedOperatorHandle<Signature> find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

const c10::TypedOperatorHandle<Elbo>& elbo() {
  static const auto op = find<Elbo>("vaefast::elbo");
  return op;
}

bool is_batched(const Tensor& t) {
  return t.key_set().has_any(c10::DispatchKeySet({c10::DispatchKey::Batched, c10::DispatchKey::FuncTorchBatched}));
}

// An alias with a version counter of its own.
Tensor given_away(const Tensor& t) { return at::GradMode::is_enabled() || is_batched(t) ? t : t.variable_data(); }

OptionalTensor given(const Tensor& t) { return t.defined() ? OptionalTensor(t) : std::nullopt; }
Tensor or_undefined(const OptionalTensor& t) { return t.value_or(Tensor()); }

struct ElboLoss : torch::autograd::Function<ElboLoss> {
  static Tensor forward(AutogradContext* ctx, at::TensorList operands, at::TensorList latent, std::string likelihood,
                        VAEFAST_LOSS_OPTIONS) {
    int64_t gradients = 0, bit = 1;
    bool half = false;
    for (const at::TensorList list : {operands, latent}) {
      for (const Tensor& t : list) {
        if (t.requires_grad()) gradients |= bit;
        half |= t.scalar_type() == at::kHalf;
        bit <<= 1;
      }
    }
    const at::AutoDispatchBelowADInplaceOrView guard;
    // Unscaled float16 gradients would underflow before a GradScaler's factor reaches them: those wait for it.
    auto [loss, fit, kl, grads] = elbo().call(likelihood, operands, latent, mask, weight, kl_weight, beta, reduction,
                                              batch_dims, target_scale, half ? 0 : gradients);
    if (gradients == 0) return loss;
    variable_list saved{or_undefined(mask), or_undefined(weight), or_undefined(kl_weight)};
    saved.insert(saved.end(), operands.begin(), operands.end());
    saved.insert(saved.end(), latent.begin(), latent.end());
    saved.insert(saved.end(), grads.begin(), grads.end());
    ctx->save_for_backward(std::move(saved));
    auto& data = ctx->saved_data;
    data["likelihood"] = std::move(likelihood);
    data["reduction"] = std::move(reduction);
    data["numbers"] = c10::IValue(std::vector<double>{beta, target_scale});
    data["counts"] =
        c10::IValue(std::vector<int64_t>{int64_t(operands.size()), int64_t(latent.size()), batch_dims, gradients});
    data["has_gradients"] = !half;
    return loss;
  }

  static variable_list backward(AutogradContext* ctx, variable_list upstream) {
    const auto counts = ctx->saved_data["counts"].toIntVector();
    const int64_t arity = counts[0], inputs = counts[0] + counts[1], gradients = counts[3];
    variable_list result(inputs + 8);  // the operands, and the likelihood and options, which have no gradient
    const Tensor& grad = upstream[0];
    if (!grad.defined()) return result;
    const variable_list saved = ctx->get_saved_variables();
    const at::TensorList operands = at::TensorList(saved).slice(3, inputs);
    Tensors grads(saved.begin() + 3 + inputs, saved.end());
    if (at::GradMode::is_enabled() || is_batched(grad) || !ctx->saved_data["has_gradients"].toBool()) {
      static const auto vjp = find<ElboVjp>("vaefast::elbo_vjp");
      const auto numbers = ctx->saved_data["numbers"].toDoubleVector();
      grads = vjp.call(ctx->saved_data["likelihood"].toStringRef(), operands.slice(0, arity), operands.slice(arity),
                       given(saved[0]), given(saved[1]), given(saved[2]), numbers[0],
                       ctx->saved_data["reduction"].toStringRef(), counts[2], numbers[1], gradients, grad);
    } else {
      static const auto scale = find<Scale>("vaefast::scale_");
      ctx->saved_data["has_gradients"] = false;  // they are given away
      scale.call(grads, grad);
    }
    auto next = grads.begin();
    for (int64_t k = 0; k < inputs; ++k) {
      // What becomes of a gradient does not concern a retained graph.
      if (gradients >> k & 1) result[k] = given_away(*next++);
    }
    return result;
  }
};

using Sample = std::tuple<Tensor, Tensor, Tensor>(at::TensorList, const OptionalTensor&, int64_t, bool, int64_t,
                                                  std::optional<at::Generator>);
using SampleBackward = Tensors(at::TensorList, const Tensor&, const OptionalTensor&, const OptionalTensor&, int64_t,
                               int64_t, int64_t);

// (z, KL), of latent = (mu, logvar) or with the prior's two after them.
struct SampleAndKl : torch::autograd::Function<SampleAndKl> {
  static variable_list forward(AutogradContext* ctx, at::TensorList latent, int64_t num_samples, bool kl,
                               int64_t batch_dims, std::optional<at::Generator> generator) {
    int64_t gradients = 0;
    for (size_t k = 0; k < latent.size(); ++k) gradients |= int64_t(latent[k].requires_grad()) << k;
    const at::AutoDispatchBelowADInplaceOrView guard;
    static const auto op = find<Sample>("vaefast::rsample");
    auto [z, sums, key] = op.call(latent, {}, num_samples, kl, batch_dims, std::move(generator));
    variable_list saved{key};
    saved.insert(saved.end(), latent.begin(), latent.end());
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["options"] = c10::IValue(std::vector<int64_t>{num_samples, kl, batch_dims, gradients});
    ctx->set_materialize_grads(false);
    return {z, sums};
  }

  static variable_list backward(AutogradContext* ctx, variable_list upstream) {
    const auto options = ctx->saved_data["options"].toIntVector();
    const variable_list saved = ctx->get_saved_variables();
    at::TensorList latent = at::TensorList(saved).slice(1);
    variable_list result(latent.size() + 4);  // the latents, and the options, which have no gradient
    const OptionalTensor grad_z = given(upstream[0]);
    const OptionalTensor grad_kl = options[1] ? given(upstream[1]) : std::nullopt;
    if (!grad_z && !grad_kl) return result;
    int64_t gradients = options[3];
    const bool exotic =
        at::GradMode::is_enabled() || (grad_z && is_batched(*grad_z)) || (grad_kl && is_batched(*grad_kl));
    if (!exotic && !grad_kl) latent = latent.slice(0, 2), gradients &= 3;  // z does not depend on the prior
    static const auto plain = find<SampleBackward>("vaefast::rsample_backward"),
                      vjp = find<SampleBackward>("vaefast::rsample_vjp");
    const Tensors grads =
        (exotic ? vjp : plain).call(latent, saved[0], grad_z, grad_kl, options[0], options[2], gradients);
    auto next = grads.begin();
    for (size_t k = 0; k < latent.size(); ++k) {
      if (gradients >> k & 1) result[k] = *next++;
    }
    return result;
  }
};

std::tuple<Tensor, Tensor> sample_and_kl(at::TensorList latent, int64_t num_samples, bool kl, int64_t batch_dims,
                                         std::optional<at::Generator> generator) {
  const variable_list out = SampleAndKl::apply(latent, num_samples, kl, batch_dims, std::move(generator));
  return {out[0], out[1]};
}

// Under inference mode, and wherever nothing is recorded.
Tensor elbo_loss_value(std::string likelihood, at::TensorList operands, at::TensorList latent, VAEFAST_LOSS_OPTIONS) {
  return std::get<0>(
      elbo().call(likelihood, operands, latent, mask, weight, kl_weight, beta, reduction, batch_dims, target_scale, 0));
}

Tensor elbo_loss(std::string likelihood, at::TensorList operands, at::TensorList latent, VAEFAST_LOSS_OPTIONS) {
  if (!at::GradMode::is_enabled()) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return elbo_loss_value(likelihood, operands, latent, mask, weight, kl_weight, beta, reduction, batch_dims,
                           target_scale);
  }
  for (const OptionalTensor* t : {&weight, &kl_weight}) {
    TORCH_CHECK(!*t || !(*t)->requires_grad(), "vaefast::elbo_loss has no derivative by its weights");
  }
  return ElboLoss::apply(operands, latent, likelihood, mask, weight, kl_weight, beta, reduction, batch_dims,
                         target_scale);
}

// No wrapper of torch.func, no subclass, view flag, layout or tangent with a meaning of its own.
bool is_ordinary(const Tensor& t) {
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

std::optional<Tensor> plain_elbo_loss(const std::string& likelihood, const Tensor& recon_x, const Tensor& x,
                                      const Tensor& mu, const Tensor& logvar, double beta, const std::string& reduction,
                                      double target_scale, const std::vector<double>& numbers) {
  if (c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode)) return std::nullopt;
  for (const Tensor* t : {&recon_x, &x, &mu, &logvar}) {
    if (!is_ordinary(*t) || t->device() != x.device()) return std::nullopt;
  }
  const bool types = is_prediction(recon_x) && is_target(x) && is_prediction(mu) && is_prediction(logvar);
  const bool shapes = recon_x.sizes() == x.sizes() && mu.sizes() == logvar.sizes() && x.dim() > 0 && mu.dim() > 0;
  if (!types || !shapes || x.size(0) != mu.size(0)) return std::nullopt;
  static const auto op =
      find<Tensor(std::string, at::TensorList, at::TensorList, const OptionalTensor&, const OptionalTensor&,
                  const OptionalTensor&, double, std::string, int64_t, double)>("vaefast::elbo_loss");
  Tensors operands{recon_x, x};
  const at::ScalarType type = recon_x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  for (const double number : numbers) operands.push_back(at::scalar_tensor(number, recon_x.options().dtype(type)));
  return op.call(likelihood, operands, {mu, logvar}, {}, {}, {}, beta, reduction, 1, target_scale);
}

TORCH_LIBRARY_FRAGMENT(vaefast, m) {
  m.def(
      "elbo_loss(str likelihood, Tensor[] operands, Tensor[] latent, Tensor? mask, Tensor? weight, Tensor? kl_weight, "
      "float beta, str reduction, int batch_dims, float target_scale) -> Tensor");
  m.def(
      "elbo_vjp(str likelihood, Tensor[] operands, Tensor[] latent, Tensor? mask, Tensor? weight, Tensor? kl_weight, "
      "float beta, str reduction, int batch_dims, float target_scale, int gradients, Tensor grad) -> Tensor[]");
  m.def(
      "sample_and_kl(Tensor[] latent, int num_samples, bool kl, int batch_dims, Generator? generator) "
      "-> (Tensor, Tensor)",
      {at::Tag::nondeterministic_seeded});
  m.def(
      "rsample_vjp(Tensor[] latent, Tensor key, Tensor? grad_z, Tensor? grad_kl, int num_samples, int batch_dims, "
      "int gradients) -> Tensor[]");
}

TORCH_LIBRARY_IMPL(vaefast, Autograd, m) {
  m.impl("elbo_loss", elbo_loss);
  m.impl("sample_and_kl", sample_and_kl);
}
TORCH_LIBRARY_IMPL(vaefast, CompositeExplicitAutograd, m) { m.impl("elbo_loss", elbo_loss_value); }

}  // namespace vaefast
