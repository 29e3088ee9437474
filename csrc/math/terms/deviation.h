// The squared deviation of a Gaussian, which its density and its KL divergence share.
#pragma once

#include "../term.h"

namespace vaefast {

// difference^2 / variance, and half its derivative by the difference: both 0 for no difference, also where the variance
// is 0. `scale` is 1 / variance where that neither overflows nor underflows. Beyond, it is 1 / sigma and is squared
// later, so that there is one exp.
template <class T>
struct Deviation {
  T squared, slope;

  VAEFAST_HD static bool is_moderate(T logvar) { return logvar > T(-80) && logvar < T(80); }
  VAEFAST_HD static T scale(T logvar) { return math::exp(logvar * (is_moderate(logvar) ? T(-1) : T(-0.5))); }

  VAEFAST_HD Deviation(T difference, T logvar, T scale) {
    const bool moderate = is_moderate(logvar);
    const T bounded = scale == T(INFINITY) ? T(0) : scale;  // two selections vectorize where one of both did not
    const T factor = difference == T(0) ? bounded : scale;
    const T r = difference * factor;
    squared = r * (moderate ? difference : r);
    slope = r * (moderate ? T(1) : factor);
  }
};

}  // namespace vaefast
