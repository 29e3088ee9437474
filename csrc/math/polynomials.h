// The polynomials behind the elementary functions: minimax fits for float, interpolation in Chebyshev's points for
// double. The two errors in a comment are float's and double's, relative to the function that the polynomial is a part
// of: exp, log1p, log(1 + f), or phi(x) = exp(x) - 1 - x.
#pragma once

#include "hd.h"

namespace vaefast::math {

// c[0] + c[1] x + ... by Estrin's scheme: adjacent terms are paired, and the pairs are a polynomial in x^2.
template <class T, int n>
VAEFAST_HD T in_pairs(T x, const T (&c)[n]) {
  if constexpr (n == 1) {
    return c[0];
  } else {
    T pair[(n + 1) / 2];
    for (int i = 0; i < n / 2; ++i) pair[i] = c[2 * i] + c[2 * i + 1] * x;
    if constexpr (n % 2) pair[n / 2] = c[n - 1];
    return in_pairs(x * x, pair);
  }
}

// c[0] + c[1] x + ... A device hides latency behind its threads, so it uses Horner's scheme, which has the fewest
// operations. A CPU uses pairs, whose chain of dependent operations is short.
template <class T, int n>
VAEFAST_HD T series(T x, const T (&c)[n]) {
#if defined(__CUDA_ARCH__)
  T p = c[n - 1];
  for (int i = n - 2; i >= 0; --i) p = p * x + c[i];
  return p;
#else
  return in_pairs(x, c);
#endif
}

// c0 + c[0] x + c[1] x^2 + ... Adding c0 last rounds least.
template <class T, int n>
VAEFAST_HD T polynomial(T x, T c0, const T (&c)[n]) {
  return c0 + x * series(x, c);
}

// (exp(r) - 1 - r) / r^2 on |r| <= ln(2)/2, 2^-28 and 2^-59
VAEFAST_HD float exp_rest(float r) {
  return polynomial(r, 0.49999994f, {0.166665211f, 0.041668389f, 0.00836871658f, 0.00138145988f});
}
VAEFAST_HD double exp_rest(double r) {
  return polynomial(r, 0.5,
                    {0.16666666666666669, 0.041666666666666664, 0.008333333333330062, 0.0013888888888886552,
                     0.00019841269863053618, 2.4801587317144498e-05, 2.7557268459997064e-06, 2.755728296954995e-07,
                     2.510038549551032e-08, 2.0911236630261545e-09});
}

// (log1p(e) - e) / e^2 for e in [0, 1] is c0 + e log1p_rest(e), 2^-27.5 and 2^-57
template <class T>
constexpr T kLog1pC0 = sizeof(T) == 4 ? T(-0.4999993f) : T(-0.5);
VAEFAST_HD float log1p_rest(float e) {
  return series(e, {0.33330464f, -0.24958019f, 0.19692102f, -0.1534488f, 0.10661128f, -0.05745723f, 0.020086242f,
                    -0.0032904686f});
}
VAEFAST_HD double log1p_rest(double e) {
  return series(e, {0.3333333333333333,    -0.24999999999999178,  0.19999999999879056,   -0.1666666665955038,
                    0.1428571406291742,    -0.12499995707819807,  0.11111055596842798,   -0.09999489446931818,
                    0.09087433233277974,   -0.08315293402254427,  0.0761932631187189,    -0.06908669593699845,
                    0.06061944803668478,   -0.04976892288128595,  0.036672598805900535,  -0.02317474770837094,
                    0.011968364911072362,  -0.004780308065566416, 0.0013715145666543924, -0.0002498554919183404,
                    2.1611108104749426e-05});
}

// (log1p(f) - f + f^2/2) / f^3 for f in [sqrt(1/2) - 1, sqrt(2) - 1], 2^-28 and 2^-54
VAEFAST_HD float log_rest(float f) {
  return polynomial(f, 0.333333194f,
                    {-0.250002712f, 0.200017855f, -0.16654025f, 0.142160729f, -0.126368776f, 0.121296376f,
                     -0.104566254f, 0.0480620153f});
}
VAEFAST_HD double log_rest(double f) {
  return polynomial(
      f, 0.3333333333333333,
      {-0.24999999999998596, 0.20000000000003482, -0.16666666667365992, 0.14285714285634818, -0.12499999898432576,
       0.11111111008787179, -0.10000006590426393, 0.09090921076038966, -0.08333110642999564, 0.07691741139835176,
       -0.07146922611081985, 0.06680348247882924, -0.06213325491398715, 0.05706613674459082, -0.05635857394607171,
       0.06362025303018654, -0.05959173018943104, 0.027053075892336406});
}

// phi(x) / x^2 for x in [-1, 1.75], 2^-26 and 2^-55
VAEFAST_HD float phi_rest(float x) {
  return polynomial(x, 0.5f,
                    {0.166666672f, 0.0416666269f, 0.00833327044f, 0.00138904259f, 0.000198513357f, 2.45869414e-05f,
                     2.73551882e-06f, 3.78213969e-07f});
}
VAEFAST_HD double phi_rest(double x) {
  return polynomial(x, 0.5,
                    {0.16666666666666666, 0.04166666666666666, 0.00833333333333325, 0.0013888888888891045,
                     0.00019841269841352428, 2.4801587300027897e-05, 2.755731919589529e-06, 2.7557319737286483e-07,
                     2.5052112075162813e-08, 2.0876672936621943e-09, 1.6058963425248594e-10, 1.1477271297674027e-11,
                     7.627914008297278e-13, 4.605077846554619e-14, 3.9257843531801094e-15});
}

}  // namespace vaefast::math
