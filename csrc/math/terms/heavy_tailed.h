// Real data with heavy tails: log-normal and Student's t, of a location and a logarithmic scale.
#pragma once

#include "deviation.h"

namespace vaefast {

// log of the density at x > 0 whose logarithm is N(mean, exp(2 log_scale)). Elsewhere the density is 0.
struct LogNormal : ElementwiseTerm {
  static constexpr const char* name = "log_normal";
  static constexpr int arity = 3, target = 1;
  using prepared_from = Operands<2>;

  template <class T>
  VAEFAST_HD static T prepare(T log_scale) {
    return Deviation<T>::scale(T(2) * log_scale);
  }
  template <class T>
  VAEFAST_HD static T evaluate(T mean, T x, T log_scale, T scale, T* d) {
    const bool outside = x <= T(0);
    const T log_x = math::log(outside ? T(1) : x);
    const Deviation<T> deviation(math::bounded_log(log_x - mean), T(2) * log_scale, scale);
    d[0] = outside ? T(0) : deviation.slope;
    d[1] = outside ? T(0) : -math::bounded_log(T(1) + deviation.slope) / x;
    d[2] = outside ? T(0) : deviation.squared - T(1);
    const T value = -((T(0.5) * deviation.squared + (log_scale + log_x)) + T(math::kLog2Pi / 2));
    return outside ? -T(INFINITY) : value;
  }
};

// log of Student's t with df degrees of freedom at z = (x - mean) / scale. Where the square of z may overflow, z^2 / df
// is as good as 1 + z^2 / df, and enters by its logarithm.
struct StudentT : ElementwiseTerm {
  static constexpr const char* name = "student_t";
  static constexpr int arity = 4, target = 1;
  static constexpr bool heavy = true;
  using prepared_from = Operands<3>;

  // log Gamma((df + 1) / 2) - log Gamma(df / 2) - log(pi df) / 2
  template <class T>
  VAEFAST_HD static T prepare(T df) {
    T slope;
    const T log_df = math::log(df), rising = math::log_rising(T(0.5), log_df - kLog2<T>, slope);
    return rising - T(0.5) * (log_df + T(1.1447298858494001741));
  }
  template <class T>
  VAEFAST_HD static T evaluate(T mean, T x, T log_sigma, T df, T constant, T* d) {
    const T difference = math::bounded_log(x - mean), log_scale = math::bounded_log(log_sigma);
    const T precision = math::exp(-log_scale), log_df = math::log(df);
    const T z = difference == T(0) ? difference : difference * precision;  // 0 also where the scale is 0
    const bool far = math::abs(z) > T(1e15);
    const T near = far ? T(1) : z, square = near * near, inverse = T(1) / (df + square);
    const T log_far = T(2) * (math::log(math::abs(far ? difference : T(1))) - log_scale) - log_df;
    const T log_sum = far ? log_far : math::log1p(square / df);
    const T share = far ? T(1) : square * inverse;  // z^2 / (df + z^2)
    const T slope = far ? T(1) / difference : (z == T(0) ? z : z * precision) * inverse;
    d[0] = (df + T(1)) * slope;
    d[1] = -d[0];
    d[2] = (df + T(1)) * share - T(1);
    T by_half;
    (void)math::log_rising(T(0.5), log_df - kLog2<T>, by_half);
    d[3] = (by_half - T(0.5) + T(0.5) * (df + T(1)) * share) / df - T(0.5) * log_sum;
    return (constant - log_scale) - T(0.5) * (df + T(1)) * log_sum;
  }

 private:
  template <class T>
  static constexpr T kLog2 = T(0.693147180559945309417);
};

using HeavyTailedTerms = Family<LogNormal, StudentT>;

}  // namespace vaefast
