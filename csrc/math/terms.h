// Every elementwise term that vaefast sums over a row, and THE list of them at the end of this file.
//
// A term is a struct with
//   name      how Python asks for it: torch.ops.vaefast.row_sum(name, ...)
//   arity     the number of operands, at most kMaxOperands; the prediction first
//   target    the operand that holds data: it is multiplied by target_scale and may be bool or uint8; -1 for none
//   value     the term of one element, in nats
//   gradient  its derivative by every operand
// Formulas are chosen to keep their digits where the textbook form loses them; README.md, "Error bounds", has the
// reasons and the measured errors. `value` and `gradient` of one element are inlined into one loop, where the compiler
// shares their common subexpressions.
#pragma once

#include "scalar.h"

namespace vaefast {

constexpr int kMaxOperands = 4;

// KL(N(mu, exp(logvar)) || N(0, 1)) = (mu^2 + phi(logvar)) / 2
struct GaussianKl {
  static constexpr const char* name = "gaussian_kl";
  static constexpr int arity = 2, target = -1;

  template <class T>
  VAEFAST_HD static T value(T mu, T logvar) {
    return T(0.5) * (mu * mu + math::phi(logvar));
  }
  template <class T>
  VAEFAST_HD static void gradient(T mu, T logvar, T* d) {
    d[0] = mu;
    d[1] = T(0.5) * math::expm1(logvar);
  }
};

// KL(N(mu, exp(logvar)) || N(prior_mu, exp(prior_logvar)))
struct GaussianKlPair {
  static constexpr const char* name = "gaussian_kl_pair";
  static constexpr int arity = 4, target = -1;

  // (mu - prior_mu) / sigma_prior; 0 for equal means also where sigma_prior is 0.
  template <class T>
  VAEFAST_HD static T distance(T mu, T prior_mu, T precision_root) {
    const T difference = mu - prior_mu;
    return difference == T(0) ? T(0) : difference * precision_root;
  }
  template <class T>
  VAEFAST_HD static T value(T mu, T logvar, T prior_mu, T prior_logvar) {
    const T r = distance(mu, prior_mu, math::exp_careful(T(-0.5) * prior_logvar));
    return T(0.5) * (r * r + math::phi(logvar - prior_logvar));
  }
  template <class T>
  VAEFAST_HD static void gradient(T mu, T logvar, T prior_mu, T prior_logvar, T* d) {
    const T precision_root = math::exp_careful(T(-0.5) * prior_logvar);
    const T r = distance(mu, prior_mu, precision_root);
    const T growth = math::expm1(logvar - prior_logvar);
    d[0] = r == T(0) ? T(0) : r * precision_root;
    d[1] = T(0.5) * growth;
    d[2] = -d[0];
    d[3] = T(-0.5) * (growth + r * r);
  }
};

// log p(x) for x in [0, 1] under a Bernoulli with these logits. Split by the logit's sign, so that both parts of the
// negative log-likelihood are non-negative and nothing cancels.
struct Bernoulli {
  static constexpr const char* name = "bernoulli";
  static constexpr int arity = 2, target = 1;

  template <class T>
  VAEFAST_HD static T value(T logit, T x) {
    const T distance = logit >= T(0) ? logit : -logit;
    const T miss = logit >= T(0) ? T(1) - x : x;
    const T linear = miss == T(0) ? T(0) : distance * miss;  // an infinite logit that is right costs 0
    return -(linear + math::log1p_unit(math::exp(-distance)));
  }
  template <class T>
  VAEFAST_HD static void gradient(T logit, T x, T* d) {
    const T e = math::exp(logit >= T(0) ? -logit : logit);
    const T q = e / (T(1) + e);
    d[0] = logit >= T(0) ? q - (T(1) - x) : x - q;
    d[1] = logit;
  }
};

// The same from probabilities, for decoders that end in a sigmoid: logarithms clamped at -100 and the gradient's
// denominator at 1e-12, as torch.nn.functional.binary_cross_entropy does.
struct BernoulliProbs {
  static constexpr const char* name = "bernoulli_probs";
  static constexpr int arity = 2, target = 1;

  template <class T>
  VAEFAST_HD static T clamped(T log_p) {
    return log_p < T(-100) ? T(-100) : log_p;
  }
  template <class T>
  VAEFAST_HD static T value(T p, T x) {
    return x * clamped(math::log(p)) + (T(1) - x) * clamped(math::log1m(p));
  }
  template <class T>
  VAEFAST_HD static void gradient(T p, T x, T* d) {
    const T variance = (T(1) - p) * p;
    d[0] = (x - p) / (variance < T(1e-12) ? T(1e-12) : variance);
    d[1] = clamped(math::log(p)) - clamped(math::log1m(p));
  }
};

// log N(x; mean, exp(logvar)), constant included
struct Gaussian {
  static constexpr const char* name = "gaussian";
  static constexpr int arity = 3, target = 1;

  template <class T>
  VAEFAST_HD static T residual(T mean, T x, T precision_root) {
    const T difference = x - mean;
    return difference == T(0) ? T(0) : difference * precision_root;
  }
  template <class T>
  VAEFAST_HD static T value(T mean, T x, T logvar) {
    const T r = residual(mean, x, math::exp_careful(T(-0.5) * logvar));
    return T(-0.5) * (T(math::kLog2Pi) + logvar + r * r);
  }
  template <class T>
  VAEFAST_HD static void gradient(T mean, T x, T logvar, T* d) {
    const T precision_root = math::exp_careful(T(-0.5) * logvar);
    const T r = residual(mean, x, precision_root);
    d[0] = r == T(0) ? T(0) : r * precision_root;
    d[1] = -d[0];
    d[2] = T(0.5) * (r * r - T(1));
  }
};

template <class... Term>
struct TermList {
  static constexpr int size = sizeof...(Term);
  static constexpr const char* names[] = {Term::name...};
  static constexpr int arity[] = {Term::arity...};
  static constexpr int target[] = {Term::target...};
};

// THE list: a term added here exists for every instruction set, device, dtype and reduction, with its backward.
using Terms = TermList<GaussianKl, GaussianKlPair, Bernoulli, BernoulliProbs, Gaussian>;

}  // namespace vaefast
