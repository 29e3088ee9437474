// What a mixture of discretized logistics has besides its bins, which are terms/logistic.h's: the coupling of the
// channels of a pixel by tanh of a coefficient (Salimans et al. 2017).
#pragma once

#include "terms/logistic.h"

namespace vaefast {

// tanh(a), and its derivative 1 - tanh(a)^2 without that difference.
template <class T>
struct Coupling {
  T value, slope;

  VAEFAST_HD explicit Coupling(T a) {
    const T y = T(-2) * math::abs(a), e = math::exp_nonpositive(y), inverse = T(1) / (T(1) + e);
    const T size = -math::expm1(y, e) * inverse;
    value = math::is_negative(a) ? -size : size;
    slope = T(4) * e * inverse * inverse;
  }
};

// Where the coefficient of channel c's dependence on channel b < c lies: (1, 0), (2, 0), (2, 1), ...
VAEFAST_HD int64_t coupling_at(int64_t c, int64_t b) { return c * (c - 1) / 2 + b; }

}  // namespace vaefast
