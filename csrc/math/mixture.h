// What a mixture of discretized logistics has besides its bins, which are terms/logistic.h's: the coupling of the
// channels of a pixel by tanh of a coefficient (Salimans et al. 2017).
#pragma once

#include "terms/logistic.h"

namespace vaefast {

// The grid of a mixture, and the middle of the data's range, from half a bin's width and that range.
template <class T>
struct MixtureGrid : Grid<T> {
  T middle;

  VAEFAST_HD MixtureGrid(T half, T low, T high)
      : Grid<T>{half, math::log(T(2) * half), low + half, high - half}, middle(T(0.5) * (low + high)) {}
};

// tanh(a), and its derivative 1 - tanh(a)^2 without that difference.
template <class T>
struct Coupling {
  T value, slope;

  VAEFAST_HD explicit Coupling(T a) {
    T e;
    const T size = -math::expm1_nonpositive(T(-2) * math::abs(a), e), inverse = T(1) / (T(1) + e);
    value = (math::is_negative(a) ? -size : size) * inverse;
    slope = T(4) * e * inverse * inverse;
  }
};

// Where the coefficient of channel c's dependence on channel b < c lies: (1, 0), (2, 0), (2, 1), ...
VAEFAST_HD int64_t coupling_at(int64_t c, int64_t b) { return c * (c - 1) / 2 + b; }

}  // namespace vaefast
