import pytest
import torch
from torch.distributions import Normal

from vaefast.functional import gaussian_log_prob


@pytest.mark.parametrize("wide", range(3))
def test_a_float64_operand_makes_gaussian_log_prob_float64(wide):
    """Also where it is mu, and z is float32. In the term mu stands in the place of data, which do not decide the dtype."""
    z, mu, logvar = (torch.randn(4, 3, dtype=torch.float64 if k == wide else torch.float32) for k in range(3))
    leaves = [t.requires_grad_() for t in (z, mu, logvar)]
    got = gaussian_log_prob(*leaves)
    exact = Normal(mu.double(), logvar.double().div(2).exp()).log_prob(z.double()).sum(1)
    assert got.dtype is torch.float64
    torch.testing.assert_close(got, exact, rtol=1e-13, atol=1e-13)
    grads = torch.autograd.grad(got.sum(), leaves, retain_graph=True)
    for grad, t, e in zip(grads, leaves, torch.autograd.grad(exact.sum(), leaves), strict=True):
        assert grad.dtype is t.dtype
        torch.testing.assert_close(grad, e, rtol=1e-6, atol=1e-6)
