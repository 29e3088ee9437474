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
    const bool right = difference >= T(0), first = x <= half, last = x >= T(1) - half;
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
    // An outer bin has one side, which is the far one where it lies away from the mean.
    const bool outer = first | last, of_side = first == right;
    const T side = of_side ? of_far : of_near;
    value = outer ? (of_side ? log_far : log_near) : (log_far + log_near) + log_mass;
    const T by_c = outer ? (of_side ? side : -side) : -slope;
    const T by_h = outer ? side : of_far + of_near;
    by_mean = (right ? -precision : precision) * by_c;
    const T scaled = -(c * by_c + h * by_h) - (outer ? T(0) : y_rate);
    by_log_scale = log_scale < T(-80) ? T(0) : scaled;
    by_half = precision * by_h + (outer ? T(0) : y_rate / half);
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
