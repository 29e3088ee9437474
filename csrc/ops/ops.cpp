// The operators, and their registration. Python (vaefast/_ops.py) adds the fake kernels; autograd is in autograd.cpp
// and vaefast/autograd.py.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <tuple>

#include "backend.h"
#include "buffers.h"
#include "sweep.h"

namespace vaefast {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Tensors = std::vector<Tensor>;

double loss_scale(const std::string& reduction, int64_t rows) {
  if (reduction == "mean") return 1.0 / double(rows);
  TORCH_CHECK_VALUE(reduction == "sum" || reduction == "none" || reduction == "elementwise",
                    "vaefast: reduction must be 'none', 'sum', 'mean' or 'elementwise', got '", reduction, "'");
  return 1.0;
}

// The KL of latent = (mu, logvar), or with (prior_mu, prior_logvar) after them.
int kl_term(at::TensorList latent) { return find_term(latent.size() == 2 ? "gaussian_kl" : "gaussian_kl_pair"); }

std::tuple<Tensor, Tensors> row_sum(std::string term, at::TensorList operands, const OptionalTensor& mask,
                                    const OptionalTensor& coef, std::string reduction, int64_t batch_dims,
                                    double target_scale, int64_t gradients, bool value) {
  TORCH_CHECK_VALUE(!operands.empty(), "vaefast: row_sum needs operands");
  Sweep sweep(find_term(term), operands, batch_dims);
  sweep.args.target_scale = target_scale;
  sweep.set_mask(mask);
  sweep.set_coef(loss_scale(reduction, sweep.args.rows), coef);
  const bool scalar = reduction == "sum" || reduction == "mean";
  TORCH_CHECK_VALUE(!(scalar && value) || sweep.args.coef.col_stride == 0,
                    "vaefast: a sum over everything takes coef by row, got one of the full shape");
  Tensor out;
  if (!value) out = at::empty({0}, sweep.options());
  else if (scalar) out = sweep.want_loss(sweep.args.wide);
  else out = reduction == "none" ? sweep.want_row_sums() : sweep.want_elementwise();
  Tensors grads = sweep.want_gradients(gradients);
  sweep.run();
  return {out, grads};
}

using Loss = std::tuple<Tensor, Tensor, Tensor, Tensors>;

// loss = reduction over the batch of weight * (beta * KL - log-likelihood); kl_weight stands for weight * beta where
// beta is a tensor. `place`: where the gradient by the prediction goes, and is then not returned.
Loss elbo_into(const OptionalTensor& place, const std::string& likelihood, at::TensorList operands,
               at::TensorList latent, const OptionalTensor& mask, const OptionalTensor& weight,
               const OptionalTensor& kl_weight, double beta, const std::string& reduction, int64_t batch_dims,
               double target_scale, int64_t gradients) {
  TORCH_CHECK_VALUE(!operands.empty() && !latent.empty(), "vaefast: elbo needs operands and latent");
  Sweep fit(find_term(likelihood), operands, batch_dims);
  Sweep kl(kl_term(latent), latent, batch_dims);
  TORCH_CHECK_VALUE(latent[0].device() == operands[0].device(), "vaefast: elbo got data on ", operands[0].device(),
                    " and latents on ", latent[0].device());
  TORCH_CHECK_VALUE(fit.args.rows == kl.args.rows, "vaefast: elbo got ", fit.args.rows, " samples of data and ",
                    kl.args.rows, " of latents");
  TORCH_CHECK_VALUE(reduction == "sum" || reduction == "mean", "vaefast: elbo reduces by 'sum' or 'mean'");
  const double scale = loss_scale(reduction, fit.args.rows);
  for (const OptionalTensor* t : {&weight, &kl_weight}) {
    TORCH_CHECK_VALUE(!*t || (*t)->numel() == 1 || (*t)->sizes() == fit.batch_shape(),
                      "vaefast: weights must have shape ", fit.batch_shape(), ", got ", (*t)->sizes());
  }
  fit.args.target_scale = target_scale;
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

Loss elbo(std::string likelihood, at::TensorList operands, at::TensorList latent, const OptionalTensor& mask,
          const OptionalTensor& weight, const OptionalTensor& kl_weight, double beta, std::string reduction,
          int64_t batch_dims, double target_scale, int64_t gradients) {
  return elbo_into({}, likelihood, operands, latent, mask, weight, kl_weight, beta, reduction, batch_dims, target_scale,
                   gradients);
}

// The prediction, operand 0, becomes its own gradient.
Loss elbo_(const Tensor& prediction, std::string likelihood, at::TensorList others, at::TensorList latent,
           const OptionalTensor& mask, const OptionalTensor& weight, const OptionalTensor& kl_weight, double beta,
           std::string reduction, int64_t batch_dims, double target_scale, int64_t gradients) {
  Tensors operands = others.vec();
  operands.insert(operands.begin(), prediction);
  Loss loss = elbo_into(prediction, likelihood, operands, latent, mask, weight, kl_weight, beta, reduction, batch_dims,
                        target_scale, gradients | 1);
  Tensors& grads = std::get<3>(loss);
  grads.erase(grads.begin());
  return loss;
}

// A key is (seed, offset) as two int64. num_samples -1: one sample, without the leading dimension.
void set_sampling(Sweep& sweep, const Tensor& key, int64_t num_samples) {
  TORCH_CHECK_VALUE(key.scalar_type() == at::kLong && key.numel() == 2 && key.is_contiguous() &&
                        key.device() == sweep.options().device(),
                    "vaefast: a noise key is two int64 on the latents' device");
  Sampling& s = sweep.args.sampling;
  const bool empty = sweep.args.rows == 0 || sweep.args.cols == 0;  // then no output has an address, either
  s.samples = empty ? 0 : num_samples < 0 ? 1 : num_samples;
  s.key.seed_at = key.const_data_ptr<int64_t>();
  s.key.offset_at = s.key.seed_at + 1;
}

std::vector<int64_t> sample_shape(const Sweep& sweep, int64_t num_samples) {
  std::vector<int64_t> shape = sweep.shape().vec();
  if (num_samples >= 0) shape.insert(shape.begin(), num_samples);
  return shape;
}

int sampling_term(at::TensorList latent, bool kl) { return kl ? kl_term(latent) : -1; }

std::tuple<Tensor, Tensor, Tensor> rsample(at::TensorList latent, const OptionalTensor& given_key, int64_t num_samples,
                                           bool kl, int64_t batch_dims, std::optional<at::Generator> generator) {
  TORCH_CHECK_VALUE(!latent.empty(), "vaefast: rsample needs mu and logvar");
  Sweep sweep(sampling_term(latent, kl), latent, batch_dims);
  const Tensor z = empty_result(sample_shape(sweep, num_samples), latent[0].options());
  const Tensor sums = kl ? sweep.want_row_sums() : at::empty({0}, sweep.options());
  NoiseKey drawn;
  const Tensor key =
      given_key ? given_key->clone() : backend(latent[0].device().type()).draw_key(generator, latent[0], drawn);
  set_sampling(sweep, key, num_samples);
  if (!given_key) sweep.args.sampling.key = drawn;
  sweep.args.sampling.z = {z.mutable_data_ptr(), dtype_of(z), sweep.args.cols, 1};
  sweep.run();
  return {z, sums, key};
}

Tensors rsample_backward(at::TensorList latent, const Tensor& key, const OptionalTensor& grad_z,
                         const OptionalTensor& grad_kl, int64_t num_samples, int64_t batch_dims, int64_t gradients) {
  TORCH_CHECK_VALUE(!latent.empty(), "vaefast: rsample_backward needs mu and logvar");
  Sweep sweep(sampling_term(latent, grad_kl.has_value()), latent, batch_dims);
  if (gradients == 0 || (!grad_kl && (!grad_z || num_samples == 0))) {  // nothing is asked for, or nothing flows back
    Tensors zeros;
    for (size_t k = 0; k < latent.size(); ++k) {
      if (gradients >> k & 1) zeros.push_back(at::zeros_like(latent[k]));
    }
    return zeros;
  }
  sweep.set_coef(1, grad_kl);
  Tensor upstream;
  if (grad_z) {
    TORCH_CHECK_TYPE(grad_z->is_floating_point(), "vaefast: grad_z must be floating point, got ",
                     grad_z->scalar_type());
    TORCH_CHECK_VALUE(
        grad_z->sizes() == sample_shape(sweep, num_samples) && grad_z->device() == sweep.options().device(),
        "vaefast: grad_z has shape ", grad_z->sizes(), " on ", grad_z->device());
    upstream = grad_z->contiguous();
    set_sampling(sweep, key, num_samples);
    sweep.args.sampling.grad_z = {const_cast<void*>(upstream.const_data_ptr()), dtype_of(upstream), sweep.args.cols, 1};
  }
  Tensors grads = sweep.want_gradients(gradients);
  sweep.run();
  return grads;
}

// Multiplies gradients that the forward pass left by the upstream gradient, in place.
void scale_(at::TensorList tensors, const Tensor& factor) {
  TORCH_CHECK_VALUE(factor.numel() == 1, "vaefast: scale_ takes a factor of one element, got ", factor.numel());
  for (const Tensor& t : tensors) {
    TORCH_CHECK_TYPE(t.is_floating_point(), "vaefast: scale_ takes floating tensors, got ", t.scalar_type());
    TORCH_CHECK_VALUE(t.device() == factor.device(), "vaefast: scale_ got a tensor on ", t.device(),
                      " and a factor on ", factor.device());
  }
  backend(factor.device().type()).scale(tensors, factor);
}

}  // namespace

TORCH_LIBRARY(vaefast, m) {
  m.def(
      "row_sum(str term, Tensor[] operands, Tensor? mask, Tensor? coef, str reduction, int batch_dims, "
      "float target_scale, int gradients, bool value) -> (Tensor, Tensor[])");
  m.def(
      "elbo(str likelihood, Tensor[] operands, Tensor[] latent, Tensor? mask, Tensor? weight, Tensor? kl_weight, "
      "float beta, str reduction, int batch_dims, float target_scale, int gradients) "
      "-> (Tensor, Tensor, Tensor, Tensor[])");
  m.def(
      "elbo_(Tensor(a!) prediction, str likelihood, Tensor[] others, Tensor[] latent, Tensor? mask, Tensor? weight, "
      "Tensor? kl_weight, float beta, str reduction, int batch_dims, float target_scale, int gradients) "
      "-> (Tensor, Tensor, Tensor, Tensor[])");
  m.def(
      "rsample(Tensor[] latent, Tensor? key, int num_samples, bool kl, int batch_dims, Generator? generator) "
      "-> (Tensor, Tensor, Tensor)",
      {at::Tag::nondeterministic_seeded});
  m.def(
      "rsample_backward(Tensor[] latent, Tensor key, Tensor? grad_z, Tensor? grad_kl, int num_samples, int batch_dims, "
      "int gradients) -> Tensor[]");
  m.def("scale_(Tensor(a!)[] tensors, Tensor factor) -> ()");
}

void implement(torch::Library& m) {
  m.impl("row_sum", row_sum);
  m.impl("elbo", elbo);
  m.impl("elbo_", elbo_);
  m.impl("rsample", rsample);
  m.impl("rsample_backward", rsample_backward);
  m.impl("scale_", scale_);
}
TORCH_LIBRARY_IMPL(vaefast, CPU, m) { implement(m); }
TORCH_LIBRARY_IMPL(vaefast, CUDA, m) { implement(m); }

}  // namespace vaefast
