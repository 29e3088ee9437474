// Builds the kernels' plain arguments from tensors: dtypes, strides, allocation of outputs. The ops are thin users.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "../kernels.h"

namespace vaefast {

// The kernels' name of a tensor's type; TypeError where they have none.
VAEFAST_VISIBLE DType dtype_of(const at::Tensor& t);

// Index of a term by its name; the error lists the names.
int find_term(const std::string& name);

// What a reduction multiplies the sum over `rows` rows by; ValueError where there is no such reduction.
double reduction_scale(const std::string& reduction, int64_t rows);

class Sweep {
 public:
  // The first batch_dims dimensions are rows, the others columns. An operand has the shape of the first one, or one
  // element. `term` -1: sampling of (mu, logvar) alone.
  Sweep(int term, at::TensorList operands, int64_t batch_dims);
  Sweep(const Sweep&) = delete;  // args points into memory that this object keeps

  SweepArgs args;

  void set_mask(const std::optional<at::Tensor>& mask);
  // The loss's derivative by the value: scale times coef, a tensor of one element, of the batch's shape or of the full
  // one.
  void set_coef(double scale, const std::optional<at::Tensor>& coef);
  // A 0-dimensional tensor for the weighted sum over the rows, and what add_total adds.
  at::Tensor want_loss(bool wide);
  void want_total();  // kept on the device, for another sweep to add
  void add_total(const Sweep& addend) { args.addend = addend.args.total; }
  at::Tensor want_row_sums();
  at::Tensor want_elementwise();
  // The gradients by the operands whose bit is set in `mask`, in order. Where `first` is given, the gradient by operand
  // 0 is written there.
  std::vector<at::Tensor> want_gradients(int64_t mask, const std::optional<at::Tensor>& first = {});

  View view(const at::Tensor& tensor);  // of the full shape, of the batch's shape or of one element
  void run();

  at::IntArrayRef shape() const { return shape_; }
  at::IntArrayRef batch_shape() const { return shape_.slice(0, batch_dims_); }
  at::TensorOptions options() const;  // of the compute type

 private:
  View write_view(const at::Tensor& contiguous);

  at::Tensor like_;        // the first operand
  at::IntArrayRef shape_;  // its sizes
  int64_t batch_dims_;
  std::vector<at::Tensor> operands_;
  std::vector<at::Tensor> alive_;  // copies made for layouts that the kernels do not read, and the total
};

}  // namespace vaefast
