// THE list of elementwise terms, joined from the families, and what a term says of itself, as tables over the list.
// term.h says what a term is.
#pragma once

#include "terms/bernoulli.h"
#include "terms/counts.h"
#include "terms/heavy_tailed.h"
#include "terms/kl.h"
#include "terms/location_scale.h"
#include "terms/logistic.h"
#include "terms/negative_binomial.h"
#include "terms/zero_inflated.h"

namespace vaefast {

// Bit k is set for operand k.
template <size_t... k>
constexpr int bits_of(Operands<k...>) {
  return (0 | ... | (1 << k));
}

template <class... Term>
struct TermList {
  static constexpr int size = sizeof...(Term);
  static constexpr const char* names[size] = {Term::name...};
  static constexpr int arity[size] = {Term::arity...};
  static constexpr int target[size] = {Term::target...};
  static constexpr bool is_kl[size] = {Term::is_kl...};
  static constexpr bool by_scale[size] = {Term::by_scale...};
  static constexpr bool heavy[size] = {Term::heavy...};
  static constexpr int parameters[size] = {parameters_of<Term>()...};
  static constexpr int prepared_from[size] = {bits_of(typename Term::prepared_from())...};

  // The KL term of a latent of so many operands, whose spreads are sigma or log sigma^2. Where none fits, the last one,
  // so that a check of its operands says how many it takes.
  static constexpr int kl_term(size_t operands, bool of_scale) {
    int last = -1;
    for (int i = 0; i < size; ++i) {
      if (!is_kl[i] || by_scale[i] != of_scale) continue;
      last = i;
      if (size_t(arity[i]) == operands) break;
    }
    return last;
  }
};

template <class... Families>
struct Joined;
template <class... Term>
struct Joined<Family<Term...>> {
  using List = TermList<Term...>;
};
template <class... A, class... B, class... Rest>
struct Joined<Family<A...>, Family<B...>, Rest...> : Joined<Family<A..., B...>, Rest...> {};

// THE list. A term of one of these families exists for every instruction set, device, dtype and reduction, with its
// backward pass.
using Terms = Joined<KlTerms, BernoulliTerms, LocationScaleTerms, HeavyTailedTerms, LogisticTerms, PoissonTerms,
                     NegativeBinomialTerms, ZeroInflatedTerms>::List;

}  // namespace vaefast
