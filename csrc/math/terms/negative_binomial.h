// Overdispersed counts: the negative binomial, and with zeros of another origin, from logarithms and from the mean and
// the inverse dispersion themselves.
#pragma once

#include "counts.h"

namespace vaefast {

// What the negative binomial's formula needs of its mean m and inverse dispersion r.
template <class T>
struct MeanAndDispersion {
  T log_mean, log_r, smaller, ratio;  // ratio: the smaller of m and r over the larger
  T r, r_by_largest, one_by_largest;  // r may be infinite; r and 1 over max(1, r)
  bool mean_is_less;

  VAEFAST_HD static MeanAndDispersion of_logarithms(T log_mean, T log_r) {
    MeanAndDispersion p;
    p.log_mean = math::bounded_log(log_mean);
    p.log_r = math::bounded_log(log_r);
    p.mean_is_less = p.log_mean < p.log_r;
    p.smaller = math::bounded(math::exp_rounded(p.mean_is_less ? p.log_mean : p.log_r), math::kMost<T>);
    p.ratio = math::exp_nonpositive(-math::abs(p.log_mean - p.log_r));
    p.r = math::exp(p.log_r);
    const T by_largest = math::exp_nonpositive(-math::abs(p.log_r));
    p.r_by_largest = p.log_r > T(0) ? T(1) : by_largest;
    p.one_by_largest = p.log_r > T(0) ? by_largest : T(1);
    return p;
  }
  VAEFAST_HD static MeanAndDispersion of_rates(T mean, T r) {
    MeanAndDispersion p;
    const T m = mean >= T(0) ? math::bounded(mean, math::kMost<T>) : T(NAN), inverse = T(1) / r;
    p.r = r >= T(0) ? math::bounded(r, math::kMost<T>) : T(NAN);
    p.log_mean = math::bounded_log(math::log(m));
    p.log_r = math::bounded_log(math::log(p.r));
    p.mean_is_less = m < p.r;
    p.smaller = p.mean_is_less ? m : p.r;
    const T larger = p.mean_is_less ? p.r : m;
    p.ratio = p.smaller / (larger == T(0) ? T(1) : larger);
    p.r_by_largest = p.r > T(1) ? T(1) : p.r;
    p.one_by_largest = p.r > T(1) ? inverse : T(1);
    return p;
  }
};

// log of the negative binomial's probability of x, and its derivatives by log m, by log r, and by x. With q = m / (m +
// r) and p = r / (m + r), it is x log(q (1 + n) / (1 + x)) + r log(p (1 + n) / (1 + r)) and small parts, for n = x + r.
// Both logarithms are log1p of numbers, t and v, that need no difference of large ones. A count of 0 leaves r log(p),
// which is -m log1p(m / r) / (m / r) where m is less than r.
template <class T>
struct NegativeBinomialOf {
  T value, by_log_mean, by_log_r, by_x, p, by_r_at_0;  // by_r_at_0: by r itself, for a count of 0

  // By m and r themselves, which are given and may be 0.
  VAEFAST_HD T by_mean(T x, T mean) const {
    return x == T(0) ? -p : by_log_mean / (mean == T(0) ? math::Format<T>::least_normal : mean);
  }
  VAEFAST_HD T by_theta(T x, T r) const { return x == T(0) ? by_r_at_0 : by_log_r / r; }

  VAEFAST_HD NegativeBinomialOf(T x, const MeanAndDispersion<T>& of) {
    const T share = T(1) / (T(1) + of.ratio), rest = of.ratio * share;
    const T q = of.mean_is_less ? rest : share;
    p = of.mean_is_less ? share : rest;
    const T curve = math::kLog1pC0<T> + of.ratio * math::log1p_rest(of.ratio);
    const T log1p_ratio = of.ratio + of.ratio * of.ratio * curve;
    const T log_odds = of.log_mean - of.log_r;

    const T cost = of.mean_is_less ? T(1) + of.ratio * curve : log_odds + log1p_ratio;
    const T cost_by_r = of.mean_is_less ? of.ratio * (curve + share) : cost - share;
    const T at_0 = -of.smaller * cost, by_log_r_at_0 = -math::bounded(of.smaller * cost_by_r, math::kMost<T>);
    by_r_at_0 = -(of.mean_is_less ? of.ratio : T(1)) * cost_by_r;

    const T g = ((of.mean_is_less ? x : of.ratio * x) - of.smaller) * share;  // (x - m) p
    const math::Rising<T> rising(x, of.one_by_largest, of.r_by_largest);
    const T v = (g - q) * rising.t_lower(), rv = (g - q) * rising.share();
    const T log_p = -log1p_ratio - (of.mean_is_less ? T(0) : log_odds);
    const T r_far = rv - of.r * log1p_far(v, rising.upper * rising.by_lower, log_p);
    const T r_excess = math::is_small(v) ? rv * math::log1p_deficit(v) : r_far;  // r (v - log1p(v))

    const T h = T(1) + x, by_h = T(1) / h, whole = -(g + p);
    const T log_r_below_1 = of.log_r < T(0) ? of.log_r : T(0);
    const T log_q = (of.mean_is_less ? of.log_mean : of.log_r) - log_r_below_1 - log1p_ratio;  // of q max(1, r)
    const T x_part = count_excess(x, whole * by_h, whole, rising.upper * by_h, log_q);
    const T logs = math::log_normal(rising.lower * rising.by_upper * h * rising.sum * rising.sum);
    const T corrections = rising.stirling_difference() - math::stirling(by_h) - T(math::kLog2Pi / 2);
    const T some = (x_part - (r_excess + v)) + ((corrections - T(0.5) * logs) + log_r_below_1);
    const T of_shift = (g * rising.one + q * rising.r) * rising.by_lower;  // g - rv
    const T by_r = rising.digamma_difference(x) - of_shift - r_excess;

    value = x == T(0) ? at_0 : some;
    by_log_mean = g;
    by_log_r = x == T(0) ? by_log_r_at_0 : by_r;
    const T t = rising.t_upper();
    const T by_sum = math::bounded(rising.one / rising.sum, T(1e36));
    const T psi = math::log_normal(rising.upper) - t * (T(0.5) - t * math::digamma_rest(t)) - by_sum;
    by_x = -math::bounded(math::digamma1p(x) - psi - log_q, T(1e36));
  }
};

struct NegativeBinomial : ElementwiseTerm {
  static constexpr const char* name = "negative_binomial";
  static constexpr int arity = 3, target = 1;
  static constexpr bool mostly_zeros = true, heavy = true;

  template <class T>
  VAEFAST_HD static T evaluate(T log_mean, T count, T log_theta, T* d) {
    const T x = bounded_count(count);
    const NegativeBinomialOf<T> of(x, MeanAndDispersion<T>::of_logarithms(log_mean, log_theta));
    d[0] = of_count(x, of.by_log_mean), d[1] = of_count(x, of.by_x), d[2] = of_count(x, of.by_log_r);
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
    const NegativeBinomialOf<T> of(x, MeanAndDispersion<T>::of_rates(mean, theta));
    d[0] = of_count(x, of.by_mean(x, mean)), d[1] = of_count(x, of.by_x), d[2] = of_count(x, of.by_theta(x, theta));
    return log_of_count(x, of.value);
  }
};

// log of the probability of x where a zero comes from the gate with probability sigmoid(gate), and every count from a
// distribution with `counted` as its log-probability. At 0 that is log(open + closed exp(counted)) = log1p(y) for open
// = sigmoid(gate) and y = closed expm1(counted). Both parts are divided by exp(least) where they may be 0 in T.
template <class T>
struct ZeroInflated {
  T value, by_gate, share;  // share: of the derivative by `counted`

  VAEFAST_HD ZeroInflated(T x, T gate, T counted) {
    const bool zero = x == T(0), negative = gate < T(0);
    const T likelier = gate < counted ? counted : gate, larger = likelier < T(-1e30) ? T(-1e30) : likelier;
    const T least = larger < T(-60) ? larger : T(0);
    const T scaled = math::exp_nonpositive(-math::abs(gate) - least), e = larger < T(-60) ? T(0) : scaled;
    const T inverse = T(1) / (T(1) + e), closed = negative ? inverse : e * inverse;
    const T p = math::exp_nonpositive(counted - least), expm1 = larger < T(-60) ? T(-1) : math::expm1(counted, p);
    const T y = closed * expm1;
    const T parts = negative ? scaled + p : T(1) + e * p;  // their sum, over exp(least) inverse
    const T sum = parts < math::Format<T>::least_normal ? math::Format<T>::least_normal : parts, by_sum = T(1) / sum;
    const T far = math::log_normal(sum * inverse) + least + T(0) * parts;  // NaN stays NaN
    const T at_0 = math::is_small(y) ? y * (T(1) - math::log1p_deficit(y)) : far;
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
    const NegativeBinomialOf<T> of(x, MeanAndDispersion<T>::of_logarithms(log_mean, log_theta));
    return zero_inflated(x, gate, of, of.by_log_mean, of.by_log_r, d);
  }
};

struct ZeroInflatedNegativeBinomialMean : ElementwiseTerm {
  static constexpr const char* name = "zero_inflated_negative_binomial_mean";
  static constexpr int arity = 4, target = 1;
  static constexpr bool mostly_zeros = true, heavy = true;

  template <class T>
  VAEFAST_HD static T evaluate(T mean, T count, T theta, T gate, T* d) {
    const T x = bounded_count(count);
    const NegativeBinomialOf<T> of(x, MeanAndDispersion<T>::of_rates(mean, theta));
    return zero_inflated(x, gate, of, of.by_mean(x, mean), of.by_theta(x, theta), d);
  }
};

using NegativeBinomialTerms =
    Family<NegativeBinomial, NegativeBinomialMean, ZeroInflatedNegativeBinomial, ZeroInflatedNegativeBinomialMean>;

}  // namespace vaefast
