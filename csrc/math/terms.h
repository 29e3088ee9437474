// Every elementwise term that vaefast sums over a row, and THE list of them at the end of this file.
//
// A term is a struct with
//   name      how Python asks for it: torch.ops.vaefast.row_sum(name, ...)
//   arity     the number of operands, at most kMaxOperands; the prediction first
//   target    the operand that holds data: it is multiplied by target_scale and may be bool or uint8; -1 for none
//   prepare   optional: a number that evaluate takes before d, of the operands that `prepared_from` lists. A CPU makes
//             it for many elements first: two short loops keep more elements in flight than one whose chain of
//             dependent operations is long. Where those operands are one number each, it is made once
//   evaluate  the term of one element, in nats, and in d its derivative by every operand
// Formulas are chosen to keep their digits where the textbook form loses them; docs/accuracy.md has the measured
// errors. Where no gradient is asked for, the compiler drops what only d needs.
#pragma once

#include <type_traits>
#include <utility>

#include "scalar.h"

namespace vaefast {

constexpr int kMaxOperands = 4;
template <size_t... k>
using Operands = std::index_sequence<k...>;

// difference^2 / variance, and half its derivative by the difference: both 0 for no difference, also where the variance
// is 0. `scale` is 1 / variance where that neither overflows nor underflows, and 1 / sigma beyond, squared later: so
// there is one exp.
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

// KL(N(mu, exp(logvar)) || N(0, 1)) = (mu^2 + phi(logvar)) / 2
struct GaussianKl {
  static constexpr const char* name = "gaussian_kl";
  static constexpr int arity = 2, target = -1;
  using prepared_from = Operands<1>;

  template <class T>
  VAEFAST_HD static T prepare(T logvar) {
    return math::exp(logvar);
  }
  template <class T>
  VAEFAST_HD static T evaluate(T mu, T logvar, T e, T* d) {
    d[0] = mu;
    d[1] = T(0.5) * math::expm1(logvar, e);
    return T(0.5) * (mu * mu + math::phi(logvar, e));
  }
};

// KL(N(mu, exp(logvar)) || N(prior_mu, exp(prior_logvar)))
struct GaussianKlPair {
  static constexpr const char* name = "gaussian_kl_pair";
  static constexpr int arity = 4, target = -1;
  using prepared_from = Operands<1, 3>;

  template <class T>
  VAEFAST_HD static T prepare(T logvar, T prior_logvar) {
    return math::exp(logvar - prior_logvar);
  }
  template <class T>
  VAEFAST_HD static T evaluate(T mu, T logvar, T prior_mu, T prior_logvar, T ratio, T* d) {
    const Deviation<T> deviation(mu - prior_mu, prior_logvar, Deviation<T>::scale(prior_logvar));
    // phi and expm1 of the ratio's logarithm, and what its rounding does to them: lost * expm1, and lost * exp. With
    // other selections the loop does not vectorize.
    constexpr T most = sizeof(T) == 4 ? 88 : 709;  // beyond, exp is infinite and what is lost may be NaN
    const T log_ratio = logvar - prior_logvar;
    const T rounding = math::rounding_of_difference(logvar, prior_logvar, log_ratio);
    const T lost = math::abs(log_ratio) < most ? rounding : T(0), expm1 = math::expm1(log_ratio, ratio);
    const T phi_lost = lost * (expm1 == T(INFINITY) ? T(0) : expm1);
    const T growth = expm1 + (lost + phi_lost);
    d[0] = deviation.slope;
    d[1] = T(0.5) * growth;
    d[2] = -deviation.slope;
    d[3] = T(-0.5) * (growth + deviation.squared);
    return T(0.5) * (deviation.squared + (math::phi(log_ratio, ratio) + phi_lost));
  }
};

// log p(x) for x in [0, 1] under a Bernoulli with these logits. Split by the logit's sign, so that both parts of the
// negative log-likelihood are non-negative and nothing cancels.
struct Bernoulli {
  static constexpr const char* name = "bernoulli";
  static constexpr int arity = 2, target = 1;
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
    const T cost = miss == T(0) ? T(0) : size;  // an infinite logit that is right costs 0
    return math::minus_log1p(cost, miss, e);
  }
};

// The same from probabilities, for decoders that end in a sigmoid: logarithms clamped at -100 and the gradient's
// denominator at 1e-12, as torch.nn.functional.binary_cross_entropy does.
struct BernoulliProbs {
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

// log N(x; mean, exp(logvar)), constant included
struct Gaussian {
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
struct Laplace {
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
    const T error = distance * (distance == T(0) ? bounded : precision);  // none also where the scale is 0
    d[0] = x > mean ? precision : x < mean ? -precision : x - mean;       // 0, or NaN
    d[1] = -d[0];
    d[2] = error - T(1);
    return -(T(0.693147180559945309) + log_scale + error);
  }
};

// log of the continuous Bernoulli's density at x in [0, 1], log(s / (1 - exp(-s))) - s miss for s = |logit|. Near 0 its
// parts cancel, and with the halves of both taken out it is (x - 1/2) logit + log((s / 2) / sinh(s / 2)).
struct ContinuousBernoulli {
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

template <class Term, class = void>
struct PreparedFrom : Operands<> {};
template <class Term>
struct PreparedFrom<Term, std::void_t<typename Term::prepared_from>> : Term::prepared_from {};

template <class Term>
constexpr bool kPrepares = PreparedFrom<Term>::size() != 0;

// The term of one element, in one step.
template <class Term, class T, size_t... k>
VAEFAST_HD T prepare(const T (&x)[Term::arity], Operands<k...>) {
  return Term::prepare(x[k]...);
}
template <class Term, class T, size_t... k>
VAEFAST_HD T evaluate(const T (&x)[Term::arity], T (&d)[Term::arity], Operands<k...>) {
  if constexpr (kPrepares<Term>) return Term::evaluate(x[k]..., prepare<Term>(x, PreparedFrom<Term>()), d);
  else return Term::evaluate(x[k]..., d);
}
template <class Term, class T>
VAEFAST_HD T evaluate(const T (&x)[Term::arity], T (&d)[Term::arity]) {
  return evaluate<Term>(x, d, std::make_index_sequence<Term::arity>());
}

template <size_t... k>
constexpr int bits_of(Operands<k...>) {
  return (0 | ... | (1 << k));
}

template <class... Term>
struct TermList {
  static constexpr int size = sizeof...(Term);
  static constexpr const char* names[] = {Term::name...};
  static constexpr int arity[] = {Term::arity...};
  static constexpr int target[] = {Term::target...};
  static constexpr int prepared_from[] = {bits_of(PreparedFrom<Term>())...};  // as bits
};

// THE list: a term added here exists for every instruction set, device, dtype and reduction, with its backward.
using Terms = TermList<GaussianKl, GaussianKlPair, Bernoulli, BernoulliProbs, Gaussian, Laplace, ContinuousBernoulli>;

}  // namespace vaefast
