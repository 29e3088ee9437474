// The discretized logistic distribution of data on a grid.
#pragma once

#include "../term.h"

namespace vaefast {

// log of a logistic's mass in the bin of half width `half` around x, and its derivatives. The outer bins of [0, 1] are
// open. With c = |x - mean| / s and h = half / s it is, between the outer bins, -log1p(exp(-(c + h))) - softplus(c - h)
// + log1p(-exp(-2 h)): no difference of two sigmoids. log_width is log(2 half).
template <class T>
struct LogisticBin {
  T value, by_mean, by_log_scale, by_half;

  VAEFAST_HD LogisticBin(T mean, T x, T log_scale, T half, T log_width) {
    const T bounded = log_scale < T(-80) ? T(-80) : log_scale, precision = math::exp(-bounded);
    const T difference = math::bounded_log(x - mean), h = half * precision;
    const T c = math::bounded(math::abs(difference) * precision, math::kMost<T>);
    const T side = difference >= T(0) ? T(1) : T(-1);  // of the mean, on which x lies
    // 0 between the outer bins; an outer bin has one side, which is the far one (1) where it lies away from the mean
    const T outer = (x <= half ? T(1) : x >= T(1) - half ? T(-1) : T(0)) * side;
    const T far_side = c + h, near_side = c - h;
    const T a = math::exp_nonpositive(-far_side), b = math::exp_nonpositive(-math::abs(near_side));
    const T by_a = T(1) / (T(1) + a), by_b = T(1) / (T(1) + b);
    const T of_far = a * by_a;                             // sigmoid(-(c + h))
    const T of_near = near_side < T(0) ? b * by_b : by_b;  // sigmoid(c - h)
    const T log_far = math::minus_log1p(T(0), T(0), a);    // log sigmoid(c + h)
    const T log_near = math::minus_log1p(T(0), T(0), b) - (near_side < T(0) ? T(0) : near_side);

    const T y = T(2) * h, e = math::exp_nonpositive(-y), mass = -math::expm1(-y, e);
    const bool narrow = y < T(1e-10);
    const T log_mass = narrow ? (log_width - bounded) - T(0.5) * y : math::log_normal(narrow ? T(1) : mass);
    const T y_rate = narrow ? T(1) - T(0.5) * y : y * e / (narrow ? T(1) : mass);  // y / (exp(y) - 1)

    // The derivative by c, sigmoid(-(c + h)) - sigmoid(c - h), without its cancellation where h is large
    const T slope = (near_side < T(0) ? b - a : T(1) - a * b) * (by_a * by_b);
    value = outer == T(0) ? (log_far + log_near) + log_mass : (outer > T(0) ? log_far : log_near);
    const T by_c = outer == T(0) ? -slope : (outer > T(0) ? of_far : -of_near);
    const T by_h = outer == T(0) ? of_far + of_near : (outer > T(0) ? of_far : of_near);
    const T by_width = outer == T(0) ? y_rate : T(0);
    by_mean = -side * precision * by_c;
    const T scaled = -(c * by_c + h * by_h) - by_width;
    by_log_scale = log_scale < T(-80) ? T(0) : scaled;
    by_half = precision * by_h + by_width / half;
  }
};

struct DiscretizedLogistic : ElementwiseTerm {
  static constexpr const char* name = "discretized_logistic";
  static constexpr int arity = 4, target = 1;
  using prepared_from = Operands<3>;

  template <class T>
  VAEFAST_HD static T prepare(T half) {
    return math::log(T(2) * half);
  }
  template <class T>
  VAEFAST_HD static T evaluate(T mean, T x, T log_scale, T half, T log_width, T* d) {
    const LogisticBin<T> bin(mean, x, log_scale, half, log_width);
    d[0] = bin.by_mean, d[1] = -bin.by_mean, d[2] = bin.by_log_scale, d[3] = bin.by_half;
    return bin.value;
  }
};

using LogisticTerms = Family<DiscretizedLogistic>;

}  // namespace vaefast
