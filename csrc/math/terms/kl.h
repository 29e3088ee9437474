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

// expm1(2 r) and phi(2 r) = expm1(2 r) - 2 r for exp(r) = ratio, from ratio - 1, which the caller knows with less
// rounding, and from r. Near ratio 1 the series of the logarithm takes the place of a difference that would cancel.
template <class T>
struct SquaredRatio {
  bool near;
  T phi, expm1;

  VAEFAST_HD SquaredRatio(T ratio, T excess, T log_ratio) : expm1(excess * (ratio + T(1))) {
    near = ratio > T(0.71) && ratio < T(1.41);
    const T u = near ? excess : T(0);
    // What rounding took from the ratio is put back into its logarithm, where that is small.
    const T lost = math::abs(log_ratio) < T(1) ? excess - (ratio - T(1)) : T(0);
    const T bounded = log_ratio > T(1000) ? T(1000) : log_ratio;  // keeps phi of an infinite ratio from being inf - inf
    phi = near ? T(2) * u * u * (T(1) - u * math::log_rest(u)) : expm1 - T(2) * (bounded + lost);
  }
};

// KL(N(mu, scale^2) || N(0, 1))
struct GaussianKlScale : ElementwiseTerm {
  static constexpr const char* name = "gaussian_kl_scale";
  static constexpr int arity = 2;
  static constexpr bool is_kl = true, by_scale = true, light = true;
  using prepared_from = Operands<1>;

  template <class T>
  VAEFAST_HD static T prepare(T scale) {
    return math::log(scale);
  }
  template <class T>
  VAEFAST_HD static T evaluate(T mu, T scale, T log_scale, T* d) {
    const SquaredRatio<T> r(scale, scale - T(1), log_scale);
    d[0] = mu;
    const T inverse = T(1) / scale;
    d[1] = r.near ? r.expm1 * inverse : scale - inverse;
    return T(0.5) * (mu * mu + r.phi);
  }
};

// KL(N(mu, scale^2) || N(prior_mu, prior_scale^2))
struct GaussianKlPairScale : ElementwiseTerm {
  static constexpr const char* name = "gaussian_kl_pair_scale";
  static constexpr int arity = 4;
  static constexpr bool is_kl = true, by_scale = true;
  using prepared_from = Operands<1, 3>;

  template <class T>
  VAEFAST_HD static T prepare(T scale, T prior_scale) {
    return math::log(scale / prior_scale);
  }
  template <class T>
  VAEFAST_HD static T evaluate(T mu, T scale, T prior_mu, T prior_scale, T log_ratio, T* d) {
    const T difference = mu - prior_mu;
    const T z = difference == T(0) ? difference : difference / prior_scale;  // 0 also where the scale is 0
    const T ratio = scale / prior_scale, excess = (scale - prior_scale) / prior_scale;
    const SquaredRatio<T> r(ratio, prior_scale == T(INFINITY) ? ratio - T(1) : excess, log_ratio);
    d[0] = z == T(0) ? z : z / prior_scale;
    // The square of the ratio, or of z, may be infinite where the gradients are not. 0 * expm1 keeps its NaN.
    const bool large = ratio > T(1.41), far = math::abs(z) > T(1e9);
    d[1] = (large ? ratio - T(1) / ratio : r.expm1) / (large ? prior_scale : scale);
    d[2] = -d[0];
    d[3] = large || far ? -((large ? ratio * d[1] : T(0) * r.expm1) + z * d[0]) : -(r.expm1 + z * z) / prior_scale;
    return T(0.5) * (z * z + r.phi);
  }
};

using KlTerms = Family<GaussianKl, GaussianKlPair, GaussianKlScale, GaussianKlPairScale>;

}  // namespace vaefast
