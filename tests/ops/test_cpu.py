"""What the CPU does beyond its caches, and how its threads share a sweep."""

import os
import subprocess
import sys

import pytest
import torch

import vaefast
from tests.support.terms import TERMS
from vaefast import functional as VF
from vaefast import ops


@pytest.mark.parametrize("case", TERMS.values(), ids=lambda c: c.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_sweep_beyond_the_caches_is_its_parts(case, dtype):
    """From 2^22 elements on a tile is computed in chunks; the bits of rows and gradients stay those of a small sweep."""
    drawn = [t.flatten() for t in case.operands((2**22 + 9000,), dtype)]
    for cols in (30, 1001, 2003):  # several rows to a tile, one, part of one
        rows = 2**22 // cols + 1
        operands = [t[: rows * cols].view(rows, cols) for t in drawn]
        upstream = torch.randn(rows).to(dtype)

        def call(part, operands=operands, upstream=upstream):
            leaves = [t[part].detach().requires_grad_() for t in operands]
            out = ops.row_sum(case.name, leaves)
            return out, *torch.autograd.grad(out, leaves, upstream[part])

        whole = call(slice(None))
        for part in (slice(0, 340), slice(rows // 340 * 340 - 340, rows)):  # 34 rows of 30 make a tile
            for got, expected in zip(whole, call(part), strict=True):
                assert torch.equal(got[part], expected)


def test_many_samples_are_their_parts():
    """From 2^18 elements on noise is drawn in chunks, which neither samples nor their gradients see."""
    shape, rows = (2**20 // 1001 + 1, 1001), 50
    mu, logvar, upstream = (torch.randn(shape) for _ in range(3))

    def call(rows):
        torch.manual_seed(6)
        leaves = [t[:rows].detach().requires_grad_() for t in (mu, logvar)]
        z = VF.reparameterize(*leaves)
        return z, *torch.autograd.grad(z, leaves, upstream[:rows])

    for got, expected in zip(call(shape[0]), call(rows), strict=True):
        assert torch.equal(got[:rows], expected)
    torch.manual_seed(6)
    eps = VF.reparameterize(torch.zeros(shape), torch.zeros(shape))
    z = call(shape[0])[0]
    torch.testing.assert_close(z, mu + torch.exp(0.5 * logvar) * eps)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_loss_beyond_the_caches_is_its_parts(likelihood, inplace, dtype):
    """With images as they are stored, a mask, a scale of one number, and gradients over the operand that is read."""
    rows, cols = 2**22 // 1001 + 1, 1001
    recon_x, mu, logvar = (torch.randn(rows, n, dtype=dtype) for n in (cols, 2, 2))
    x, mask = torch.randint(0, 256, (rows, cols), dtype=torch.uint8), torch.rand(rows, cols) < 0.9
    criterion = vaefast.ELBOLoss(likelihood, reduction="sum", inplace=inplace, target_scale=1 / 255)

    def call(part):
        leaves = [t[part].clone().requires_grad_() for t in (recon_x, mu, logvar)]
        loss = criterion(leaves[0] + 0, x[part], *leaves[1:], mask=mask[part])
        return torch.autograd.grad(loss, leaves)

    whole = call(slice(None))
    for part in (slice(0, 50), slice(rows - 50, rows)):
        for got, expected in zip(whole, call(part), strict=True):
            assert torch.equal(got[part], expected)


@pytest.mark.parametrize("kl", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_several_samples_beyond_the_caches_are_their_parts(dtype, kl):
    rows, cols, count = (3300, 80, 1) if kl else (1100, 80, 3)  # 2^18 samples
    mu, logvar = (torch.randn(rows, cols).to(dtype) for _ in range(2))
    upstream = torch.randn(count, rows, cols).to(dtype)

    def call(count):
        torch.manual_seed(7)
        leaves = [t.detach().requires_grad_() for t in (mu, logvar)]
        if kl:
            z, divergence = VF.rsample_kl(*leaves)
            z = z[None]
            total = (z * upstream).sum() + divergence.sum()
        else:
            z = VF.reparameterize(*leaves, num_samples=count)
            total = (z * upstream[:count]).sum()
        return z, torch.autograd.grad(total, leaves)

    (z, grads), (first, _) = call(count), call(1)
    assert kl or torch.equal(z[:1], first)
    torch.manual_seed(7)
    eps = VF.reparameterize(torch.zeros(rows, cols), torch.zeros(rows, cols), num_samples=count)
    sigma, g = torch.exp(0.5 * logvar.float()), upstream.float()
    tolerance = dict(rtol=2e-2, atol=2e-2) if dtype == torch.bfloat16 else dict(rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(z.float(), mu.float() + sigma * eps, **tolerance)
    by_mu, by_logvar = g.sum(0), (g * sigma * eps / 2).sum(0)
    if kl:
        by_mu, by_logvar = by_mu + mu.float(), by_logvar + torch.expm1(logvar.float()) / 2
    torch.testing.assert_close(grads[0].float(), by_mu, **tolerance)
    torch.testing.assert_close(grads[1].float(), by_logvar, **tolerance)


SHARED = """
import torch, vaefast
results = []
for threads in (7, 1):
    torch.set_num_threads(threads)
    for inplace in (False, True):
        torch.manual_seed(0)
        leaf, x = torch.randn(300, 784, requires_grad=True), torch.rand(300, 784)  # 300 tiles
        mu, logvar = (torch.randn(300, 20, requires_grad=True) for _ in range(2))
        loss = vaefast.ELBOLoss(inplace=inplace)(leaf + 0, x, mu, logvar)
        results.append([loss.detach(), *torch.autograd.grad(loss, [leaf, mu, logvar])])
print(all(torch.equal(a, b) for result in results for a, b in zip(result, results[-1], strict=True)))
"""


def test_fewer_threads_than_parts_run_each_tile_once():
    """Seven threads are asked for and OpenMP starts two, so that these take what nobody else does. A tile that runs twice
    shows in place, where its gradient becomes an operand."""
    environment = {**os.environ, "OMP_THREAD_LIMIT": "2"}
    command = [sys.executable, "-c", SHARED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


@pytest.mark.parametrize("cols", [1, 2, 7, 8, 9, 16, 31, 32, 33, 1024, 1025])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_of_rows_of_every_length(dtype, cols, isa):
    logits, x = torch.randn(37, cols, dtype=dtype), torch.rand(37, cols, dtype=dtype)
    elements = VF.bernoulli_log_likelihood(logits, x, reduction="elementwise").double()
    tolerance = dict(rtol=2**-22 if dtype == torch.float32 else 2**-50, atol=0)  # pairs are added in the dtype
    rows, total = (VF.bernoulli_log_likelihood(logits, x, reduction=r).double() for r in ("none", "sum"))
    torch.testing.assert_close(rows, elements.sum(1), **tolerance)
    torch.testing.assert_close(total, elements.sum(), **tolerance)
