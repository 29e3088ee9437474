// One element of a sweep, read on any layout and dtype. The kernels that do not read vectors share it.
#pragma once

#include "items.h"

namespace vaefast::cuda {

__device__ inline int64_t index(const View& v, int64_t row, int64_t col) {
  return row * v.row_stride + col * v.col_stride;
}

template <int arity, class T>
struct Element {
  T mu, spread;  // the first two operands, which sampling needs
  T value, gradient[arity];
};

// The value, which is also stored where it is wanted elementwise, and the gradients times the loss's derivative.
template <class Term, class T>
__device__ inline Element<Term::arity, T> element(const SweepArgs& a, int64_t row, int64_t col, double row_coef) {
  constexpr int arity = Term::arity;
  Element<arity, T> e;
  T x[arity], d[arity];
#pragma unroll
  for (int k = 0; k < arity; ++k) {
    x[k] = load<T>(a.operand[k], index(a.operand[k], row, col));
    if (takes_factor<Term>(k)) x[k] *= T(a.factor[k]);
  }
  const T value = evaluate<Term>(x, d);
  e.mu = x[0], e.spread = x[1];
  const bool kept = !a.mask.data || load<float>(a.mask, index(a.mask, row, col)) != 0.0f;
  const bool by_element = a.coef.data && a.coef.col_stride != 0;
  const T coef = T(a.scale * (by_element ? load<double>(a.coef, index(a.coef, row, col)) : row_coef));
  e.value = kept ? value : T(0);
#pragma unroll
  for (int k = 0; k < arity; ++k)
    e.gradient[k] = kept ? coef * (takes_factor<Term>(k) ? T(a.factor[k]) * d[k] : d[k]) : T(0);
  if (a.value.data && a.value.col_stride != 0) store(a.value, index(a.value, row, col), e.value);
  return e;
}

}  // namespace vaefast::cuda
