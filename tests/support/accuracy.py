"""Worst errors of the float32 kernels against float64, per quantity and regime. The tests hold them under the published
bounds; `python -m tests.support.accuracy` prints the table of docs/accuracy.md."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vaefast import reference
from vaefast.ops import library

U = 2.0**-24


@dataclass(frozen=True)
class Quantity:
    """An elementwise result, its bound, and how its error is counted."""

    name: str
    term: str
    output: int | None  # None: the value; k: the gradient by operand k
    unit: str  # "ULP", or "u" times `scale`
    bound: float
    cuda_bound: float
    regimes: Callable[[int, torch.Generator], Iterator[tuple[str, tuple[Tensor, ...]]]]
    scale: Callable[..., Tensor] | None = None


def _spread(n: int, g: torch.Generator, low: float, high: float) -> Tensor:
    """Numbers of either sign whose magnitudes are log-uniform."""
    exponent = torch.empty(n).uniform_(math.log(low), math.log(high), generator=g)
    return torch.exp(exponent) * torch.randint(0, 2, (n,), generator=g).mul(2).sub(1)


def _normal(n: int, g: torch.Generator, scale: float) -> Tensor:
    return torch.randn(n, generator=g) * scale


def _targets(n: int, g: torch.Generator) -> dict[str, Tensor]:
    return {
        "t in {0, 1}": torch.randint(0, 2, (n,), generator=g).float(),
        "t uniform": torch.rand(n, generator=g),
        "t = k/255": torch.randint(0, 256, (n,), generator=g) / 255,
    }


def _logits(n: int, g: torch.Generator) -> dict[str, Tensor]:
    return {
        "l ~ N": _normal(n, g, 1.0),
        "|l| <= 20": torch.empty(n).uniform_(-20, 20, generator=g),
        "|l| <= 110": torch.empty(n).uniform_(-110, 110, generator=g),
        "1e-30 < |l| < 1e30": _spread(n, g, 1e-30, 1e30),
    }


def bernoulli_regimes(n: int, g: torch.Generator) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    for a, logits in _logits(n, g).items():
        for b, x in _targets(n, g).items():
            yield f"{a}, {b}", (logits, x)


def bernoulli_hard_regimes(n: int, g: torch.Generator) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    for a, logits in _logits(n, g).items():
        yield a, (logits, _targets(n, g)["t in {0, 1}"])


def kl_regimes(n: int, g: torch.Generator) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    for s in (1e-4, 1e-2, 1.0, 3.0):
        yield f"logvar ~ {s:g} N", (_normal(n, g, s), _normal(n, g, s))
        yield f"mu 0, logvar ~ {s:g} N", (torch.zeros(n), _normal(n, g, s))
    yield "|logvar| <= 85", (_normal(n, g, 10.0), torch.empty(n).uniform_(-85, 85, generator=g))
    yield "1e-15 < |logvar| < 80", (torch.zeros(n), _spread(n, g, 1e-15, 80))


def kl_pair_regimes(n: int, g: torch.Generator) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    for s in (1e-4, 1.0, 3.0):
        prior_mu, prior_logvar = _normal(n, g, 1.0), _normal(n, g, 1.0)
        yield f"q - p ~ {s:g} N", (prior_mu + _normal(n, g, s), prior_logvar + _normal(n, g, s), prior_mu, prior_logvar)
    wide = [torch.empty(n).uniform_(-40, 40, generator=g) for _ in range(2)]
    yield "|logvar| <= 40", (_normal(n, g, 5.0), wide[0], _normal(n, g, 5.0), wide[1])


def gaussian_regimes(n: int, g: torch.Generator) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    for s in (1e-3, 1.0, 100.0):
        yield f"x - mean ~ {s:g} N", (_normal(n, g, s), _normal(n, g, s), _normal(n, g, 1.0))
    yield "|logvar| <= 80", (_normal(n, g, 1.0), _normal(n, g, 1.0), torch.empty(n).uniform_(-80, 80, generator=g))


def probs_regimes(n: int, g: torch.Generator) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    for b, x in _targets(n, g).items():
        yield f"p uniform, {b}", (torch.rand(n, generator=g), x)
        yield f"p ~ sigmoid(8 N), {b}", (torch.sigmoid(_normal(n, g, 8.0)), x)


def _sigmoid_tail(logits: Tensor, x: Tensor) -> Tensor:
    return torch.sigmoid(-logits.abs()) + torch.maximum(x, 1 - x)


def _gaussian_terms(mean: Tensor, x: Tensor, logvar: Tensor) -> Tensor:
    return 0.5 * (reference.LOG_2PI + logvar.abs() + (x - mean) ** 2 * torch.exp(-logvar))


def continuous_bernoulli_regimes(n: int, g: torch.Generator) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    for name, size in (("|l| <= 1e-3", 1e-3), ("|l| <= 2", 2.0), ("|l| <= 80", 80.0)):
        for b, x in _targets(n, g).items():
            yield f"{name}, {b}", (torch.empty(n).uniform_(-size, size, generator=g), x)


def _laplace_terms(mean: Tensor, x: Tensor, log_scale: Tensor) -> Tensor:
    return math.log(2) + log_scale.abs() + (x - mean).abs() * torch.exp(-log_scale)


def _laplace_slope(mean: Tensor, x: Tensor, log_scale: Tensor) -> Tensor:
    return 1 + (x - mean).abs() * torch.exp(-log_scale)


def _continuous_bernoulli_terms(logits: Tensor, x: Tensor) -> Tensor:
    size, miss = logits.abs(), torch.where(logits >= 0, 1 - x, x)
    return torch.where(size < 1, ((x - 0.5) * logits).abs() + size**2 / 24, 1 + size * miss + size.log().abs())


def _continuous_bernoulli_slope(logits: Tensor, x: Tensor) -> Tensor:
    size, miss = logits.abs(), torch.where(logits >= 0, 1 - x, x)
    far = 1 / size + 1 / torch.expm1(size) + miss
    return torch.where(size < 1, (x - 0.5).abs() + size / 12, far)


QUANTITIES = (
    Quantity("Bernoulli", "bernoulli", None, "ULP", 2, 4, bernoulli_regimes),
    Quantity("its gradient, t in {0, 1}", "bernoulli", 0, "ULP", 4, 5, bernoulli_hard_regimes),
    Quantity("its gradient, any t", "bernoulli", 0, "u (q + max(t, 1-t))", 3, 5, bernoulli_regimes, _sigmoid_tail),
    Quantity("KL to N(0, I)", "gaussian_kl", None, "ULP", 4, 6, kl_regimes),
    Quantity("its gradient by logvar", "gaussian_kl", 1, "ULP", 2, 3, kl_regimes),
    Quantity("KL of two Gaussians", "gaussian_kl_pair", None, "ULP", 4, 6, kl_pair_regimes),
    Quantity("its gradient by logvar", "gaussian_kl_pair", 1, "ULP", 2, 3, kl_pair_regimes),
    Quantity("Gaussian", "gaussian", None, "u (sum of absolute terms)", 6, 8, gaussian_regimes, _gaussian_terms),
    Quantity("Laplace", "laplace", None, "u (sum of absolute terms)", 6, 8, gaussian_regimes, _laplace_terms),
    Quantity(
        "its gradient by log_scale", "laplace", 2, "u (1 + |x - m| / scale)", 6, 8, gaussian_regimes, _laplace_slope
    ),
    Quantity(
        "continuous Bernoulli",
        "continuous_bernoulli",
        None,
        "u (sum of absolute terms)",
        6,
        8,
        continuous_bernoulli_regimes,
        _continuous_bernoulli_terms,
    ),
    Quantity(
        "its gradient",
        "continuous_bernoulli",
        0,
        "u (sum of absolute terms)",
        6,
        8,
        continuous_bernoulli_regimes,
        _continuous_bernoulli_slope,
    ),
    Quantity("Bernoulli from probabilities", "bernoulli_probs", None, "ULP", 3, 6, probs_regimes),
)


def exact(term: str, operands: tuple[Tensor, ...], output: int | None) -> Tensor:
    """The quantity in float64. Differences of data or means are given as float32 rounds them: half an ULP of theirs."""
    wide = [t.double() for t in operands]
    if term == "gaussian_kl_pair":
        wide = [(operands[0] - operands[2]).double(), wide[1], torch.zeros_like(wide[0]), wide[3]]
    elif term in ("gaussian", "laplace"):
        wide = [torch.zeros_like(wide[0]), (operands[1] - operands[0]).double(), wide[2]]
    wide = [t.requires_grad_() for t in wide]
    value = reference.TERMS[term](*wide)
    if output is None:
        return value.detach()
    return torch.autograd.grad(value.sum(), wide[output])[0]


def computed(term: str, operands: tuple[Tensor, ...], output: int | None, device: str = "cpu") -> Tensor:
    gradients = 0 if output is None else 1 << output
    there = [t.to(device) for t in operands]
    value, grads = library.row_sum(term, there, None, None, "elementwise", 0, 1.0, gradients, True)
    return (value if output is None else grads[0]).cpu()


def ulp(x: Tensor) -> Tensor:
    """The spacing of float32 at |x|."""
    exponent = torch.frexp(x.abs().clamp(min=2.0**-126))[1] - 1
    return torch.ldexp(torch.ones_like(x), exponent - 23)


def unit(quantity: Quantity, operands: tuple[Tensor, ...], true: Tensor) -> Tensor:
    return ulp(true) if quantity.scale is None else U * quantity.scale(*(t.double() for t in operands))


def worst(quantity: Quantity, n: int, seed: int = 0, device: str = "cpu") -> tuple[float, str, float]:
    """(worst error in the quantity's unit, its regime, how many of the cases lie outside the bound)."""
    bound = quantity.bound if device == "cpu" else quantity.cuda_bound
    g = torch.Generator().manual_seed(seed)
    worst_error, where, outside = 0.0, "", 0
    for regime, operands in quantity.regimes(n, g):
        true = exact(quantity.term, operands, quantity.output)
        got = computed(quantity.term, operands, quantity.output, device).double()
        finite = true.abs() < torch.finfo(torch.float32).max
        errors = torch.where(finite, (got - true).abs() / unit(quantity, operands, true), 0.0)
        assert torch.equal(got.isfinite(), finite), (
            f"{quantity.name}: finite where the true value is not, or not: {regime}"
        )
        outside += int((errors > bound).sum())
        if errors.max() > worst_error:
            worst_error, where = errors.max().item(), regime
    return worst_error, where, outside


def main() -> None:
    n = 400_000
    print("| quantity | " + " | ".join(f"{isa}" for isa in library.build_info()["cpu_isas"]) + " | bound |")
    print("|---|" + "---|" * (len(library.build_info()["cpu_isas"]) + 1))
    before = library.cpu_isa()
    for quantity in QUANTITIES:
        cells = []
        for isa in library.build_info()["cpu_isas"]:
            library.set_cpu_isa(isa)
            cells.append(f"{worst(quantity, n)[0]:.2f}")
        bound = f"{quantity.bound:g} {quantity.unit}".replace("|", "\\|")  # of a table's cell
        print(f"| {quantity.name} | {' | '.join(cells)} | {bound} |")
    library.set_cpu_isa(before)


if __name__ == "__main__":
    main()
