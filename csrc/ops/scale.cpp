// Scales tensors in place.
#include "backend.h"
#include "ops.h"

namespace vaefast {

void scale_(at::TensorList tensors, const Tensor& factor) {
  TORCH_CHECK_VALUE(factor.numel() == 1, "vaefast: scale_ takes a factor of one element, got ", factor.numel());
  for (const Tensor& t : tensors) {
    TORCH_CHECK_TYPE(t.is_floating_point(), "vaefast: scale_ takes floating tensors, got ", t.scalar_type());
    TORCH_CHECK_VALUE(t.device() == factor.device(), "vaefast: scale_ got a tensor on ", t.device(),
                      " and a factor on ", factor.device());
  }
  backend(factor.device().type()).scale(tensors, factor);
}

}  // namespace vaefast
