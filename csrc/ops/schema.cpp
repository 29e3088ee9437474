// The operators' schemas, and which function serves which dispatch key. Python (vaefast/ops) adds the fake kernels
// and implements row_sum_vjp, elbo_vjp and rsample_vjp.
#include <torch/library.h>

#include "dispatch.h"

namespace vaefast {

TORCH_LIBRARY(vaefast, m) {
  m.def(
      "row_sum(str term, Tensor[] operands, Tensor? mask, Tensor? coef, str reduction, int batch_dims, "
      "float target_scale, int gradients, bool value, int spreads=0) -> (Tensor, Tensor[])");
  m.def(
      "reduced_term(str term, Tensor[] operands, Tensor? mask, str reduction, int batch_dims, float target_scale, "
      "int spreads) -> Tensor");
  m.def(
      "row_sum_vjp(str term, Tensor[] operands, Tensor? mask, Tensor grad, str reduction, int batch_dims, "
      "float target_scale, int gradients, int spreads) -> Tensor[]");
  m.def(
      "elbo(str likelihood, Tensor[] operands, Tensor[] latent, Tensor? mask, Tensor? weight, Tensor? kl_weight, "
      "float beta, str reduction, int batch_dims, float target_scale, int spreads, int gradients) "
      "-> (Tensor, Tensor, Tensor, Tensor[])");
  m.def(
      "elbo_(Tensor(a!) prediction, str likelihood, Tensor[] others, Tensor[] latent, Tensor? mask, Tensor? weight, "
      "Tensor? kl_weight, float beta, str reduction, int batch_dims, float target_scale, int spreads, int gradients) "
      "-> (Tensor, Tensor, Tensor, Tensor[])");
  m.def(
      "elbo_loss(str likelihood, Tensor[] operands, Tensor[] latent, Tensor? mask, Tensor? weight, Tensor? kl_weight, "
      "float beta, str reduction, int batch_dims, float target_scale, int spreads) -> Tensor");
  m.def(
      "elbo_parts(str likelihood, Tensor[] operands, Tensor[] latent, Tensor? mask, Tensor? weight, Tensor? kl_weight, "
      "float beta, str reduction, int batch_dims, float target_scale, int spreads) -> (Tensor, Tensor, Tensor)");
  m.def(
      "elbo_parts_(Tensor(a!) prediction, str likelihood, Tensor[] others, Tensor[] latent, Tensor? mask, "
      "Tensor? weight, Tensor? kl_weight, float beta, str reduction, int batch_dims, float target_scale, "
      "int spreads) -> (Tensor, Tensor, Tensor)");
  m.def(
      "elbo_vjp(str likelihood, Tensor[] operands, Tensor[] latent, Tensor? mask, Tensor? weight, Tensor? kl_weight, "
      "float beta, str reduction, int batch_dims, float target_scale, int spreads, Tensor? fit, Tensor? kl, "
      "int gradients, Tensor? grad, Tensor? grad_fit, Tensor? grad_kl) -> Tensor[]");
  m.def(
      "rsample(Tensor[] latent, Tensor? key, int num_samples, bool kl, int batch_dims, Generator? generator, "
      "int spreads=0) -> (Tensor, Tensor, Tensor)",
      {at::Tag::nondeterministic_seeded});
  m.def(
      "rsample_backward(Tensor[] latent, Tensor key, Tensor? grad_z, Tensor? grad_kl, int num_samples, int batch_dims, "
      "int gradients, int spreads=0) -> Tensor[]");
  m.def(
      "rsample_vjp(Tensor[] latent, Tensor key, Tensor? grad_z, Tensor? grad_kl, int num_samples, int batch_dims, "
      "int gradients, int spreads=0) -> Tensor[]");
  m.def(
      "sample_and_kl(Tensor[] latent, int num_samples, bool kl, int batch_dims, Generator? generator, "
      "int spreads=0) -> (Tensor, Tensor)",
      {at::Tag::nondeterministic_seeded});
  m.def("scale_(Tensor(a!)[] tensors, Tensor factor) -> ()");
}

static void implement(torch::Library& m) {
  m.impl("row_sum", row_sum);
  m.impl("elbo", ElboOp::flat<elbo>);
  m.impl("elbo_", ElboInPlaceOp::flat<elbo_>);
  m.impl("rsample", rsample);
  m.impl("rsample_backward", rsample_backward);
  m.impl("scale_", scale_);
}
TORCH_LIBRARY_IMPL(vaefast, CPU, m) { implement(m); }
TORCH_LIBRARY_IMPL(vaefast, CUDA, m) { implement(m); }

TORCH_LIBRARY_IMPL(vaefast, Autograd, m) {
  m.impl("reduced_term", reduced_term);
  m.impl("elbo_loss", ElboLossOp::flat<elbo_loss>);
  m.impl("elbo_parts", ElboPartsOp::flat<elbo_parts>);
  m.impl("elbo_parts_", ElboPartsInPlaceOp::flat<elbo_parts_>);
  m.impl("sample_and_kl", sample_and_kl);
}
TORCH_LIBRARY_IMPL(vaefast, CompositeExplicitAutograd, m) {
  m.impl("reduced_term", reduced_term_value);
  m.impl("elbo_loss", ElboLossOp::flat<elbo_loss_value>);
  m.impl("elbo_parts", ElboPartsOp::flat<elbo_parts_value>);
  m.impl("sample_and_kl", sample_and_kl_value);
}

}  // namespace vaefast
