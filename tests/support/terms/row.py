"""What the table says of a term: one `Term` is one row. Three fields are enough for a row (`name`, `kinds` and `exact`), and
every test that loops over the table then runs for the term; the other fields have defaults."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vaefast import likelihoods, ops

Array = np.ndarray
LONG = np.longdouble
Regimes = Callable[[int, torch.Generator], Iterator[tuple[str, tuple[Tensor, ...]]]]


def ulps(x: Array) -> Array:
    """The spacing of floats at |x| in units of u: 2 at 1."""
    return np.ldexp(np.ones_like(x), np.frexp(np.abs(x))[1])


def normal(shape: tuple[int, ...], g: torch.Generator, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=g, dtype=torch.float64) * scale


def uniform(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=g, dtype=torch.float64)


# What an operand may be, and how it is drawn in float64, well inside the range of every dtype.
KINDS: dict[str, Callable[[tuple[int, ...], torch.Generator], Tensor]] = {
    "real": normal,  # a parameter
    "log scale": lambda shape, g: normal(shape, g, 0.3),  # one by which rounding is not made much larger
    "logits": lambda shape, g: normal(shape, g, 3.0),
    "scale": lambda shape, g: normal(shape, g, 0.5).exp(),  # a standard deviation
    "probs": lambda shape, g: uniform(shape, g) * 0.98 + 0.01,
    "data": normal,
    "unit data": uniform,  # data in [0, 1]
    "positive data": lambda shape, g: normal(shape, g).exp(),
    "rate": lambda shape, g: normal(shape, g).exp(),  # a positive parameter
    "count data": lambda shape, g: torch.poisson(normal(shape, g, 1.5).exp(), generator=g),
    "df": lambda shape, g: normal(shape, g).exp() + 0.5,
    "half width": lambda shape, g: 0.5 / torch.randint(1, 256, shape, generator=g, dtype=torch.float64),
}


OPTIONS = ("df", "half width")  # the kinds that are no parameters of a decoder, but options of a likelihood


def of_option(term: str) -> Callable[..., Tensor]:
    """The call of a term whose last operand is an option of the likelihood, one number there."""

    def call(*operands: Tensor, mask: Tensor | None = None, **options) -> Tensor:
        kept = None if mask is None else mask.expand(operands[0].shape)
        return ops.row_sum(term, operands, kept, **options)

    return call


@dataclass(frozen=True)
class Quantity:
    """A published error bound: an elementwise result, its bound, and how its error is counted."""

    name: str  # in the table of docs/accuracy.md
    output: int | None  # None: the value; k: the gradient by operand k
    unit: str  # "ULP", or "u" times `scale`
    bound: float
    cuda_bound: float
    scale: Callable[..., Tensor] | None = None
    regimes: Regimes | None = None  # None: the term's


@dataclass(frozen=True)
class Term:
    """A term of csrc/math/terms.h."""

    name: str
    kinds: tuple[str, ...] = ()  # of the operands, by KINDS
    # The value and the derivative by every operand, of numpy arrays in any precision.
    exact: Callable[..., tuple[Array, ...]] | None = None
    # (a, b): operands a and b enter by a - b alone, which kernels round to their type.
    difference: tuple[int, int] | None = None
    # (operands, value, derivatives) -> the bound of each result in units of u, and where the bounds hold.
    bounds: Callable[[Sequence[Array], Array, Sequence[Array]], tuple[list[Array], Array]] | None = None
    # The public call. None: log_prob of the likelihood of this name.
    call: Callable[..., Tensor] | None = None
    # Of the parameters and options of torch.distributions.Distribution: the same distribution in torch, if it has it.
    distribution: Callable[..., torch.distributions.Distribution] | None = None
    mean_tolerance: float = 1e-12  # of the mean that this distribution has in torch
    # What people write in torch. None: log_prob of `distribution`.
    eager: Callable[..., Tensor] | None = None
    # Ranges of inputs. None: one, as `operands` draws.
    regimes: Regimes | None = None
    # The gradients that are not the same exact number in vaefast and in `eager`. None: all.
    gradients: tuple[int, ...] | None = None
    # Published bounds. None: one for the value, of the size that `bounds` says.
    published: tuple[Quantity, ...] | None = None
    place: int = 99  # of the published bounds among those of other terms in docs/accuracy.md
    label: str = ""  # the operation's name in tests/matrix. Empty: the term's
    reductions: tuple[str, ...] = ("none",)  # that tests/matrix tries

    @property
    def target(self) -> int | None:
        """The operand that is data."""
        return next((k for k, kind in enumerate(self.kinds) if kind.endswith("data")), None)

    def lacks(self, arity: int) -> list[str]:
        """What the row does not say and has no default, in words. `arity` is what csrc/math/terms.h says."""
        said = {
            f"{arity} kinds of operands (there are {len(self.kinds)})": len(self.kinds) == arity,
            f"kinds that are among {', '.join(KINDS)}": set(self.kinds) <= set(KINDS),
            "an exact formula": self.exact is not None,
            "a call (no likelihood has this name)": self.call is not None or self.name in likelihoods.NAMES,
        }
        return [what for what, there in said.items() if not there]

    def operands(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
        device = torch.get_default_device()
        with torch.device("cpu"):  # the same values everywhere
            g = torch.Generator().manual_seed(seed)
            drawn = [KINDS[kind](shape, g) for kind in self.kinds]
        return [t.to(device, dtype) for t in drawn]

    def log_prob(self, *operands: Tensor, target_scale: float = 1.0, **options) -> Tensor:
        """The public call, of the operands in the kernels' order."""
        if self.call is not None:
            return self.call(*operands, **options, **({} if self.target is None else {"target_scale": target_scale}))
        first, x, *rest = operands
        likelihood = likelihoods.by_name(self.name, target_scale=target_scale)
        return likelihood.log_prob((first, *rest) if rest else first, x, **options)

    def written(self) -> Callable[..., Tensor] | None:
        """What people write in torch, of the operands in the kernels' order."""
        if self.eager is not None or self.distribution is None:
            return self.eager
        return lambda first, x, *rest: self.distribution(first, *rest, validate_args=False).log_prob(x)

    def ranges(self, n: int, g: torch.Generator) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
        if self.regimes is not None:
            yield from self.regimes(n, g)
        else:
            yield "as drawn", tuple(KINDS[kind]((n,), g).float() for kind in self.kinds)

    def centered(self, operands: Sequence) -> list:
        """The operands, arrays or tensors, those that enter by their difference as that difference and 0. The difference is
        rounded to their type, as a kernel rounds it."""
        out = list(operands)
        if self.difference is not None:
            a, b = self.difference
            zeros = torch.zeros_like if isinstance(out[b], Tensor) else np.zeros_like
            out[a], out[b] = out[a] - out[b], zeros(out[b])
        return out

    def limits(self, operands: Sequence[Array], exact: Sequence[Array]) -> tuple[list[Array], Array]:
        """The bound of each result in units of u, and where the bounds hold."""
        value, *d = exact
        if self.bounds is not None:
            return self.bounds(operands, value, d)
        # Each operand is off by a few u of itself, and each result is made of numbers of the order of 1.
        moved = sum(np.nan_to_num(np.abs(x * slope)) for x, slope in zip(operands, d, strict=True))
        proper = np.ones(value.shape, bool)
        for kind, x in zip(self.kinds, operands, strict=True):
            proper &= (x >= 0) & (x <= 1) if kind in ("probs", "unit data") else np.abs(x) <= 80
        return [8 * (1 + np.abs(value) + moved), *(16 * (1 + np.abs(slope)) for slope in d)], proper
