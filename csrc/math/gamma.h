// What the likelihoods of counts need of the gamma function. Stirling's formula at h = 1 + y, for y >= 0:
//   log Gamma(h) = (h - 1/2) log h - h + log(2 pi) / 2 + stirling(1 / h)
//   psi(h) = log h - 1 / (2 h) + digamma_rest(1 / h) / h^2
// Both corrections are smooth functions of 1 / h in [0, 1]. So one polynomial serves every count, also 0, and every
// size of a negative binomial, however small. Differences of log-gammas are made of the formula's parts, in which the
// large numbers cancel on paper. scalar.h says how errors are stated.
#pragma once

#include "exponentials.h"
#include "logarithms.h"

namespace vaefast::math {

// stirling(t) is at most 0.082; its error is 5e-9 in float, 4e-17 in double.
VAEFAST_HD float stirling(float t) {
  return t * polynomial(t, 0.0833333358f,
                        {-3.49734535e-07f, -0.00277068815f, -6.09097333e-05f, 0.00106353313f, -0.000645669876f,
                         0.000142218938f});
}
VAEFAST_HD double stirling(double t) {
  return t * polynomial(t, 0.08333333333333301,
                        {2.5464767609366803e-13, -0.002777777812155881, 1.8640376562671006e-09, 0.0007935967355686511,
                         9.678246545163063e-07, -0.0006068752399377203, 9.907796113393828e-05, 0.00022455037063062955,
                         0.0028607936837897045, -0.011783199613150023, 0.024691861209907108, -0.03513607951404256,
                         0.03675319604574694, -0.028904190938583593, 0.01700847603094659, -0.007292230757298372,
                         0.0021559398579538095, -0.0003933679707574982, 3.339372329568171e-05});
}

// digamma_rest(t) is about -1/12; its error is 3e-9 in float, 7e-16 in double.
VAEFAST_HD float digamma_rest(float t) {
  return polynomial(t, -0.0833333507f,
                    {2.38085158e-06f, 0.00828049518f, 0.000465427584f, -0.00605148263f, 0.0051044696f, -0.00200619828f,
                     0.000322592969f});
}
VAEFAST_HD double digamma_rest(double t) {
  return polynomial(t, -0.08333333333333333,
                    {-2.546297224938387e-15, 0.008333333333672489, -4.9662448813106575e-12, -0.0039682550422783704,
                     7.08129954691169e-08,   0.004164503299505699, 4.080767462716055e-05,   -0.008103502779205527,
                     0.004942937798379221,   -0.013501541094533,   0.1837313812421854,      -0.8242255816645117,
                     2.2260757222801617,     -4.286228792583234,   6.273727938053855,       -7.162558151557021,
                     6.42023075193001,       -4.489863169402874,   2.4053313537665533,      -0.9545589040221206,
                     0.26456347917502565,    -0.04572738550414516, 0.00371067271972047});
}

// log Gamma(1 + y) and psi(1 + y) for y >= 0. Errors of 3 u (1 + y log(1 + y)) and 3 u (1 + log(1 + y)).
template <class T>
VAEFAST_HD T log_gamma1p(T y) {
  const T h = T(1) + y, log_h = log_normal(h), t = T(1) / h;
  return (y * (log_h - T(1)) + T(0.5) * log_h) + (stirling(t) - T(1 - kLog2Pi / 2));
}
template <class T>
VAEFAST_HD T digamma1p(T y) {
  const T h = T(1) + y, t = T(1) / h;
  return log_normal(h) - t * (T(0.5) - t * digamma_rest(t));
}

// log(u) for u > 0, where t = u - 1 is given, too: near 0 it has digits that u has lost. log(u) is f (1 - deficit) + n
// log(2), and the digits of t - log(1 + t) are in t deficit where t is small. One polynomial serves small and large t.
template <class T>
struct Log1p {
  bool small;
  T f, n, deficit;

  VAEFAST_HD Log1p(T t, T u) {
    small = abs(t - T(0.06)) < T(0.35);
    const T far = small ? T(1) : u;  // whose logarithm is 0
    const int32_t exponent = exponent_of(far);
    f = small ? t : times_power_of_2(far, -exponent) - T(1), n = T(exponent);
    deficit = f * (T(0.5) - f * log_rest(f));
  }
  VAEFAST_HD T log() const { return n * Format<T>::ln2_high + (f + (n * Format<T>::ln2_low - f * deficit)); }
};

// log1p(t) for t >= 0. What rounding takes from 1 + t is added.
template <class T>
VAEFAST_HD T log1p(T t) {
  const T sum = T(1) + t, lost = t - (sum - T(1));
  const Log1p<T> of(t, sum);
  return of.log() + (of.small ? T(0) : lost / sum);
}

// r >= 0 and x + r, divided by max(1, r), so that neither a tiny nor a huge r leaves the range of T; and Stirling's h
// of both, 1 + r and 1 + x + r, over the same number. The caller has r and 1 over max(1, r).
template <class T>
struct Rising {
  T one, r, sum, lower, upper, by_lower, by_upper;  // by_: 1 / lower, 1 / upper

  VAEFAST_HD Rising(T x, T one, T r) : one(one), r(r) {
    sum = r + x * one;
    lower = r + one, upper = lower + x * one;
    by_lower = T(1) / lower, by_upper = T(1) / upper;
  }

  VAEFAST_HD T share() const { return r * by_lower; }      // r / (1 + r)
  VAEFAST_HD T t_lower() const { return one * by_lower; }  // 1 / (1 + r)
  VAEFAST_HD T t_upper() const { return one * by_upper; }  // 1 / (1 + x + r)
  VAEFAST_HD T stirling_difference() const { return stirling(t_upper()) - stirling(t_lower()); }
  // r (psi(x + r) - psi(r) - log((1 + x + r) / (1 + r))) for x > 0
  VAEFAST_HD T digamma_difference(T x) const {
    const T rest = digamma_rest(t_upper()) * by_upper * by_upper - digamma_rest(t_lower()) * by_lower * by_lower;
    return x * one * (T(1) / sum + T(0.5) * share() * by_upper) + r * one * rest;
  }
};

// log Gamma(x + r) - log Gamma(r) for r = exp(log_r) and x >= 0, and r (psi(x + r) - psi(r)), its derivative by log_r,
// in `slope`. Both are right for every finite log_r, also where r is 0 or infinite in T.
template <class T>
VAEFAST_HD T log_rising(T x, T log_r, T& slope) {
  const bool large = log_r > T(0);
  const T e = exp_nonpositive(-abs(log_r)), r = exp(log_r);
  const Rising<T> rising(x, large ? e : T(1), large ? T(1) : e);
  const T w = x * rising.t_lower();
  const Log1p<T> of(w, rising.upper * rising.by_lower);
  const T log_ratio = of.log();
  // (1 + r) log1p(w) - x, and r log1p(w)
  const T excess = of.small ? -x * of.deficit : (T(1) + r) * log_ratio - x;
  const T log_power = of.small ? x * rising.share() * (T(1) - of.deficit) : r * log_ratio;
  const T log_upper = log_normal(rising.upper), log_sum = log_normal(rising.sum);
  const T value = (x * (log_upper + (large ? log_r : T(0))) + excess) +
                  (rising.stirling_difference() - T(0.5) * log_ratio - log_sum + (large ? T(0) : log_r));
  slope = x == T(0) ? T(0) : log_power + rising.digamma_difference(x);
  return x == T(0) ? T(0) : value;
}

}  // namespace vaefast::math
