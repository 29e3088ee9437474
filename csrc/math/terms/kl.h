// KL divergences of the latents' distribution from its prior.
#pragma once

#include "deviation.h"

namespace vaefast {

// KL(N(mu, exp(logvar)) || N(0, 1)) = (mu^2 + phi(logvar)) / 2
struct GaussianKl : ElementwiseTerm {
  static constexpr const char* name = "gaussian_kl";
  static constexpr int arity = 2;
  static constexpr bool is_kl = true, light = true;
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
struct GaussianKlPair : ElementwiseTerm {
  static constexpr const char* name = "gaussian_kl_pair";
  static constexpr int arity = 4;
  static constexpr bool is_kl = true;
  using prepared_from = Operands<1, 3>;

  template <class T>
  VAEFAST_HD static T prepare(T logvar, T prior_logvar) {
    return math::exp(logvar - prior_logvar);
  }
  template <class T>
  VAEFAST_HD static T evaluate(T mu, T logvar, T prior_mu, T prior_logvar, T ratio, T* d) {
    const Deviation<T> deviation(mu - prior_mu, prior_logvar, Deviation<T>::scale(prior_logvar));
    // Rounding changes the logarithm of the ratio by `lost`, which changes phi by lost * expm1 and expm1 by lost * exp.
    // With other selections the loop does not vectorize.
    constexpr T most = sizeof(T) == 4 ? 88 : 709;  // beyond, exp is infinite and the rounding may be NaN
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

using KlTerms = Family<GaussianKl, GaussianKlPair>;

}  // namespace vaefast
