"""`python -m tests.battery._soak MINUTES`: mixed calls of random shapes, again and again, in a process of its own: nothing is NaN
and memory does not grow; and a leak that is planted in the end shows."""

import ctypes
import dataclasses
import gc
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import vaefast
from vaefast import ELBOLoss, IWAELoss, likelihoods
from vaefast import functional as VF

from . import Row

KIB = 1024  # that the process may grow after its warm-up


def calls() -> list[Callable[[np.random.Generator], list[Tensor]]]:
    """Each makes its inputs, and gives its results and gradients."""
    losses = [ELBOLoss(), ELBOLoss("bernoulli_probs", reduction="sum"), ELBOLoss("gaussian", reduction="none"),
              ELBOLoss("bernoulli", free_bits=0.1), ELBOLoss(likelihoods.Laplace(0.5)), ELBOLoss("continuous_bernoulli")]  # fmt: skip
    iwae = IWAELoss("bernoulli", gradient="stl")
    dtypes = (torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16)

    def draw(rng: np.random.Generator, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        t = torch.rand(shape).mul_(0.8).add_(0.1).to(dtype)
        return t.t().contiguous().t().requires_grad_() if len(shape) == 2 and rng.random() < 0.1 else t.requires_grad_()

    def gradients(value: Tensor, leaves: list[Tensor]) -> list[Tensor]:
        return [value.detach(), *torch.autograd.grad(value.float().sum(), leaves)]

    def loss(rng: np.random.Generator) -> list[Tensor]:
        batch, width, latent, dtype = (
            rng.integers(1, 65),
            rng.integers(1, 800),
            rng.integers(1, 33),
            dtypes[rng.integers(5)],
        )
        recon_x, mu, logvar = draw(rng, batch, width, dtype=dtype), draw(rng, batch, latent), draw(rng, batch, latent)
        x = torch.rand(batch, width).lt_(0.5)
        x = x.to(torch.uint8) if rng.random() < 0.3 else x.to(dtype)
        return gradients(losses[rng.integers(len(losses))](recon_x, x, mu, logvar), [recon_x, mu, logvar])

    def sample(rng: np.random.Generator) -> list[Tensor]:
        shape, dtype = (rng.integers(1, 257), rng.integers(1, 129)), dtypes[rng.integers(5)]
        mu, logvar = draw(rng, *shape, dtype=dtype), draw(rng, *shape, dtype=dtype)
        z, kl = VF.rsample_kl(mu, logvar)
        many = VF.reparameterize(mu, logvar, num_samples=int(rng.integers(1, 4)))
        return [z.detach(), *gradients(kl.sum() + z.float().sum() + many.float().sum(), [mu, logvar])]

    def importance(rng: np.random.Generator) -> list[Tensor]:
        batch, width, latent = rng.integers(1, 17), rng.integers(1, 200), rng.integers(1, 9)
        mu, logvar, x = draw(rng, batch, latent), draw(rng, batch, latent), torch.rand(batch, width)
        z = VF.reparameterize(mu, logvar, num_samples=4)
        recon_x = draw(rng, 4, batch, width)
        return gradients(iwae(recon_x, x, z, mu, logvar), [recon_x, mu, logvar])

    def linear(rng: np.random.Generator) -> list[Tensor]:
        batch, hidden, width = rng.integers(1, 33), rng.integers(1, 65), rng.integers(1, 600)
        h, weight, bias = draw(rng, batch, hidden), draw(rng, width, hidden), draw(rng, width)
        value = VF.linear_bernoulli_log_likelihood(h, weight, bias, torch.rand(batch, width))
        return gradients(value, [h, weight, bias])

    return [loss, loss, sample, importance, linear]


def resident() -> int:
    """KiB, after everything that is kept for later has been given back."""
    vaefast.empty_cache()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


def run(seconds: float, rng: np.random.Generator, leak: list[bytes] | None = None) -> tuple[int, int]:
    """So many calls, and how many of them had a NaN."""
    made = calls()
    end, count, bad = time.monotonic() + seconds, 0, 0
    while time.monotonic() < end:
        found = made[rng.integers(len(made))](rng)
        bad += not all(torch.isfinite(t).all() for t in found)
        count += 1
        if leak is not None:
            leak.append(bytes(8192))
    return count, bad


def rows(minutes: float) -> Iterator[Row]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    run(max(2.0, 6 * minutes), rng)
    before = resident()
    count, bad = run(60 * minutes, rng)
    grown = resident() - before
    length = f"{minutes:g} minutes" if minutes >= 1 else f"{60 * minutes:g} s"
    yield Row(f"soak of {length}: calls with a NaN or an infinity", f"{bad} of {count:,}", "0", bad == 0)
    yield Row(f"soak of {length}: growth of {before / 1024:.0f} MiB", f"{grown} KiB", f"{KIB} KiB", grown < KIB)
    before, leak = resident(), []
    while len(leak) < 200:
        run(0.2, rng, leak)
    grown = resident() - before
    figure = f"{'caught' if grown >= KIB else 'missed'}, {grown} KiB after {len(leak)} calls"
    yield Row("planted: 8 KiB lost a call", figure, "caught", grown >= KIB)


if __name__ == "__main__":
    for row in rows(float(sys.argv[1])):
        print(json.dumps(dataclasses.asdict(row)), flush=True)
