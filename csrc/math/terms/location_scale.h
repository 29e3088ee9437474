// Real data, of a location and a logarithmic scale: Gaussian and Laplace.
#pragma once

#include "deviation.h"

namespace vaefast {

// log N(x; mean, exp(logvar)), constant included
struct Gaussian : ElementwiseTerm {
  static constexpr const char* name = "gaussian";
  static constexpr int arity = 3, target = 1;
  using prepared_from = Operands<2>;

  template <class T>
  VAEFAST_HD static T prepare(T logvar) {
    return Deviation<T>::scale(logvar);
  }
  template <class T>
  VAEFAST_HD static T evaluate(T mean, T x, T logvar, T scale, T* d) {
    const Deviation<T> deviation(x - mean, logvar, scale);
    d[0] = deviation.slope;
    d[1] = -deviation.slope;
    d[2] = T(0.5) * (deviation.squared - T(1));
    return T(-0.5) * (T(math::kLog2Pi) + logvar + deviation.squared);
  }
};

// log Laplace(x; mean, exp(log_scale))
struct Laplace : ElementwiseTerm {
  static constexpr const char* name = "laplace";
  static constexpr int arity = 3, target = 1;
  using prepared_from = Operands<2>;

  template <class T>
  VAEFAST_HD static T prepare(T log_scale) {
    return math::exp(-log_scale);
  }
  template <class T>
  VAEFAST_HD static T evaluate(T mean, T x, T log_scale, T precision, T* d) {
    const T distance = math::abs(x - mean), bounded = precision < T(INFINITY) ? precision : T(0);
    const T error =
        distance * (distance == T(0) ? bounded : precision);         // 0 for no distance, also where the scale is 0
    d[0] = x > mean ? precision : x < mean ? -precision : x - mean;  // x == mean gives 0, NaN stays NaN
    d[1] = -d[0];
    d[2] = error - T(1);
    return -(T(0.693147180559945309) + log_scale + error);
  }
};

using LocationScaleTerms = Family<Gaussian, Laplace>;

}  // namespace vaefast
