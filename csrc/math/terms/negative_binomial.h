// Overdispersed counts: the negative binomial, from logarithms and from the mean and the inverse dispersion themselves.
#pragma once

#include "counts.h"

namespace vaefast {

// Where the ratio of two numbers is below kApart, it may not be normal, but times kForward^2 = 2^(2 kShift) it is.
template <class T>
constexpr T kApart = sizeof(T) == 4 ? T(0x1p-100) : T(0x1p-900);
template <class T>
constexpr int kShift = sizeof(T) == 4 ? 80 : 540;
template <class T>
constexpr T kForward = sizeof(T) == 4 ? T(0x1p80) : T(0x1p540);

// What the negative binomial's formula needs of its mean m and inverse dispersion r. The log-probability of a count of
// 0 is -r log(1 + m / r), which is -m log1p(m / r) / (m / r) where m is less than r.
template <class T>
struct MeanAndDispersion {
  bool mean_is_less;
  T log_mean, log_r, smaller, ratio, share;  // ratio: the smaller of m and r over the larger; share: 1 / (1 + ratio)
  T r, r_by_largest, one_by_largest;         // r may be infinite; r and 1 over max(1, r)
  T log1p_odds;                              // log(1 + m / r)
  T at_0, slope_at_0;  // log-probability of 0 and its derivative by log r, or by r where that is given

  VAEFAST_HD static MeanAndDispersion of_logarithms(T log_mean, T log_r) {
    MeanAndDispersion p;
    p.log_mean = math::bounded_log(log_mean);
    p.log_r = math::bounded_log(log_r);
    const T log_odds = p.log_mean - p.log_r;
    p.mean_is_less = p.log_mean < p.log_r;
    p.smaller = math::bounded(math::exp_rounded(p.mean_is_less ? p.log_mean : p.log_r), math::kMost<T>);
    p.ratio = math::exp_nonpositive(-math::abs(log_odds));
    p.share = T(1) / (T(1) + p.ratio);
    p.r = math::exp(p.log_r);
    const T by_largest = math::exp_nonpositive(-math::abs(p.log_r));
    p.r_by_largest = p.log_r > T(0) ? T(1) : by_largest;
    p.one_by_largest = p.log_r > T(0) ? by_largest : T(1);

    const T curve = math::kLog1pC0<T> + p.ratio * math::log1p_rest(p.ratio);
    p.log1p_odds = (p.ratio + p.ratio * p.ratio * curve) + (p.mean_is_less ? T(0) : log_odds);
    const T cost = p.mean_is_less ? T(1) + p.ratio * curve : p.log1p_odds;
    const T cost_by_r = p.mean_is_less ? p.ratio * (curve + p.share) : p.log1p_odds - p.share;
    p.at_0 = -p.smaller * cost;
    p.slope_at_0 = -math::bounded(p.smaller * cost_by_r, math::kMost<T>);
    return p;
  }

  VAEFAST_HD static MeanAndDispersion of_rates(T mean, T r) {
    MeanAndDispersion p;
    p.r = r;
    p.log_mean = math::log_of_rate(mean);
    p.log_r = math::log_of_rate(r);
    p.mean_is_less = mean < r;
    const T smaller = p.mean_is_less ? mean : r;
    const T larger = math::bounded(p.mean_is_less ? r : mean, math::kMost<T>);
    p.smaller = smaller >= T(0) ? math::bounded(smaller, math::kMost<T>) : T(NAN);
    const bool tiny = p.smaller < larger * kApart<T>;
    const T back = tiny ? T(1) / kForward<T> : T(1), forward = tiny ? kForward<T> : T(1);
    const T scaled = p.smaller * forward / (larger == T(0) ? T(1) : larger * back);
    p.ratio = scaled * back * back;
    p.share = T(1) / (T(1) + p.ratio);
    const bool large = r > T(1);
    p.r_by_largest = large ? T(1) : r;
    p.one_by_largest = large ? T(1) / r : T(1);

    // the logarithm of 1 + m / r, or where r is less, of r / (m + r); that is at most 1 / 2, so not near 1
    const math::Log1p<T> of(p.mean_is_less ? p.ratio : T(1), p.mean_is_less ? T(1) + p.ratio : scaled * p.share);
    const T log = of.log() + T(0) * scaled;  // NaN stays NaN
    p.log1p_odds = p.mean_is_less ? log : (tiny ? T(2 * kShift<T> * 0.69314718055994530942) : T(0)) - log;
    const T q = p.mean_is_less ? p.ratio * p.share : p.share;
    p.at_0 = of.small ? p.smaller * (of.deficit - T(1)) : -math::bounded(r, math::kMost<T>) * p.log1p_odds;
    p.slope_at_0 = of.small ? p.ratio * (of.deficit - q) : q - p.log1p_odds;
    return p;
  }
};

// log of the negative binomial's probability of x, and its derivatives by log m, by x, and for a count that is not 0 by
// log r. With q = m / (m + r) and p = r / (m + r), it is x log(q (1 + n) / (1 + x)) + r log(p (1 + n) / (1 + r)) and
// small parts, for n = x + r. Both logarithms are log1p of numbers, t and v, that need no difference of large ones.
template <class T>
struct NegativeBinomialOf {
  T value, by_log_mean, by_log_r, by_x, p;

  VAEFAST_HD NegativeBinomialOf(T x, const MeanAndDispersion<T>& of) {
    const T rest = of.ratio * of.share, q = of.mean_is_less ? rest : of.share;
    p = of.mean_is_less ? of.share : rest;

    const T g = ((of.mean_is_less ? x : of.ratio * x) - of.smaller) * of.share;  // (x - m) p
    const math::Rising<T> rising(x, of.one_by_largest, of.r_by_largest);
    const T v = (g - q) * rising.t_lower(), rv = (g - q) * rising.share();
    const LogOfRatio<T> of_v(v, rising.upper * rising.by_lower, -of.log1p_odds);
    const T r_excess = of_v.small ? rv * of_v.deficit : rv - of.r * of_v.log;  // r (v - log1p(v))

    const T h = T(1) + x, by_h = T(1) / h, whole = -(g + p);
    const T log_r_below_1 = of.log_r < T(0) ? of.log_r : T(0);
    // log of q max(1, r); where it is used, m is less than r
    const T x_part =
        count_excess(x, whole * by_h, whole, rising.upper * by_h, of.log_mean - log_r_below_1 - of.log1p_odds);
    const T logs = math::log_normal(rising.lower * rising.by_upper * h * rising.sum * rising.sum);
    const T corrections = rising.stirling_difference() - math::stirling(by_h) - T(math::kLog2Pi / 2);
    const T some = (x_part - (r_excess + v)) + ((corrections - T(0.5) * logs) + log_r_below_1);
    const T of_shift = (g * rising.one + q * rising.r) * rising.by_lower;  // g - rv

    value = x == T(0) ? of.at_0 : some;
    by_log_mean = g;
    by_log_r = rising.digamma_difference(x) - of_shift - r_excess;
    const T t = rising.t_upper();
    const T by_sum = math::bounded(rising.one / rising.sum, T(1e36));
    const T psi = math::log_normal(rising.upper) - t * (T(0.5) - t * math::digamma_rest(t)) - by_sum;
    const T log_q = (of.mean_is_less ? of.log_mean : of.log_r) - log_r_below_1 - math::log1p(of.ratio);
    by_x = -math::bounded(math::digamma1p(x) - psi - log_q, T(1e36));
  }
};

// The negative binomial from logarithms, and from the mean and the inverse dispersion, which may be 0.
template <class T>
VAEFAST_HD NegativeBinomialOf<T> of_logarithms(T x, T log_mean, T log_r, T& by_log_mean, T& by_log_r) {
  const auto from = MeanAndDispersion<T>::of_logarithms(log_mean, log_r);
  const NegativeBinomialOf<T> of(x, from);
  by_log_mean = of.by_log_mean;
  by_log_r = x == T(0) ? from.slope_at_0 : of.by_log_r;
  return of;
}
template <class T>
VAEFAST_HD NegativeBinomialOf<T> of_rates(T x, T mean, T r, T& by_mean, T& by_r) {
  const auto from = MeanAndDispersion<T>::of_rates(mean, r);
  const NegativeBinomialOf<T> of(x, from);
  by_mean = x == T(0) ? -of.p : of.by_log_mean / (mean == T(0) ? math::Format<T>::least_normal : mean);
  by_r = x == T(0) ? from.slope_at_0 : of.by_log_r / r;
  return of;
}

struct NegativeBinomial : ElementwiseTerm {
  static constexpr const char* name = "negative_binomial";
  static constexpr int arity = 3, target = 1;
  static constexpr bool mostly_zeros = true, heavy = true;

  template <class T>
  VAEFAST_HD static T evaluate(T log_mean, T count, T log_theta, T* d) {
    const T x = bounded_count(count);
    T by_mean, by_theta;
    const NegativeBinomialOf<T> of = of_logarithms(x, log_mean, log_theta, by_mean, by_theta);
    d[0] = of_count(x, by_mean), d[1] = of_count(x, of.by_x), d[2] = of_count(x, by_theta);
    return log_of_count(x, of.value);
  }
};

struct NegativeBinomialMean : ElementwiseTerm {
  static constexpr const char* name = "negative_binomial_mean";
  static constexpr int arity = 3, target = 1;
  static constexpr bool mostly_zeros = true, heavy = true;

  template <class T>
  VAEFAST_HD static T evaluate(T mean, T count, T theta, T* d) {
    const T x = bounded_count(count);
    T by_mean, by_theta;
    const NegativeBinomialOf<T> of = of_rates(x, mean, theta, by_mean, by_theta);
    d[0] = of_count(x, by_mean), d[1] = of_count(x, of.by_x), d[2] = of_count(x, by_theta);
    return log_of_count(x, of.value);
  }
};

using NegativeBinomialTerms = Family<NegativeBinomial, NegativeBinomialMean>;

}  // namespace vaefast
