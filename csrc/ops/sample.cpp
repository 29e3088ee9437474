// Reparameterized samples and their backward pass, with the KL of the latents where it is asked for.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>

#include "backend.h"
#include "buffers.h"
#include "ops.h"
#include "sweep.h"

namespace vaefast {
namespace {

// The kernels of samples sum no gradient over rows or columns.
void check_shapes(at::TensorList latent) {
  for (const Tensor& t : latent) {
    TORCH_CHECK_VALUE(t.sizes() == latent[0].sizes() || t.numel() == 1,
                      "vaefast: samples are of latents of one shape, ", latent[0].sizes(), ", got ", t.sizes());
  }
}

void set_sampling(Sweep& sweep, const Tensor& key, int64_t num_samples, int64_t spreads) {
  TORCH_CHECK_VALUE(key.scalar_type() == at::kLong && key.numel() == 2 && key.is_contiguous() &&
                        key.device() == sweep.options().device(),
                    "vaefast: a noise key is two int64 on the latents' device");
  Sampling& s = sweep.args.sampling;
  const bool empty = sweep.args.rows == 0 || sweep.args.cols == 0;  // then no output has an address
  s.samples = empty ? 0 : num_samples < 0 ? 1 : num_samples;
  s.by_scale = spreads == kScale;
  s.key.seed_at = key.const_data_ptr<int64_t>();
  s.key.offset_at = s.key.seed_at + 1;
}

std::vector<int64_t> sample_shape(const Sweep& sweep, int64_t num_samples) {
  std::vector<int64_t> shape = sweep.shape().vec();
  if (num_samples >= 0) shape.insert(shape.begin(), num_samples);
  return shape;
}

int sampling_term(at::TensorList latent, bool kl, int64_t spreads) {
  return kl ? Terms::kl_term(latent.size(), spreads == kScale) : -1;
}

}  // namespace

Sample rsample(at::TensorList latent, const OptionalTensor& given_key, int64_t num_samples, bool kl, int64_t batch_dims,
               std::optional<at::Generator> generator, int64_t spreads) {
  TORCH_CHECK_VALUE(!latent.empty(), "vaefast: rsample needs mu and logvar");
  check_shapes(latent);
  Sweep sweep(sampling_term(latent, kl, spreads), latent, batch_dims);
  sweep.set_spreads(spreads);
  const Tensor z = empty_result(sample_shape(sweep, num_samples), latent[0].options());
  const Tensor sums = kl ? sweep.want_row_sums() : at::empty({0}, sweep.options());
  NoiseKey drawn;
  const Tensor key =
      given_key ? given_key->clone() : backend(latent[0].device().type()).draw_key(generator, latent[0], drawn);
  set_sampling(sweep, key, num_samples, spreads);
  if (!given_key) sweep.args.sampling.key = drawn;
  sweep.args.sampling.z = {z.mutable_data_ptr(), dtype_of(z), sweep.args.cols, 1};
  sweep.run();
  return {z, sums, key};
}

Tensors rsample_backward(at::TensorList latent, const Tensor& key, const OptionalTensor& grad_z,
                         const OptionalTensor& grad_kl, int64_t num_samples, int64_t batch_dims, int64_t gradients,
                         int64_t spreads) {
  TORCH_CHECK_VALUE(!latent.empty(), "vaefast: rsample_backward needs mu and logvar");
  check_shapes(latent);
  Sweep sweep(sampling_term(latent, grad_kl.has_value(), spreads), latent, batch_dims);
  sweep.set_spreads(spreads);
  if (gradients == 0 || (!grad_kl && (!grad_z || num_samples == 0))) {  // no gradient is asked for, or none flows back
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
    set_sampling(sweep, key, num_samples, spreads);
    sweep.args.sampling.grad_z = {const_cast<void*>(upstream.const_data_ptr()), dtype_of(upstream), sweep.args.cols, 1};
  }
  Tensors grads = sweep.want_gradients(gradients);
  sweep.run();
  return grads;
}

}  // namespace vaefast
