// What an elementwise term is. The formulas are in terms/, by family; each family lists its terms at the end of its
// file, and terms.h joins the families.
//
// A term is a struct that derives from ElementwiseTerm and has
//   name      how Python asks for it: torch.ops.vaefast.row_sum(name, ...)
//   arity     the number of its operands, at most kMaxOperands; the prediction comes first
//   evaluate  returns the term of one element, in nats, and writes its derivative by every operand to d
// and, where they differ from ElementwiseTerm's,
//   target    the operand that holds data; it is multiplied by target_scale and may be bool or uint8
//   is_kl     whether it is a KL divergence of the latents; only those are computed together with samples. Its operands
//             are a mean and a spread, of q and then of the prior
//   by_scale  whether those spreads are sigma; they are log sigma^2 otherwise
//   mostly_zeros  whether most data are 0: a CPU then computes all elements for x = 0, and again the few others
//   light     whether it needs few registers; a GPU's multiprocessor then holds three blocks of its float kernel
//   heavy     whether it needs many, for arithmetic that takes a GPU longer than memory does; it has no vector kernels
//   prepare   makes one number of the operands that `prepared_from` lists; evaluate takes it after the operands
//
// `prepare` is there for speed. A CPU runs it over many elements before it runs evaluate over them: two short loops
// keep more elements in flight than one loop whose chain of dependent operations is long. If all its operands are
// broadcast scalars, `prepare` runs once for a sweep.
//
// Formulas are chosen to keep the digits that the textbook form loses; docs/accuracy.md has the measured errors. Where
// no gradient is asked for, the compiler drops what only d needs.
#pragma once

#include <utility>

#include "scalar.h"

namespace vaefast {

constexpr int kMaxOperands = 4;

// Indices of operands, as a type.
template <size_t... k>
using Operands = std::index_sequence<k...>;
template <class Term>
using AllOperands = std::make_index_sequence<Term::arity>;

struct ElementwiseTerm {
  static constexpr int target = -1;  // none
  static constexpr bool is_kl = false, by_scale = false, mostly_zeros = false, light = false, heavy = false;
  using prepared_from = Operands<>;  // nothing is prepared
};

// The terms of one family.
template <class... Term>
struct Family {};

// Whether a sweep may multiply operand k by a number: data by target_scale, and log sigma by 2. Where a term has no
// data, its operands are latents.
template <class Term>
VAEFAST_HD constexpr bool takes_factor(int k) {
  return Term::target < 0 ? k % 2 == 1 : k == Term::target;
}

// The operands that are no data, as bits.
template <class Term>
constexpr int parameters_of() {
  return ((1 << Term::arity) - 1) & ~(Term::target < 0 ? 0 : 1 << Term::target);
}

template <class Term>
constexpr bool kPrepares = Term::prepared_from::size() > 0;

// prepare for one element; x holds all its operands.
template <class Term, class T, size_t... k>
VAEFAST_HD T prepare(const T (&x)[Term::arity], Operands<k...>) {
  return Term::prepare(x[k]...);
}

// The term of one element in one step: prepare, where there is one, and evaluate.
template <class Term, class T, size_t... k>
VAEFAST_HD T evaluate(const T (&x)[Term::arity], T (&d)[Term::arity], Operands<k...>) {
  if constexpr (kPrepares<Term>) return Term::evaluate(x[k]..., prepare<Term>(x, typename Term::prepared_from()), d);
  else return Term::evaluate(x[k]..., d);
}
template <class Term, class T>
VAEFAST_HD T evaluate(const T (&x)[Term::arity], T (&d)[Term::arity]) {
  return evaluate<Term>(x, d, AllOperands<Term>());
}

}  // namespace vaefast
