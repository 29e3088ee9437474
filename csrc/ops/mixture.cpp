// A mixture of discretized logistics: its value and its gradients. torch adds up the values of the pixels, of which
// there is one for all parameters of a pixel.
#include <ATen/ExpandUtils.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/sum.h>

#include <algorithm>
#include <utility>

#include "backend.h"
#include "buffers.h"
#include "ops.h"
#include "sweep.h"

namespace vaefast {
namespace {

enum { kLogits, kX, kMean, kLogScale, kGrid, kCoupling };  // the operands
constexpr int kPlace[] = {kLogits, kMean, kLogScale,
                          kCoupling};  // of the parameters among them, as MixtureArgs has them

// Checks the operands' shapes and makes views of them.
class Mixture {
 public:
  Mixture(at::TensorList operands, int64_t batch_dims) : operands_(operands), batch_dims_(batch_dims) {
    TORCH_CHECK_VALUE(operands.size() == 5 || operands.size() == 6, "vaefast: ", kMixture,
                      " takes 5 or 6 operands, got ", operands.size());
    const Tensor &logits = operands[kLogits], &x = operands[kX];
    TORCH_CHECK_VALUE(logits.dim() == batch_dims + 2 && x.dim() == batch_dims + 2 && x.size(-1) == logits.size(-1),
                      "vaefast: ", kMixture, " takes logits (batch, M, P) and x (batch, C, P), got ", logits.sizes(),
                      " and ", x.sizes());
    args.rows = c10::multiply_integers(logits.sizes().slice(0, batch_dims));
    args.components = logits.size(-2), args.channels = x.size(-2), args.pixels = x.size(-1);
    args.x = view(x, 0, args.channels);
    for (size_t k = 0; k < std::size(kPlace); ++k) {
      if (size_t(kPlace[k]) >= operands.size()) continue;
      const Tensor& t = operands[kPlace[k]];
      TORCH_CHECK_TYPE(t.is_floating_point(), "vaefast: operand ", kPlace[k], " must be floating point, got ",
                       t.scalar_type());
      args.wide |= t.scalar_type() == at::kDouble;
      args.parameter[k] = view(t, args.components, channels(kPlace[k]));
    }
    const Tensor& grid = operands[kGrid];
    args.has_range = grid.numel() == 3;
    TORCH_CHECK_VALUE(
        (grid.numel() == 1 || args.has_range) && grid.is_contiguous() && grid.device() == logits.device(),
        "vaefast: the grid must be half a bin's width, or this and the data's range, on the logits' device");
    args.grid = {const_cast<void*>(grid.const_data_ptr()), dtype_of(grid)};
  }

  MixtureArgs args;

  at::IntArrayRef batch() const { return operands_[kLogits].sizes().slice(0, batch_dims_); }
  at::TensorOptions options() const { return operands_[kLogits].options().dtype(args.wide ? at::kDouble : at::kFloat); }

  // Of (batch, [M,] [C,] P), where `components` or `channels` of 0 says that the dimension is missing.
  MixtureView view(const Tensor& tensor, int64_t components, int64_t channels) {
    std::vector<int64_t> shape = batch().vec();
    if (components > 0) shape.push_back(components);
    if (channels > 0) shape.push_back(channels);
    shape.push_back(args.pixels);
    TORCH_CHECK_VALUE(tensor.sizes() == shape && tensor.device() == operands_[kLogits].device(),
                      "vaefast: expected a tensor of shape ", at::IntArrayRef(shape), " on ",
                      operands_[kLogits].device(), ", got ", tensor.sizes(), " on ", tensor.device());
    Tensor t = tensor;
    if (joint_stride(t, 0, batch_dims_) < 0) alive_.push_back(t = tensor.contiguous());
    MixtureView v{{const_cast<void*>(t.const_data_ptr()), dtype_of(t), joint_stride(t, 0, batch_dims_), t.stride(-1)}};
    if (components > 0) v.component = t.stride(batch_dims_);
    if (channels > 0) v.channel = t.stride(-2);
    return v;
  }

  void set_coef(double scale, const OptionalTensor& coef) {
    args.scale = scale;
    if (!coef) return;
    if (coef->dim() == batch_dims_ + 1) {
      args.coef = view(*coef, 0, 0);
    } else {
      TORCH_CHECK_VALUE(coef->numel() == 1 || coef->sizes() == batch(), "vaefast: expected coef of shape ", batch(),
                        ", got ", coef->sizes());
      alive_.push_back(coef->contiguous());
      args.coef.data = const_cast<void*>(alive_.back().const_data_ptr());
      args.coef.dtype = dtype_of(*coef);
      args.coef.row_stride = coef->numel() != 1;
    }
  }

  Tensors want_gradients(int64_t mask) {
    Tensors gradients;
    for (size_t k = 0; k < operands_.size(); ++k) {
      if (!(mask >> k & 1)) continue;
      const auto place = std::find(std::begin(kPlace), std::end(kPlace), int(k));
      TORCH_CHECK_NOT_IMPLEMENTED(place != std::end(kPlace), "vaefast: ", kMixture, " has no gradient by operand ", k);
      const Tensor& t = operands_[k];
      const Tensor g = empty_gradient(t);
      MixtureView& v = args.grad[place - std::begin(kPlace)];
      v = view(g, args.components, channels(k));
      TORCH_INTERNAL_ASSERT(v.data == g.const_data_ptr(), "an output cannot be a copy");
      gradients.push_back(g);
    }
    return gradients;
  }

  void run() {
    if (args.pixels == 1) {  // the rows are as good as pixels, and many of them make a block
      const auto turn = [](MixtureView& v) { v.col_stride = std::exchange(v.row_stride, 0); };
      for (MixtureView& v : args.parameter) turn(v);
      for (MixtureView& v : args.grad) turn(v);
      for (MixtureView* v : {&args.x, &args.mask, &args.value, &args.coef}) turn(*v);
      std::swap(args.rows, args.pixels);
    }
    backend(operands_[kLogits].device().type()).run_mixture(args, operands_[kLogits]);
  }

 private:
  // The batch comes first. Behind it the dimensions have the order that they have in memory, so that a network that has
  // channels last gets its gradient like that.
  Tensor empty_gradient(const Tensor& t) const {
    if (t.stride(-1) == 1 || t.numel() == 0) return empty_result(t.sizes(), t.options());
    const at::IntArrayRef event = t.sizes().slice(batch_dims_);
    const std::vector<int64_t> inner = at::infer_dense_strides(event, t.strides().slice(batch_dims_));
    std::vector<int64_t> strides = batch_strides(c10::multiply_integers(event));
    strides.insert(strides.end(), inner.begin(), inner.end());
    return at::empty_strided(t.sizes(), strides, t.options());
  }

  std::vector<int64_t> batch_strides(int64_t event) const {
    std::vector<int64_t> strides(batch_dims_);
    for (int64_t d = batch_dims_ - 1; d >= 0; --d) strides[d] = std::exchange(event, event * batch()[d]);
    return strides;
  }

  // How many channels an operand has; 0 says that it has no such dimension.
  int64_t channels(size_t k) const {
    return k == kLogits ? 0 : k == kCoupling ? coupling_at(args.channels, 0) : args.channels;
  }

  at::TensorList operands_;
  int64_t batch_dims_;
  Tensors alive_;  // copies of what the kernels cannot read in place
};

}  // namespace

std::tuple<Tensor, Tensors> mixture(at::TensorList operands, const OptionalTensor& mask, const OptionalTensor& coef,
                                    const std::string& reduction, int64_t batch_dims, double target_scale,
                                    int64_t gradients, bool value) {
  Mixture m(operands, batch_dims);
  TORCH_CHECK_VALUE(gradients >> operands.size() == 0, "vaefast: there is no operand for a bit of `gradients`");
  m.args.target_scale = target_scale;
  m.set_coef(reduction_scale(reduction, m.args.rows), coef);
  if (mask) {
    TORCH_CHECK_TYPE(mask->scalar_type() == at::kBool, "vaefast: mask must be bool, got ", mask->scalar_type());
    m.args.mask = m.view(*mask, 0, 0);
  }
  std::vector<int64_t> shape = m.batch().vec();
  shape.push_back(m.args.pixels);
  Tensor each = at::empty({0}, m.options());
  if (value) {
    each = at::empty(shape, m.options());
    m.args.value = m.view(each, 0, 0);
  }
  Tensors grads = m.want_gradients(gradients);
  m.run();
  if (!value || reduction == "elementwise") return {each, grads};
  Tensor rows = at::sum(each, -1, false, at::kDouble);
  if (reduction != "none") rows = at::sum(rows).mul_(m.args.scale);
  return {rows.to(each.scalar_type()), grads};
}

}  // namespace vaefast
