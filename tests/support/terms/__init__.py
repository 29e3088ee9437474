"""The table of terms: one row per term of csrc/math/terms.h. Tests, the battery and the matrix take from a row how to draw
operands, what the exact results are and how far a kernel may be from them, how the term is called and what torch has for it.
A family of likelihoods in vaefast/likelihoods has its rows in the file of the same name; row.py says what a row is."""

from vaefast.ops import library

from . import bernoulli, counts, heavy_tailed, kl, location_scale, logistic
from .row import KINDS, LONG, OPTIONS, Array, Quantity, Term, ulps

_FAMILIES = (kl, bernoulli, location_scale, heavy_tailed, logistic, counts)
_ROWS = {row.name: row for family in _FAMILIES for row in family.ROWS}
_COMPILED = library.build_info()["terms"]  # name: the number of operands
# In the order of csrc/math/terms.h. A compiled term without a row has none here; test_every_term_is_everywhere says so.
TERMS = {name: _ROWS[name] for name in [*_COMPILED, *_ROWS] if name in _ROWS}

__all__ = ["KINDS", "LONG", "OPTIONS", "TERMS", "Array", "Quantity", "Term", "ulps"]
