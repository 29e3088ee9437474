"""The published error bounds, and exact values."""

import math

import mpmath
import numpy as np
import pytest
import torch

from tests.support import accuracy
from vaefast import ELBOLoss, ops
from vaefast import functional as VF
from vaefast.ops import library


@pytest.mark.parametrize("quantity", accuracy.QUANTITIES, ids=lambda q: f"{q.term}-{q.output}-{q.unit}")
def test_bounds_hold_on_random_cases(quantity, isa):
    """At least 100,000 cases a quantity, spread over its regimes; none outside the bound."""
    error, where, outside = accuracy.worst(quantity, 60_000, seed=1)
    assert outside == 0, f"worst {error:.2f} {quantity.unit} at {where}"


def test_a_broken_kernel_would_be_outside():
    """The measure itself: the textbook forms lie far outside the same bounds."""

    def ulps(got, quantity, operands):
        true = accuracy.exact(quantity.term, operands, None)
        return ((got.double() - true).abs() / accuracy.ulp(true)).max().item()

    bernoulli, kl = accuracy.QUANTITIES[0], accuracy.QUANTITIES[3]
    logits, x = torch.full((1000,), -20.0), torch.zeros(1000)
    eager = -torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none")
    assert ulps(eager, bernoulli, (logits, x)) > 1e6
    mu, logvar = torch.zeros(1000), torch.randn(1000) * 1e-3
    assert ulps(-0.5 * (1 + logvar - mu.pow(2) - logvar.exp()), kl, (mu, logvar)) > 1e4


@pytest.mark.parametrize("n", [1, 17, 1000, 4096, 1_000_003, 20_000_000])
def test_sums_keep_their_digits(n, isa):
    """A row's sum of non-negative terms is within 2^-23 of the exact sum of the same elements, at any length."""
    logits, x = torch.randn(1, n), torch.rand(1, n)
    elements = ops.row_sum("bernoulli", (logits, x), reduction="elementwise")
    total = ops.row_sum("bernoulli", (logits, x), reduction="sum")
    assert abs(total.item() / elements.double().sum().item() - 1) <= 2**-23


# KL(N(mu, exp(logvar)) || N(prior_mu, exp(prior_logvar))), by closed form with 50 digits where no value is given
KL_VALUES = [
    ((1.0, 0.0), 0.5),
    ((0.0, 1.0), 0.359140914229523),
    ((0.5, -1.0), 0.308939720585721),
    ((0.3, -2.0, -0.4, 0.5), 0.939642510941544),
    ((0.0, 1e-4), 2.50008333541654e-09),
    ((0.0, 20.0), 242582587.204895),
]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 2e-5)], ids=str)
class TestExactValues:
    """Values computed independently of vaefast, by quadrature or with many digits."""

    def check(self, got, value, tolerance):
        assert got.double().item() == pytest.approx(value, rel=tolerance)

    def test_kl(self, dtype, tolerance):
        for arguments, value in KL_VALUES:
            operands = [torch.tensor([[a]], dtype=dtype) for a in arguments]
            self.check(VF.gaussian_kl(*operands), value, tolerance)

    def test_linear_gaussian_model(self, dtype, tolerance):
        """Every quantity of the model z ~ N(0, I), x ~ N(Wz + b, 1/4 I) is known; E_q[log p(x|z)] by Gauss-Hermite."""
        exact = [
            [[1.0, 0.5], [-0.3, 0.8], [0.2, -1.1]],
            [0.1, -0.2, 0.3],
            [0.7, -1.0, 0.4],
            [[0.4, -0.6]],
            [[-1.0, -2.0]],
        ]
        W, b, x, mu, logvar = (torch.tensor(values, dtype=dtype) for values in exact)
        nodes, weights = np.polynomial.hermite_e.hermegauss(8)
        eps = torch.cartesian_prod(*[torch.tensor(nodes, dtype=dtype)] * 2)
        probability = torch.outer(*[torch.tensor(weights, dtype=dtype)] * 2).flatten() / (2 * math.pi)
        z = VF.reparameterize(mu[0], logvar[0], num_samples=len(eps), eps=eps)
        recon = z @ W.T + b
        log_likelihood = VF.gaussian_log_likelihood(recon, x.expand_as(recon), math.log(0.25))
        expected_log_likelihood = (probability * log_likelihood).sum()
        kl = VF.gaussian_kl(mu, logvar)
        self.check(expected_log_likelihood, -3.476389784575415, tolerance)
        self.check(kl, 1.0116073622040274, tolerance)
        self.check(expected_log_likelihood - kl, -4.487997146779442, tolerance)
        # log p(x) = ELBO + KL(q || p(z|x)), the posterior being N(m, S), S^-1 = I + 4 W'W
        W, b, x, mu, logvar = (torch.tensor(values, dtype=torch.float64) for values in exact)
        precision = torch.eye(2, dtype=torch.float64) + 4 * W.T @ W
        difference = torch.linalg.solve(precision, 4 * W.T @ (x - b)) - mu[0]
        gap = 0.5 * ((precision.diagonal() * logvar[0].exp()).sum() + difference @ precision @ difference - 2
                     - torch.logdet(precision) - logvar.sum())  # fmt: skip
        assert gap.item() == pytest.approx(1.0802675668607686, rel=1e-9)
        self.check(expected_log_likelihood - kl + gap, -3.4077295799186738, tolerance)

    def test_bernoulli_model(self, dtype, tolerance):
        """One latent dimension, quadrature over z: log p(x), and the ELBO of q = N(0.8, exp(-0.7))."""
        slope = torch.tensor([1.5, -2.0, 0.7, 3.0], dtype=dtype)
        bias = torch.tensor([0.2, -0.5, 1.0, -1.0], dtype=dtype)
        x = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=dtype)
        nodes, weights = np.polynomial.hermite_e.hermegauss(120)
        eps = torch.tensor(nodes, dtype=dtype)[:, None]
        probability = torch.tensor(weights / math.sqrt(2 * math.pi), dtype=dtype)

        def fit(z):
            return VF.bernoulli_log_likelihood(z * slope + bias, x.expand(len(z), 4))

        prior = torch.linspace(-12, 12, 20_001, dtype=dtype)[:, None]
        log_joint = VF.gaussian_log_prob(prior) + fit(prior)
        self.check(log_joint.logsumexp(0) + math.log(24 / 20_000), -1.5134779691271336, tolerance)
        mu, logvar = torch.tensor([[0.8]], dtype=dtype), torch.tensor([[-0.7]], dtype=dtype)
        z = VF.reparameterize(mu[0], logvar[0], num_samples=120, eps=eps)
        kl = VF.gaussian_kl(mu, logvar)
        self.check((probability * fit(z)).sum(), -1.282036275906548, tolerance)
        self.check(kl, 0.41829265189570475, tolerance)
        self.check((probability * fit(z)).sum() - kl, -1.7003289278022526, tolerance)


def test_values_against_mpmath():
    """Independent of torch's own functions: fifty digits."""
    mpmath.mp.dps = 50
    g = torch.Generator().manual_seed(5)
    for logit, x in zip(torch.randn(50, generator=g) * 8, torch.rand(50, generator=g), strict=True):
        true = mpmath.mpf(x.item()) * logit.item() - mpmath.log1p(mpmath.exp(logit.item()))
        got = VF.bernoulli_log_likelihood(logit.view(1, 1), x.view(1, 1)).item()
        assert abs(got / true - 1) < 2.5e-7
        mu, logvar = logit.item(), 4 * x.item() - 2
        true = (mpmath.mpf(mu) ** 2 + mpmath.exp(logvar) - 1 - logvar) / 2
        got = VF.gaussian_kl(torch.tensor([[mu]]).double(), torch.tensor([[logvar]]).double()).item()
        assert abs(got / true - 1) < 1e-14


def test_kl_is_never_negative_and_zero_only_at_the_prior(isa):
    mu, logvar = torch.zeros(100_000), torch.randn(100_000) * torch.logspace(-20, 1, 100_000)
    kl = ops.row_sum("gaussian_kl", (mu, logvar), reduction="elementwise")
    assert (kl >= 0).all()
    assert (kl[logvar.abs() > 1e-18] > 0).all()
    assert ops.row_sum("gaussian_kl", (mu, mu), reduction="sum") == 0


def test_half_inputs_are_summed_in_float32():
    logits = torch.full((1, 2_000_000), 3.0, dtype=torch.float16)
    loss = -VF.bernoulli_log_likelihood(logits, torch.zeros_like(logits))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(2_000_000 * math.log1p(math.exp(3.0)), rel=1e-6)  # above float16's range


def test_float16_gradients_survive_a_loss_scale():
    """A mean's gradient below float16's range comes out right when the loss is scaled up, as GradScaler does."""
    logits = torch.zeros(4096, 10, dtype=torch.float16, requires_grad=True)
    x = torch.full((4096, 10), 0.4999)
    z = torch.zeros(4096, 1)
    (ELBOLoss()(logits, x, z, z) * 2.0**16).backward()
    torch.testing.assert_close(logits.grad.float() / 2**16, torch.full((4096, 10), 1e-4 / 4096), rtol=2e-2, atol=0)


def test_build_has_threads():
    assert library.build_info()["openmp"], "without -fopenmp at::parallel_for is silently serial"
