// Overdispersed counts with zeros of another origin, from logarithms and from the mean and the inverse dispersion
// themselves, and the logit of a zero of that origin.
#pragma once

#include "negative_binomial.h"

namespace vaefast {

// log of the probability of x where a zero comes from the gate with probability sigmoid(gate), and every count from a
// distribution with `counted` as its log-probability. At 0 that is log(open + closed exp(counted)) = log1p(y) for open
// = sigmoid(gate) and y = closed expm1(counted). Both parts are divided by exp(least) where they may be 0 in T.
template <class T>
struct ZeroInflated {
  T value, by_gate, share;  // share: of the derivative by `counted`

  VAEFAST_HD ZeroInflated(T x, T gate, T counted) {
    const bool zero = x == T(0), negative = gate < T(0);
    const T likelier = gate < counted ? counted : gate;
    const bool none = likelier < T(-40);
    const T least = none ? math::bounded_log(likelier) : T(0);
    const T scaled = math::exp_nonpositive(-math::abs(gate) - least), e = none ? T(0) : scaled;
    const T inverse = T(1) / (T(1) + e);
    T p;
    const T near = math::expm1_nonpositive(counted - least, p), expm1 = none ? T(-1) : near;
    const T sum = negative ? scaled + p : T(1) + e * p, by_sum = T(1) / sum;  // of both parts, over exp(least) inverse
    const math::Log1p<T> of((negative ? inverse : e * inverse) * expm1, sum * inverse);
    const T at_0 = of.log() + (of.small ? T(0) : least + T(0) * sum);  // NaN stays NaN
    const T some = (negative ? T(0) : -gate) + math::minus_log1p(T(0), T(0), e) + counted;
    value = zero ? at_0 : some;
    share = zero ? (negative ? p : e * p) * by_sum : T(1);
    by_gate = zero ? -scaled * inverse * expm1 * by_sum : -(negative ? e * inverse : inverse);
  }
};

// From either form of the negative binomial's parameters; `of` has its derivatives.
template <class T>
VAEFAST_HD T zero_inflated(T x, T gate, const NegativeBinomialOf<T>& of, T by_mean, T by_theta, T* d) {
  const ZeroInflated<T> z(x, gate, of.value);
  d[0] = of_count(x, z.share * by_mean), d[2] = of_count(x, z.share * by_theta);
  d[1] = of_count(x, z.share * of.by_x), d[3] = of_count(x, z.by_gate);
  return log_of_count(x, z.value);
}

struct ZeroInflatedNegativeBinomial : ElementwiseTerm {
  static constexpr const char* name = "zero_inflated_negative_binomial";
  static constexpr int arity = 4, target = 1;
  static constexpr bool mostly_zeros = true, heavy = true;

  template <class T>
  VAEFAST_HD static T evaluate(T log_mean, T count, T log_theta, T gate, T* d) {
    const T x = bounded_count(count);
    T by_mean, by_theta;
    const NegativeBinomialOf<T> of = of_logarithms(x, log_mean, log_theta, by_mean, by_theta);
    return zero_inflated(x, gate, of, by_mean, by_theta, d);
  }
};

struct ZeroInflatedNegativeBinomialMean : ElementwiseTerm {
  static constexpr const char* name = "zero_inflated_negative_binomial_mean";
  static constexpr int arity = 4, target = 1;
  static constexpr bool mostly_zeros = true, heavy = true;

  template <class T>
  VAEFAST_HD static T evaluate(T mean, T count, T theta, T gate, T* d) {
    const T x = bounded_count(count);
    T by_mean, by_theta;
    const NegativeBinomialOf<T> of = of_rates(x, mean, theta, by_mean, by_theta);
    return zero_inflated(x, gate, of, by_mean, by_theta, d);
  }
};

using ZeroInflatedTerms = Family<ZeroInflatedNegativeBinomial, ZeroInflatedNegativeBinomialMean>;

}  // namespace vaefast
