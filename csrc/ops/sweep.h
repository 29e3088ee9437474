// Makes a kernel's arguments from tensors: checks them, reads dtypes and strides, and allocates outputs.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "../kernels.h"
#include "ops.h"

namespace vaefast {

// The kernels' name for a tensor's type; TypeError where they have none.
VAEFAST_VISIBLE DType dtype_of(const at::Tensor& t);

// The stride by which dimensions [begin, end) of t advance as if they were one dimension; -1 where there is none.
int64_t joint_stride(const at::Tensor& t, int64_t begin, int64_t end);

// Index of a term by its name; the error lists the names.
int find_term(const std::string& name);

// What a reduction multiplies the sum over `rows` rows by; ValueError where there is no such reduction.
double reduction_scale(const std::string& reduction, int64_t rows);

class Sweep {
 public:
  // The first batch_dims dimensions are rows, the others columns. Every operand has the first one's shape, or varies
  // along rows or columns alone: its other dimensions are 1, and those of the batch may be left out. Or it has one
  // element. `term` -1: sampling alone, from (mu, spread).
  Sweep(int term, at::TensorList operands, int64_t batch_dims);
  Sweep(const Sweep&) = delete;  // args points into memory that this object keeps

  SweepArgs args;

  void set_target_scale(double scale);
  void set_spreads(int64_t spreads);
  void set_mask(const std::optional<at::Tensor>& mask);
  // The loss's derivative by the value is scale times coef, which has one element, the batch's shape or the full shape.
  void set_coef(double scale, const std::optional<at::Tensor>& coef);
  // A 0-dimensional tensor for the weighted sum over the rows and the total of the sweep that add_total names.
  at::Tensor want_loss(bool wide);
  void want_total();  // keeps that sum on the device, for another sweep to add
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
  View strided(const at::Tensor& tensor,
               int64_t batch_dims);  // dimensions as rows and columns, copied where they are not
  View operand_view(int k, const at::Tensor& operand);
  View write_view(int k, const at::Tensor& contiguous);  // of a gradient by operand k, or of the value for 0

  at::Tensor like_;        // the first operand
  at::IntArrayRef shape_;  // its sizes
  int64_t batch_dims_;
  std::vector<at::Tensor> operands_;
  std::vector<at::Tensor> alive_;  // the total, and copies of what the kernels cannot read in place
};

}  // namespace vaefast
