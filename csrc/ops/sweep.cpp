#include "sweep.h"

#include <ATen/ops/empty.h>

#include "backend.h"
#include "buffers.h"

namespace vaefast {
int64_t joint_stride(const at::Tensor& t, int64_t begin, int64_t end) {
  int64_t innermost = -1, expected = -1;
  for (int64_t d = end - 1; d >= begin; --d) {
    if (t.size(d) == 1) continue;
    if (innermost < 0) innermost = t.stride(d);
    else if (t.stride(d) != expected) return -1;
    expected = t.stride(d) * t.size(d);
  }
  return innermost < 0 ? 0 : innermost;
}

DType dtype_of(const at::Tensor& t) {
  switch (t.scalar_type()) {
    case at::kFloat: return DType::f32;
    case at::kDouble: return DType::f64;
    case at::kBFloat16: return DType::bf16;
    case at::kHalf: return DType::f16;
    case at::kByte:
    case at::kBool: return DType::u8;
    case at::kShort: return DType::i16;
    case at::kInt: return DType::i32;
    case at::kLong: return DType::i64;
    default: TORCH_CHECK_TYPE(false, "vaefast: no kernel reads ", t.scalar_type(), " tensors");
  }
}

int find_term(const std::string& name) {
  for (int i = 0; i < Terms::size; ++i) {
    if (name == Terms::names[i]) return i;
  }
  std::string known;
  for (const char* each : Terms::names) known += std::string(known.empty() ? "" : ", ") + each;
  TORCH_CHECK_VALUE(false, "vaefast: no term is named '", name, "'; there are ", known, ", ", kMixture);
}

double reduction_scale(const std::string& reduction, int64_t rows) {
  if (reduction == "mean") return 1.0 / double(rows);
  TORCH_CHECK_VALUE(reduction == "sum" || reduction == "none" || reduction == "elementwise",
                    "vaefast: reduction must be 'none', 'sum', 'mean' or 'elementwise', got '", reduction, "'");
  return 1.0;
}

Sweep::Sweep(int term, at::TensorList operands, int64_t batch_dims)
    : like_(operands[0]), shape_(like_.sizes()), batch_dims_(batch_dims) {
  const int64_t arity = term < 0 ? 2 : Terms::arity[term];
  const int target = term < 0 ? -1 : Terms::target[term];
  TORCH_CHECK_VALUE(int64_t(operands.size()) == arity, "vaefast: ", term < 0 ? "sampling" : Terms::names[term],
                    " takes ", arity, " operands, got ", operands.size());
  TORCH_CHECK_VALUE(0 <= batch_dims && batch_dims <= like_.dim(), "vaefast: batch_dims is ", batch_dims,
                    " but the first operand has ", like_.dim(), " dimensions");
  args.term = term;
  args.rows = c10::multiply_integers(shape_.slice(0, batch_dims));
  args.cols = c10::multiply_integers(shape_.slice(batch_dims));
  for (int k = 0; k < arity; ++k) {
    const at::Tensor& t = operands[k];
    TORCH_CHECK_TYPE(t.is_floating_point() || k == target, "vaefast: operand ", k, " must be floating point, got ",
                     t.scalar_type());
    args.wide |= t.scalar_type() == at::kDouble && k != target;
    args.operand[k] = operand_view(k, t);
    operands_.push_back(t);
  }
}

at::TensorOptions Sweep::options() const { return like_.options().dtype(args.wide ? at::kDouble : at::kFloat); }

View Sweep::strided(const at::Tensor& tensor, int64_t batch_dims) {
  TORCH_CHECK_VALUE(tensor.device() == like_.device(), "vaefast: a tensor is on ", tensor.device(),
                    " but the first operand is on ", like_.device());
  at::Tensor t = tensor;
  int64_t row = joint_stride(t, 0, batch_dims), col = joint_stride(t, batch_dims, t.dim());
  if (row < 0 || col < 0 || col > 1) {
    alive_.push_back(t = tensor.contiguous());
    row = joint_stride(t, 0, batch_dims), col = joint_stride(t, batch_dims, t.dim());
  }
  return {const_cast<void*>(t.const_data_ptr()), dtype_of(t), row, col};
}

View Sweep::view(const at::Tensor& tensor) {
  const bool full = tensor.sizes() == shape_, one = !full && tensor.numel() == 1;
  TORCH_CHECK_VALUE(full || one || tensor.sizes() == batch_shape(), "vaefast: expected a tensor of shape ", shape_,
                    " or ", batch_shape(), ", got ", tensor.sizes());
  View v = strided(tensor, one ? 0 : batch_dims_);
  if (full && args.cols == 1) v.col_stride = 1;  // the stride of a single column is free; 1 lets it be read as a vector
  return v;
}

View Sweep::operand_view(int k, const at::Tensor& t) {
  if (t.sizes() == shape_ || t.numel() == 1) return view(t);
  const at::IntArrayRef columns = shape_.slice(batch_dims_), sizes = t.sizes();
  const auto are_ones = [](at::IntArrayRef some) { return c10::multiply_integers(some) == 1; };
  const int64_t absent = like_.dim() - t.dim(), batch = std::max<int64_t>(0, batch_dims_ - absent);
  if (absent >= 0 && absent <= batch_dims_ && sizes.slice(batch) == columns && are_ones(sizes.slice(0, batch))) {
    View v = strided(t, batch);
    v.row_stride = 0;
    return v;
  }
  TORCH_CHECK_VALUE(absent == 0 && sizes.slice(0, batch_dims_) == batch_shape() && are_ones(sizes.slice(batch_dims_)),
                    "vaefast: operand ", k, " has shape ", sizes, " but the first operand has shape ", shape_);
  View v = strided(t, batch_dims_);
  v.col_stride = 0;
  return v;
}

View Sweep::write_view(int k, const at::Tensor& t) {
  View v = operand_view(k, t);
  if (t.sizes() == shape_) v.col_stride = 1, v.row_stride = args.cols;  // also of one row, or a 0 would sum its columns
  TORCH_INTERNAL_ASSERT(v.data == t.const_data_ptr(), "an output cannot be a copy");
  v.data = t.mutable_data_ptr();
  return v;
}

void Sweep::set_target_scale(double scale) {
  if (const int k = Terms::target[args.term]; k >= 0) args.factor[k] = scale;
}

void Sweep::set_spreads(int64_t spreads) {
  if (spreads == 0) return;
  const int term = args.term;
  const int64_t logs = operands_.size() > 2 ? kLogScale | kPriorLogScale : kLogScale;
  const bool sampling = term < 0;
  const bool known = spreads == kScale
                         ? sampling || Terms::by_scale[term]
                         : (spreads & ~logs) == 0 && (sampling || (Terms::is_kl[term] && !Terms::by_scale[term]));
  TORCH_CHECK_VALUE(known, "vaefast: ", sampling ? "sampling" : Terms::names[term], " does not take spreads ", spreads);
  if (spreads & kLogScale) args.factor[1] = 2;  // log sigma^2
  if (spreads & kPriorLogScale) args.factor[3] = 2;
}

void Sweep::set_mask(const std::optional<at::Tensor>& mask) {
  if (!mask) return;
  TORCH_CHECK_TYPE(mask->scalar_type() == at::kBool, "vaefast: mask must be bool, got ", mask->scalar_type());
  args.mask = view(*mask);
}

void Sweep::set_coef(double scale, const std::optional<at::Tensor>& coef) {
  args.scale = scale;
  if (!coef) return;
  args.coef = view(*coef);
  if (args.cols == 1) args.coef.col_stride = 0;  // one column: the weight of an element is its row's
}

at::Tensor Sweep::want_row_sums() {
  at::Tensor sums = at::empty(batch_shape(), options());
  args.value = {sums.mutable_data_ptr(), dtype_of(sums), 1, 0};
  return sums;
}

at::Tensor Sweep::want_elementwise() {
  at::Tensor values = empty_result(shape_, options());
  args.value = write_view(0, values);
  return values;
}

std::vector<at::Tensor> Sweep::want_gradients(int64_t mask, const std::optional<at::Tensor>& first) {
  std::vector<at::Tensor> gradients;
  for (size_t k = 0; k < operands_.size(); ++k) {
    if (!(mask >> k & 1)) continue;
    const at::Tensor& t = operands_[k];
    TORCH_CHECK_TYPE(t.is_floating_point(), "vaefast: operand ", k, " of type ", t.scalar_type(), " has no gradient");
    at::Tensor g;
    if (k == 0 && first) {
      g = *first;
      TORCH_CHECK_VALUE(g.sizes() == shape_ && g.dtype() == t.dtype() && g.is_contiguous(),
                        "vaefast: the first gradient's place must be contiguous and like its operand");
    } else {
      g = empty_result(t.sizes(), t.options());
    }
    args.grad[k] = write_view(int(k), g);
    gradients.push_back(g);
  }
  return gradients;
}

at::Tensor Sweep::want_loss(bool wide) {
  at::Tensor loss = at::empty({}, like_.options().dtype(wide ? at::kDouble : at::kFloat));
  args.loss = {loss.mutable_data_ptr(), dtype_of(loss)};
  return loss;
}

void Sweep::want_total() {
  alive_.push_back(at::empty({}, like_.options().dtype(at::kDouble)));
  args.total = alive_.back().mutable_data_ptr<double>();
}

void Sweep::run() { backend(like_.device().type()).run(args, like_); }

}  // namespace vaefast
