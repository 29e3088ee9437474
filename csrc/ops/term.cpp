// One term: its value and its gradients, in one sweep.
#include <ATen/ops/empty.h>

#include "ops.h"
#include "sweep.h"

namespace vaefast {

std::tuple<Tensor, Tensors> row_sum(std::string term, at::TensorList operands, const OptionalTensor& mask,
                                    const OptionalTensor& coef, std::string reduction, int64_t batch_dims,
                                    double target_scale, int64_t gradients, bool value, int64_t spreads) {
  TORCH_CHECK_VALUE(!operands.empty(), "vaefast: row_sum needs operands");
  TORCH_CHECK_VALUE(term != kMixture || spreads == 0, "vaefast: ", kMixture, " does not take spreads ", spreads);
  if (term == kMixture) return mixture(operands, mask, coef, reduction, batch_dims, target_scale, gradients, value);
  Sweep sweep(find_term(term), operands, batch_dims);
  sweep.set_target_scale(target_scale);
  sweep.set_spreads(spreads);
  sweep.set_mask(mask);
  sweep.set_coef(reduction_scale(reduction, sweep.args.rows), coef);
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

}  // namespace vaefast
