// Data in [0, 1]: Bernoulli, from logits and from probabilities, and the continuous Bernoulli.
#pragma once

#include "../term.h"

namespace vaefast {

// log p(x) for x in [0, 1] under a Bernoulli with these logits. The formula depends on the logit's sign, so that both
// parts of the negative log-likelihood are at least 0 and nothing cancels.
struct Bernoulli : ElementwiseTerm {
  static constexpr const char* name = "bernoulli";
  static constexpr int arity = 2, target = 1;
  static constexpr bool light = true;
  using prepared_from = Operands<0>;

  template <class T>
  VAEFAST_HD static T prepare(T logit) {
    return math::exp_nonpositive(-math::abs(logit));
  }
  template <class T>
  VAEFAST_HD static T evaluate(T logit, T x, T e, T* d) {
    const bool negative = math::is_negative(logit);
    const T size = math::abs(logit), miss = negative ? x : T(1) - x;
    const T q = math::divide(e, T(1) + e);
    d[0] = negative ? miss - q : q - miss;
    d[1] = logit;
    const T cost = miss == T(0) ? T(0) : size;  // an infinite logit of the right sign costs 0
    return math::minus_log1p(cost, miss, e);
  }
};

// log p(x) from probabilities, for decoders that end in a sigmoid. Logarithms are at least -100 and the gradient's
// denominator at least 1e-12, as in torch.nn.functional.binary_cross_entropy.
struct BernoulliProbs : ElementwiseTerm {
  static constexpr const char* name = "bernoulli_probs";
  static constexpr int arity = 2, target = 1;
  using prepared_from = Operands<0>;

  template <class T>
  VAEFAST_HD static T prepare(T p) {
    return math::clamped_log1m(p);
  }
  template <class T>
  VAEFAST_HD static T evaluate(T p, T x, T log_q, T* d) {
    const T log_p = math::clamped_log(p), variance = (T(1) - p) * p;
    d[0] = (x - p) / (variance < T(1e-12) ? T(1e-12) : variance);
    d[1] = log_p - log_q;
    return x * log_p + (T(1) - x) * log_q;
  }
};

// log of the continuous Bernoulli's density at x in [0, 1]: log(s / (1 - exp(-s))) - s miss for s = |logit|. Near 0 its
// parts cancel; there s / 2 is taken out of both: (x - 1/2) logit + log((s / 2) / sinh(s / 2)).
struct ContinuousBernoulli : ElementwiseTerm {
  static constexpr const char* name = "continuous_bernoulli";
  static constexpr int arity = 2, target = 1;

  template <class T>
  VAEFAST_HD static T evaluate(T logit, T x, T* d) {
    const T size = math::abs(logit), miss = logit >= T(0) ? T(1) - x : x;
    const bool near = size < T(1);
    T slope;
    const T log_near = math::log_x_by_sinh(near ? logit : T(0), slope);
    const T s = near ? T(1) : size, e = math::exp_nonpositive(-s), rest = T(1) - e;
    const T far_slope = (T(1) / s - e / rest) - miss;
    d[0] = near ? (x - T(0.5)) + slope : logit >= T(0) ? far_slope : -far_slope;
    d[1] = logit;
    const T cost = miss == T(0) ? T(0) : s * miss;
    const T far = cost == T(INFINITY) ? -cost : math::log(s / rest) - cost;
    return near ? (x - T(0.5)) * logit + log_near : far;
  }
};

using BernoulliTerms = Family<Bernoulli, BernoulliProbs, ContinuousBernoulli>;

}  // namespace vaefast
