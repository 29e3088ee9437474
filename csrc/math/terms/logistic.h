// The discretized logistic distribution of data on a grid.
#pragma once

#include "../term.h"

namespace vaefast {

// The grid of the data: half the width of a bin, the logarithm of the width, and the inner ends of the outer bins.
template <class T>
struct Grid {
  T half, log_width, first, last;
};

// log of a logistic's mass in the bin around x, and its derivatives. The outer bins are open. With c = |x - mean| / s
// and h = half / s the mass is, between the outer bins, sigmoid(c + h) sigmoid(h - c) (1 - exp(-2 h)): no difference of
// two sigmoids.
//
// One logarithm, two quotients and two exponentials serve all of that: for b = exp(-|c - h|) and u = exp(-2 min(c, h)),
// exp(-(c + h)) is b u, and exp(-2 h) is u where h is the smaller, and otherwise b b u.
template <class T>
struct LogisticBin {
  T value, by_mean, by_log_scale, by_half;

  VAEFAST_HD LogisticBin(T mean, T x, T log_scale, const Grid<T>& grid) {
    const T bounded = log_scale < T(-80) ? T(-80) : log_scale, precision = math::exp(-bounded);
    const T difference = math::bounded_log(x - mean), h = grid.half * precision;
    const T c = math::bounded(math::abs(difference) * precision, math::kMost<T>), near_side = c - h;
    const T side = difference >= T(0) ? T(1) : T(-1);  // of the mean, on which x lies
    // 0 between the outer bins; an outer bin has one side, which is the far one (1) where it lies away from the mean
    const T outer = (x <= grid.first ? T(1) : x >= grid.last ? T(-1) : T(0)) * side;
    const T b = math::exp_nonpositive(-math::abs(near_side));
    const T u = math::exp_nonpositive(T(-2) * (near_side < T(0) ? c : h)), a = b * u;

    const T y = T(2) * h, e = near_side < T(0) ? b * a : u, mass = -math::expm1(-y, e);
    const bool narrow = y < T(1e-10);
    const T divisor = narrow ? T(1) : mass, of_a = T(1) + a, of_b = T(1) + b;
    const T by_sides = T(1) / (of_a * of_b);
    const T y_rate = narrow ? T(1) - T(0.5) * y : y * e / divisor;      // y / (exp(y) - 1)
    const T of_far = a * of_b * by_sides;                               // sigmoid(-(c + h))
    const T of_near = (near_side < T(0) ? b : T(1)) * of_a * by_sides;  // sigmoid(c - h)
    // The derivative by c, sigmoid(-(c + h)) - sigmoid(c - h), without its cancellation where h is large
    const T slope = (near_side < T(0) ? b - a : T(1) - a * b) * by_sides;

    const T size = outer == T(0) ? divisor * by_sides : (outer > T(0) ? of_b : of_a) * by_sides;
    const T beyond = near_side < T(0) ? T(0) : near_side, log_width_rest = (grid.log_width - bounded) - T(0.5) * y;
    const T log_inside = narrow ? log_width_rest : T(0);
    // 1 - size, where it is small, without its cancellation
    const T rest = (narrow ? T(0) : e) + (a + b + a * b);
    const T sides = (outer == T(0) ? rest : (outer > T(0) ? a * of_b : b * of_a)) * by_sides;
    const int32_t exponent = math::exponent_of(size);
    const T f = size > T(0.71) ? -sides : math::times_power_of_2(size, -exponent) - T(1);
    value = (math::log_reduced(f, exponent) - (outer > T(0) ? T(0) * near_side : beyond)) +
            (outer == T(0) ? log_inside : T(0));
    const T by_c = outer == T(0) ? -slope : (outer > T(0) ? of_far : -of_near);
    const T by_h = outer == T(0) ? of_far + of_near : (outer > T(0) ? of_far : of_near);
    const T by_width = outer == T(0) ? y_rate : T(0);
    by_mean = -side * precision * by_c;
    const T scaled = -(c * by_c + h * by_h) - by_width;
    by_log_scale = log_scale < T(-80) ? T(0) : scaled;
    by_half = precision * by_h + by_width / grid.half;
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
    const LogisticBin<T> bin(mean, x, log_scale, {half, log_width, half, T(1) - half});
    d[0] = bin.by_mean, d[1] = -bin.by_mean, d[2] = bin.by_log_scale, d[3] = bin.by_half;
    return bin.value;
  }
};

using LogisticTerms = Family<DiscretizedLogistic>;

}  // namespace vaefast
