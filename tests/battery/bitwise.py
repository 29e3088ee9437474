"""The same bits: over repeats and for any number of threads. Instruction sets may differ, each within its bound. Nothing
that was given is written to."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from tests.support.terms import TERMS
from vaefast import ELBOLoss, ops
from vaefast import functional as VF
from vaefast.ops import library

from . import Row
from ._truth import exact

THREADS = (1, 2, 3, 7, 16)
SHAPES = ((3, 5), (128, 784), (40, 3, 8, 8), (2, 60_001), (3000, 20), (70_000, 1))
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def configurations(
    shapes: tuple[tuple[int, ...], ...],
) -> Iterator[tuple[str, list[Tensor], Callable[..., list[Tensor]]]]:
    """What is called: a name, inputs, and a function of them that gives values, samples and gradients."""

    def with_gradients(values: tuple[Tensor, ...], leaves: list[Tensor]) -> list[Tensor]:
        g = torch.Generator().manual_seed(3)
        ups = [torch.randn(v.shape, generator=g).to(v.dtype) for v in values]
        return [*(v.detach() for v in values), *torch.autograd.grad(values, leaves, ups)]

    for shape in shapes:
        for dtype in DTYPES:
            for name, row in TERMS.items():
                operands = row.operands(shape, dtype, seed=7)
                for reduction in ("none", "sum", "mean", "elementwise"):

                    def call(*t: Tensor, term: str = name, reduction: str = reduction) -> list[Tensor]:
                        return with_gradients((ops.row_sum(term, t, reduction=reduction),), list(t))

                    yield f"{name} {reduction}", operands, call
            latent = [t[: shape[0]] for t in TERMS["gaussian_kl"].operands((shape[0], 7), dtype, seed=8)]
            logits, x = TERMS["bernoulli"].operands(shape, dtype, seed=9)

            def loss(logits: Tensor, mu: Tensor, logvar: Tensor, x: Tensor = x) -> list[Tensor]:
                return with_gradients((ELBOLoss()(logits, x, mu, logvar),), [logits, mu, logvar])

            def sample(mu: Tensor, logvar: Tensor) -> list[Tensor]:
                g = torch.Generator().manual_seed(5)
                z, kl = VF.rsample_kl(mu, logvar, generator=g)
                several = VF.reparameterize(mu, logvar, num_samples=3, generator=g)
                return with_gradients((z, kl, several), [mu, logvar])

            yield "ELBOLoss", [logits, *latent], loss
            yield "samples", TERMS["gaussian_kl"].operands(shape, dtype, seed=10), sample


def same_bits(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(
        torch.equal(s.reshape(-1).view(torch.uint8), t.reshape(-1).view(torch.uint8)) for s, t in zip(a, b, strict=True)
    )


def apart(n: int) -> Iterator[tuple[str, float]]:
    """How far instruction sets are from the baseline, in units of the sum of both bounds."""
    for name, row in TERMS.items():
        operands = row.operands((1, n), torch.float32, seed=4)
        truth = exact(name, [t.double().numpy().ravel() for t in operands], np.float32)
        results = {}
        for isa in library.build_info()["cpu_isas"]:
            library.set_cpu_isa(isa)
            every = (1 << len(operands)) - 1
            value, grads = library.row_sum(name, operands, None, None, "elementwise", 0, 1.0, every, True)
            results[isa] = [t.double().numpy().ravel() for t in (value, *grads)]
        base = results.pop("baseline")
        for isa, got in results.items():
            pairs = zip(got, base, truth.bounds, strict=True)
            yield f"{name}, {isa}", max(float((np.abs(g - b) / (2 * bound)).max()) for g, b, bound in pairs)


def noise_apart(n: int) -> Iterator[tuple[str, float]]:
    """Standard normals of one key, in ULP of the baseline's, and of 0.05 below that, where cos and sin are absolute."""
    zero, results = torch.zeros(n), {}
    for isa in library.build_info()["cpu_isas"]:
        library.set_cpu_isa(isa)
        results[isa] = VF.reparameterize(zero, zero, generator=torch.Generator().manual_seed(6)).double()
    base = results.pop("baseline")
    for isa, z in results.items():
        yield isa, ((z - base).abs() / (2.0**-23 * base.abs().clamp(min=0.05))).max().item()


def rows(quick: bool) -> Iterator[Row]:
    threads, isa = torch.get_num_threads(), library.cpu_isa()
    calls, different, written, repeats = 0, [], [], 100
    for name, inputs, call in configurations(SHAPES[:2] if quick else SHAPES):
        leaves = [t.requires_grad_() for t in inputs]
        before = [t.detach().clone() for t in leaves]
        large = sum(t.numel() for t in leaves) > 100_000
        first = None
        for k in range(10 if quick and large else repeats):
            torch.set_num_threads(THREADS[k % len(THREADS)])
            got = call(*leaves)
            first = first or got
            calls += 1
            if not same_bits(first, got):
                different.append(f"{name} {tuple(inputs[0].shape)} {inputs[0].dtype}")
                break
        if not same_bits(before, [t.detach() for t in leaves]) or any(t._version for t in leaves):
            written.append(name)
    torch.set_num_threads(threads)
    figure = f"{len(different)} in {calls:,} calls{': ' if different else ''}{', '.join(different[:3])}"
    yield Row(
        f"other bits in {repeats} repeats, with {', '.join(map(str, THREADS))} threads", figure, "0", not different
    )
    yield Row("inputs or version counters changed", ", ".join(written[:3]) or "0", "0", not written)
    worst = max(apart(100_000 if quick else 2_000_000), key=lambda pair: pair[1], default=("one instruction set", 0.0))
    yield Row(
        "instruction sets against the baseline", f"{worst[1]:.2f} of both bounds ({worst[0]})", "1", worst[1] <= 1
    )
    noise = max(noise_apart(100_000 if quick else 10_000_000), key=lambda pair: pair[1], default=("none", 0.0))
    yield Row("their noise against the baseline's", f"{noise[1]:.2f} ULP ({noise[0]})", "4 ULP", noise[1] <= 4)
    library.set_cpu_isa(isa)
