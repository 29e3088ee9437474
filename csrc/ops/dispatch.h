// Calling operators through the dispatcher, and how the options of a loss pass it.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <utility>

#include "ops.h"

namespace vaefast {

template <class Signature>
c10::TypedOperatorHandle<Signature> find_operator(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

// An operator that takes LossOptions: Result(Before..., LossOptions, After...). The dispatcher knows no structs, so its
// schema has the options one by one. They are packed and unpacked here and nowhere else.
template <class ResultAndBefore, class... After>
class LossOperator;

template <class Result, class... Before, class... After>
class LossOperator<Result(Before...), After...> {
  using Flat = Result(Before..., const OptionalTensor& mask, const OptionalTensor& weight,
                      const OptionalTensor& kl_weight, double beta, std::string reduction, int64_t batch_dims,
                      double target_scale, int64_t spreads, After...);

 public:
  explicit LossOperator(const char* name) : handle_(find_operator<Flat>(name)) {}

  // Calls the operator.
  Result operator()(Before... before, const LossOptions& o, After... after) const {
    return handle_.call(std::forward<Before>(before)..., o.mask, o.weight, o.kl_weight, o.beta, o.reduction,
                        o.batch_dims, o.target_scale, o.spreads, std::forward<After>(after)...);
  }

  // The function to register, of one that takes the struct.
  template <Result (*function)(Before..., const LossOptions&, After...)>
  static Result flat(Before... before, const OptionalTensor& mask, const OptionalTensor& weight,
                     const OptionalTensor& kl_weight, double beta, std::string reduction, int64_t batch_dims,
                     double target_scale, int64_t spreads, After... after) {
    return function(std::forward<Before>(before)...,
                    {mask, weight, kl_weight, beta, std::move(reduction), batch_dims, target_scale, spreads},
                    std::forward<After>(after)...);
  }

 private:
  c10::TypedOperatorHandle<Flat> handle_;
};

using ElboOp = LossOperator<Loss(std::string, at::TensorList, at::TensorList), int64_t>;
using ElboInPlaceOp = LossOperator<Loss(const Tensor&, std::string, at::TensorList, at::TensorList), int64_t>;
using ElboLossOp = LossOperator<Tensor(std::string, at::TensorList, at::TensorList)>;
using ElboPartsOp = LossOperator<Parts(std::string, at::TensorList, at::TensorList)>;
using ElboPartsInPlaceOp = LossOperator<Parts(const Tensor&, std::string, at::TensorList, at::TensorList)>;
using ElboVjpOp =
    LossOperator<Tensors(std::string, at::TensorList, at::TensorList), const OptionalTensor&, const OptionalTensor&,
                 int64_t, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&>;

}  // namespace vaefast
