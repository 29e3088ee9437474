// One term in the autograd graph, eager and traced by torch.compile. A sum over everything makes its gradients in the
// forward pass where fits_one_pass allows, and backward scales them.
#include "autograd.h"

namespace vaefast {
namespace {

const auto& row_sum_op() {
  static const auto op = find_operator<decltype(row_sum)>("vaefast::row_sum");
  return op;
}

struct ReducedTerm : torch::autograd::Function<ReducedTerm> {
  static variable_list forward(AutogradContext* ctx, at::TensorList operands, const std::string& term,
                               const OptionalTensor& mask, const std::string& reduction, int64_t batch_dims,
                               double target_scale, int64_t spreads) {
    const int64_t gradients = required_gradients(operands);
    bool one_pass = reduction == "sum" || reduction == "mean";
    for (const Tensor& t : operands) one_pass &= fits_one_pass(t);
    const at::AutoDispatchBelowADInplaceOrView guard;
    auto [value, grads] = row_sum_op().call(term, operands, mask, {}, reduction, batch_dims, target_scale,
                                            one_pass ? gradients : 0, true, spreads);
    ctx->set_materialize_grads(false);
    variable_list saved{or_undefined(mask)};
    append(saved, operands);
    append(saved, grads);
    ctx->save_for_backward(std::move(saved));
    auto& data = ctx->saved_data;
    data["term"] = term;
    data["reduction"] = reduction;
    data["target_scale"] = target_scale;
    data["integers"] =  // one entry: each costs time
        c10::IValue(std::vector<int64_t>{int64_t(operands.size()), batch_dims, spreads, gradients});
    data["has_gradients"] = one_pass;
    return {value};
  }

  static variable_list backward(AutogradContext* ctx, variable_list upstream) {
    auto& data = ctx->saved_data;
    const auto integers = data["integers"].toIntVector();
    const int64_t arity = integers[0], batch_dims = integers[1], spreads = integers[2], gradients = integers[3];
    variable_list result(arity + other_arguments<1>(forward));
    const Tensor& grad = upstream[0];
    if (!grad.defined()) return result;
    SavedTensors saved(ctx);
    const OptionalTensor mask = given(saved.next());
    const at::TensorList operands = saved.next(arity);
    Tensors grads = saved.rest().vec();
    const std::string &term = data["term"].toStringRef(), &reduction = data["reduction"].toStringRef();
    const double target_scale = data["target_scale"].toDouble();
    if (needs_composite(upstream)) {
      static const auto vjp = find_operator<decltype(row_sum_vjp)>("vaefast::row_sum_vjp");
      grads = vjp.call(term, operands, mask, grad, reduction, batch_dims, target_scale, gradients, spreads);
    } else if (data["has_gradients"].toBool()) {
      data["has_gradients"] = false;  // a second pass computes them anew
      give_away(grads, grad);
    } else {
      grads = std::get<1>(row_sum_op().call(term, operands, mask, grad, reduction, batch_dims, target_scale, gradients,
                                            false, spreads));
    }
    TORCH_INTERNAL_ASSERT(int(grads.size()) == __builtin_popcountll(uint64_t(gradients)));
    auto next = grads.begin();
    for (int64_t k = 0; k < arity; ++k) {
      if (gradients >> k & 1) result[k] = *next++;
    }
    return result;
  }
};

}  // namespace

Tensor reduced_term_value(std::string term, at::TensorList operands, const OptionalTensor& mask, std::string reduction,
                          int64_t batch_dims, double target_scale, int64_t spreads) {
  return std::get<0>(row_sum_op().call(std::move(term), operands, mask, {}, std::move(reduction), batch_dims,
                                       target_scale, 0, true, spreads));
}

Tensor reduced_term(std::string term, at::TensorList operands, const OptionalTensor& mask, std::string reduction,
                    int64_t batch_dims, double target_scale, int64_t spreads) {
  if (at::GradMode::is_enabled() && required_gradients(operands) != 0) {
    return ReducedTerm::apply(operands, term, mask, reduction, batch_dims, target_scale, spreads)[0];
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  return reduced_term_value(std::move(term), operands, mask, std::move(reduction), batch_dims, target_scale, spreads);
}

}  // namespace vaefast
