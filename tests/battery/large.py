"""More than 2^31 elements in one call, and batches on both sides of 2^16. Every value and every gradient is looked at, not only
those about the boundary."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tests.support.native import philox
from vaefast import ELBOLoss, reference
from vaefast import functional as VF
from vaefast.ops import library

from . import Row

ROWS, COLS = 65537, 32768  # 2^31 + 2^15 elements; the last row lies beyond 2^31
BATCHES = (65535, 65536, 65537)
PERIOD = 65521  # a prime: no two elements that a power of two is between are alike


def available() -> float:
    """GB of memory that are free or can be freed."""
    (line,) = [each for each in Path("/proc/meminfo").read_text().splitlines() if each.startswith("MemAvailable")]
    return int(line.split()[1]) / 1e6


def filled(dtype: torch.dtype, values: Tensor) -> Tensor:
    """ROWS by COLS, values[i % PERIOD] at flat index i."""
    out, block = torch.empty(ROWS, COLS, dtype=dtype), values.to(dtype).repeat(64)
    flat = out.view(-1)
    for start in range(0, flat.numel(), block.numel()):
        part = flat[start : start + block.numel()]
        part.copy_(block[: part.numel()])
    return out


def kl() -> Iterator[str]:
    """KL(N(mu, 1) || N(0, 1)) = mu^2 / 2, whose gradient by mu is mu."""
    mu = filled(torch.bfloat16, torch.linspace(-2, 2, PERIOD)).requires_grad_()
    value = VF.gaussian_kl(mu, torch.zeros(1, 1, dtype=torch.bfloat16).expand(ROWS, COLS))
    value.sum().backward()
    grad = mu.grad
    assert grad is not None
    for rows in torch.arange(ROWS).split(1024):
        true = mu.detach()[rows[0] : rows[-1] + 1]
        yield from compare("KL", value[rows], true.double().square().sum(1) / 2, int(rows[0]))
        if not torch.equal(grad[rows[0] : rows[-1] + 1], true):
            yield f"the gradient of rows {int(rows[0])} to {int(rows[-1])}"


def bernoulli() -> Iterator[str]:
    """log p(x | logits) of bytes, whose gradient is x - sigmoid(logits)."""
    logits = filled(torch.bfloat16, torch.linspace(-6, 6, PERIOD)).requires_grad_()
    x = filled(torch.uint8, torch.arange(PERIOD).remainder(256))
    value = VF.bernoulli_log_likelihood(logits, x, target_scale=1 / 255)
    value.sum().backward()
    grad = logits.grad
    assert grad is not None
    for first in [*range(0, ROWS - 64, 4096), ROWS - 64]:
        part, t = logits.detach()[first : first + 64].double(), x[first : first + 64].double() / 255
        true = (t * part - torch.nn.functional.softplus(part)).sum(1)
        yield from compare("Bernoulli", value[first : first + 64], true, first)
        off = (grad[first : first + 64].double() - (t - torch.sigmoid(part))).abs().max()
        if off > 2.0**-9:  # half a unit of bfloat16 below 1
            yield f"the gradient of rows {first} to {first + 63}: off by {float(off):.2g}"


def compare(name: str, got: Tensor, true: Tensor, first: int) -> Iterator[str]:
    """Row sums: within 2^-21 of the true ones, each element being rounded to 2^-22 or so."""
    off = (got.double() - true).abs() / true.abs()
    if not bool((off < 2.0**-21).all()):
        yield f"{name} of row {first + int(off.argmax())}: off by {float(off.max()):.2g}"


def samples() -> Iterator[str]:
    """z = eps where mu and logvar are 0, and eps of element i is Philox's, whatever i."""
    point = torch.zeros(1, 1, dtype=torch.bfloat16).expand(ROWS, COLS)
    z = library.rsample([point, point], torch.tensor([5, 7]), -1, False, 1, None)[0].view(-1)
    for i in (0, 2**30, 2**31 - 4, 2**31, 2**31 + 4, 2**31 + 2**15 - 4):
        u = (np.array(philox(5, 7, i // 4), np.float64) + 1) * 2.0**-32
        radius, angle = np.sqrt(-2 * np.log(u[::2])), 2 * np.pi * u[1::2]
        true = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).ravel()
        if not np.allclose(z[i : i + 4].double().numpy(), true, rtol=2.0**-8, atol=1e-4):
            yield f"the normals from {i}: {z[i : i + 4].tolist()}, not {true}"


def batches() -> Iterator[str]:
    g = torch.Generator().manual_seed(0)
    for batch in BATCHES:
        logits, x = torch.randn(batch, 3, generator=g).requires_grad_(), torch.rand(batch, 3, generator=g)
        mu, logvar = (torch.randn(batch, 2, generator=g).requires_grad_() for _ in range(2))
        leaves = (logits, mu, logvar)
        wide = [t.detach().double().requires_grad_() for t in leaves]
        true = reference.gaussian_kl(*wide[1:]).sum(1) - reference.bernoulli(wide[0], x.double()).sum(1)
        for reduction in ("none", "sum", "mean"):
            got = ELBOLoss(reduction=reduction)(logits, x, mu, logvar)
            expected = true if reduction == "none" else getattr(true, reduction)()
            up = torch.rand(expected.shape, generator=g)
            grads = torch.autograd.grad(got, leaves, up)
            truths = torch.autograd.grad(expected, wide, up.double(), retain_graph=True)
            for name, a, b in zip(("value", "logits", "mu", "logvar"), (got, *grads), (expected, *truths), strict=True):
                scale = 1 / batch if reduction == "mean" and name != "value" else 1
                if not torch.allclose(a.detach().double(), b.detach(), rtol=2e-6, atol=2e-6 * scale):
                    yield f"{name} of {batch} samples, {reduction}"


def row(name: str, needs: int, body: Callable[[], Iterator[str]]) -> Row:
    if available() < needs + 1:
        return Row(name, f"not run: needs {needs} GB, {available():.0f} are free", "every one right", False)
    wrong = list(body())
    return Row(name, f"{len(wrong)} wrong{': ' + wrong[0] if wrong else ''}", "0 wrong", not wrong)


def rows(quick: bool) -> Iterator[Row]:
    yield row(f"batches of {', '.join(map(str, BATCHES))}", 1, batches)
    if not quick:
        yield row("2^31 + 2^15 bfloat16, KL and its gradient", 10, kl)
        yield row("2^31 + 2^15 bfloat16 and bytes, Bernoulli and its gradient", 12, bernoulli)
        yield row("2^31 + 2^15 samples", 5, samples)
    seen = [*compare("", torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 3.00001]).double(), 0)]
    yield Row("planted: a sum that is off by 3e-6", "seen" if seen else "missed", "seen", len(seen) == 1)
