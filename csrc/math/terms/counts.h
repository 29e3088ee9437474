// Counts by Poisson's distribution, from the logarithm of the rate and from the rate itself. What all counts share is
// here, too: x is 0, 1, 2, ...; fractions are the formulas' continuations; below 0 the probability is 0.
//
// The terms never hold log x!, which is large, but Stirling's formula for it at h = 1 + x, and what remains of the
// largest parts, x (t - log1p(t)) with 1 + t = mean / h: this is small where the mean is near x.
#pragma once

#include "../term.h"

namespace vaefast {

// A count that is at most 1e30.
template <class T>
VAEFAST_HD T bounded_count(T x) {
  return math::bounded(x, T(1e30));
}

// A value, and a gradient, where there may be no such count.
template <class T>
VAEFAST_HD T log_of_count(T x, T value) {
  return x < T(0) ? -T(INFINITY) : value;
}
template <class T>
VAEFAST_HD T of_count(T x, T gradient) {
  return x < T(0) ? T(0) : gradient;
}

// log(1 + t). Near -1, where t has lost digits, it is offset + log(factor).
template <class T>
struct LogOfRatio : math::Log1p<T> {
  T log;

  VAEFAST_HD LogOfRatio(T t, T factor, T offset) : math::Log1p<T>(t, t < T(-0.75) ? factor : T(1) + t) {
    log = math::Log1p<T>::log() + (t < T(-0.75) ? offset : T(0));
  }
};

// x log1p(t) - (1 + x) t, from t, from (1 + x) t, and from what LogOfRatio takes.
template <class T>
VAEFAST_HD T count_excess(T x, T t, T whole, T factor, T offset) {
  const LogOfRatio<T> of(t, factor, offset);
  return of.small ? -t * (T(1) + x * of.deficit) : x * of.log - whole;
}

// log of Poisson's probability of x, and its derivative by x.
template <class T>
VAEFAST_HD T poisson(T x, T rate, T log_rate, T& by_x) {
  const T h = T(1) + x, by_h = T(1) / h, log_h = math::log_normal(h), whole = (rate - x) - T(1);
  const T rest = T(0.5) * log_h + (math::stirling(by_h) + T(math::kLog2Pi / 2));
  const T some = count_excess(x, whole * by_h, whole, by_h, log_rate) - rest;
  by_x = of_count(x, log_rate - math::digamma1p(x));
  return x == T(0) ? -rate : some;
}

struct Poisson : ElementwiseTerm {
  static constexpr const char* name = "poisson";
  static constexpr int arity = 2, target = 1;
  using prepared_from = Operands<0>;

  template <class T>
  VAEFAST_HD static T prepare(T log_rate) {
    return math::bounded(math::exp_rounded(log_rate), math::kMost<T>);
  }
  template <class T>
  VAEFAST_HD static T evaluate(T log_rate, T count, T rate, T* d) {
    const T x = bounded_count(count);
    d[0] = of_count(x, x - rate);
    return log_of_count(x, poisson(x, rate, math::bounded_log(log_rate), d[1]));
  }
};

struct PoissonRate : ElementwiseTerm {
  static constexpr const char* name = "poisson_rate";
  static constexpr int arity = 2, target = 1;
  using prepared_from = Operands<0>;

  template <class T>
  VAEFAST_HD static T prepare(T rate) {
    return math::bounded_log(math::log(rate));
  }
  template <class T>
  VAEFAST_HD static T evaluate(T rate, T count, T log_rate, T* d) {
    const T x = bounded_count(count), r = math::bounded(rate, math::kMost<T>) + T(0) * log_rate;  // NaN below 0
    d[0] = of_count(x, (x == T(0) ? T(0) : x / r) - T(1));
    return log_of_count(x, poisson(x, r, log_rate, d[1]));
  }
};

using PoissonTerms = Family<Poisson, PoissonRate>;

}  // namespace vaefast
