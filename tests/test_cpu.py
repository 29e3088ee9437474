"""What the CPU does beyond its caches."""

import pytest
import torch

from tests.cases import CASES
from vaefast import autograd
from vaefast import functional as VF


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.term)
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
            out = autograd.row_sum(case.term, leaves)
            return out, *torch.autograd.grad(out, leaves, upstream[part])

        whole = call(slice(None))
        for part in (slice(0, 340), slice(rows // 340 * 340 - 340, rows)):  # 34 rows of 30 make a tile
            for got, expected in zip(whole, call(part), strict=True):
                assert torch.equal(got[part], expected)


def test_many_samples_are_their_parts():
    """From 2^20 elements on noise is drawn in chunks, which neither samples nor their gradients see."""
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
