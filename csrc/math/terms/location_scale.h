// Real data: the squared error, and Gaussian and Laplace, of a location and a logarithmic scale.
#pragma once

#include "deviation.h"

namespace vaefast {

// -(x - mean)^2, which is log N(x; mean, 1/2) without its constant
struct SquaredError : ElementwiseTerm {
  static constexpr const char* name = "squared_error";
  static constexpr int arity = 2, target = 1;
  static constexpr bool light = true;

  template <class T>
  VAEFAST_HD static T evaluate(T mean, T x, T* d) {
    const T difference = x - mean;
    d[0] = T(2) * difference;
    d[1] = -d[0];
    return -(difference * difference);
  }
};

// log N(x; mean, exp(logvar)), with or without its constant -log(2 pi) / 2
template <bool with_constant>
struct GaussianOf : ElementwiseTerm {
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
    const T constant = with_constant ? T(math::kLog2Pi) : T(0);
    return T(-0.5) * (constant + logvar + deviation.squared);
  }
};

struct Gaussian : GaussianOf<true> {
  static constexpr const char* name = "gaussian";
};
struct GaussianWithoutConstant : GaussianOf<false> {
  static constexpr const char* name = "gaussian_without_constant";
};

// log Laplace(x; mean, exp(log_scale)), with or without its constant -log 2
template <bool with_constant>
struct LaplaceOf : ElementwiseTerm {
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
    const T constant = with_constant ? T(0.693147180559945309) : T(0);
    return -(constant + log_scale + error);
  }
};

struct Laplace : LaplaceOf<true> {
  static constexpr const char* name = "laplace";
};
struct LaplaceWithoutConstant : LaplaceOf<false> {
  static constexpr const char* name = "laplace_without_constant";
};

using LocationScaleTerms = Family<Gaussian, Laplace, SquaredError, GaussianWithoutConstant, LaplaceWithoutConstant>;

}  // namespace vaefast
