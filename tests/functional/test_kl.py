"""The terms of the KL, and its decomposition."""

import itertools
import math

import mpmath
import pytest
import torch
from torch.distributions import Normal, kl_divergence

import vaefast
from vaefast import functional as VF

F64 = torch.float64


class TestKlTerm:
    def test_three_meanings_of_free_bits(self):
        kl = torch.tensor([[0.0, 1.0], [0.4, 3.0]], dtype=F64, requires_grad=True)
        for per, free, value, gradient in (
            ("dimension", 0.5, 0.5 + 2.0, [[0, 0.5], [0, 0.5]]),  # the first one's mean, 0.2, is free
            ("element", 0.5, [1.5, 3.5], [[0, 1], [0, 1]]),
            ("total", 3.0, 3.0, [[0, 0], [0, 0]]),  # the mean of the sums is 2.2
            ("total", 2.0, 2.2, [[0.5, 0.5], [0.5, 0.5]]),
        ):
            got = VF.free_bits_kl(kl, free, per)
            torch.testing.assert_close(got, torch.tensor(value, dtype=F64))
            torch.testing.assert_close(
                torch.autograd.grad(got.sum(), kl)[0], torch.tensor(gradient, dtype=F64), rtol=0, atol=1e-12
            )

    @pytest.mark.parametrize("per", ["dimension", "element", "total"])
    def test_free_bits_of_the_loss(self, per):
        logits, x, mu, logvar = torch.randn(6, 9), torch.rand(6, 9), torch.randn(6, 3), torch.randn(6, 3)
        loss, parts = vaefast.ELBOLoss(free_bits=0.7, free_bits_per=per)(logits, x, mu, logvar, return_parts=True)
        kl = kl_divergence(Normal(mu.double(), (logvar / 2).double().exp()), Normal(0.0, 1.0))
        counted = {
            "dimension": kl.mean(0).clamp(min=0.7).sum(),
            "element": kl.clamp(min=0.7).sum(1).mean(),
            "total": kl.sum(1).mean().clamp(min=0.7),
        }[per]
        torch.testing.assert_close(loss.double(), counted - parts.log_likelihood.mean().double(), rtol=1e-5, atol=0)
        torch.testing.assert_close(parts.kl.double(), kl.sum(1), rtol=1e-5, atol=0)

    def test_capacity(self):
        kl = torch.tensor([1.0, 2.0], requires_grad=True)
        for capacity, value, gradient in ((2.0, 5.0, -5.0), (torch.tensor(1.0), 5.0, 5.0)):
            loss = VF.capacity_kl(kl, capacity, gamma=10.0)
            assert loss == value
            assert torch.equal(torch.autograd.grad(loss, kl)[0], torch.full((2,), gradient))

    def test_balanced(self):
        """The KL's own value; its gradients by q and by p times their shares."""
        q = [torch.randn(5, 3, dtype=F64, requires_grad=True) for _ in range(2)]
        p = [torch.randn(5, 3, dtype=F64, requires_grad=True) for _ in range(2)]
        kl = kl_divergence(Normal(q[0], (q[1] / 2).exp()), Normal(p[0], (p[1] / 2).exp())).sum(1)
        balanced = VF.balanced_kl(*q, *p, balance=0.8)
        torch.testing.assert_close(balanced, kl)
        got, whole = (torch.autograd.grad(v.sum(), [*q, *p]) for v in (balanced, kl))
        for k, share in enumerate((0.2, 0.2, 0.8, 0.8)):
            torch.testing.assert_close(got[k], share * whole[k])

    def test_monte_carlo_kl(self):
        """log q - log p at the sample, whose mean over samples is the KL."""
        n = 100_000
        mu, logvar = torch.full((n, 1), 0.3, dtype=F64), torch.full((n, 1), -2.0, dtype=F64)
        z = VF.reparameterize(mu, logvar)
        criterion = vaefast.ELBOLoss(estimator="mc", reduction="none")
        nothing = torch.zeros(n, 0, dtype=F64)
        prior = {"prior_mu": torch.tensor(-0.4, dtype=F64), "prior_logvar": torch.tensor(0.5, dtype=F64)}
        at_samples = criterion(nothing, nothing, mu, logvar, z=z, **prior)
        expected = Normal(mu, (logvar / 2).exp()).log_prob(z) - Normal(-0.4, math.exp(0.25)).log_prob(z)
        torch.testing.assert_close(at_samples, expected[:, 0])
        assert abs(at_samples.mean() - 0.939642510941544) < 4 * at_samples.std() / n**0.5  # exact for these two

    def test_schedules(self):
        linear, cyclical, sigmoid = vaefast.schedules.linear, vaefast.schedules.cyclical, vaefast.schedules.sigmoid
        assert [linear(s, 4, start=1.0, stop=3.0).item() for s in (0, 1, 4, 9)] == [1.0, 1.5, 3.0, 3.0]
        assert [cyclical(s, 8).item() for s in (0, 2, 4, 7, 8, 10)] == [0.0, 0.5, 1.0, 1.0, 0.0, 0.5]
        assert sigmoid(100, 100).item() == 0.5
        assert abs(sigmoid(110, 100, width=10).item() - 1 / (1 + math.exp(-1))) < 1e-7
        assert sigmoid(10**6, 1).item() == 1.0 and linear(5, 10).dim() == 0

    @pytest.mark.parametrize("count", [1, 40])
    def test_many_layers(self, count):
        """Against torch.distributions layer by layer; in as many kernel calls for 40 layers as for one."""
        shapes = [(5, 3), (5, 2, 4, 4), (5, 7)]
        layers = [
            [torch.randn(shapes[k % 3], dtype=F64, requires_grad=True) for _ in range(4 if k % 2 else 2)]
            for k in range(count)
        ]
        leaves = [t for layer in layers for t in layer]
        expected = 0
        for layer in layers:
            mu, logvar, *prior = layer
            p = Normal(prior[0], (prior[1] / 2).exp()) if prior else Normal(0.0, 1.0)
            expected = expected + kl_divergence(Normal(mu, (logvar / 2).exp()), p).flatten(1).sum(1)

        class Sweeps(torch.utils._python_dispatch.TorchDispatchMode):
            calls = 0

            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                self.calls += "vaefast" in str(func)
                return func(*args, **(kwargs or {}))

        upstream = torch.randn(5, dtype=F64)
        with Sweeps() as sweeps:
            total = VF.hierarchical_kl(layers)
            got = torch.autograd.grad(total, leaves, upstream)
        assert sweeps.calls == 2 * min(2, count)
        torch.testing.assert_close(total, expected)
        torch.testing.assert_close(got, torch.autograd.grad(expected, leaves, upstream))

    def test_other_parameterizations_of_sigma(self):
        raw = torch.tensor([-400.0, -80.0, -10.1, -9.9, -1.0, 0.0, 3.0, 200.0], dtype=F64)
        with mpmath.workdps(40):
            exact = [float(2 * mpmath.log(mpmath.log1p(mpmath.exp(r)))) for r in raw.tolist()]
        torch.testing.assert_close(VF.logvar_from_softplus(raw), torch.tensor(exact, dtype=F64), rtol=1e-9, atol=0)
        torch.testing.assert_close(
            VF.logvar_from_softplus(raw.float()).double(), torch.tensor(exact, dtype=F64), rtol=3e-6, atol=1e-6
        )
        assert torch.autograd.gradcheck(VF.logvar_from_softplus, raw[1:-1].clone().requires_grad_())
        scale = torch.rand(5, dtype=F64)
        mu = torch.randn(5, dtype=F64)
        kl = kl_divergence(Normal(mu, scale), Normal(0.0, 1.0))
        torch.testing.assert_close(VF.gaussian_kl(mu, VF.logvar_from_scale(scale), reduction="elementwise"), kl)


class TestDecomposition:
    def case(self, batch=5, dims=3):
        mu, logvar = (torch.randn(batch, dims, dtype=F64) for _ in range(2))
        return VF.reparameterize(mu, logvar), mu, logvar

    @pytest.mark.parametrize("weights", ["stratified", "weighted"])
    def test_the_parts_add_up_to_the_kl_at_the_sample(self, weights):
        z, mu, logvar = self.case()
        parts = VF.kl_decomposition(z, mu, logvar, 100, weights=weights)
        log_q = Normal(mu, (logvar / 2).exp()).log_prob(z).sum(1)
        torch.testing.assert_close(sum(parts), log_q - Normal(0.0, 1.0).log_prob(z).sum(1))

    def test_weighted_estimates(self):
        """Equation 5 of Chen et al., written out."""
        z, mu, logvar = self.case()
        parts = VF.kl_decomposition(z, mu, logvar, 40, weights="weighted")
        for i in range(5):
            each = Normal(mu, (logvar / 2).exp()).log_prob(z[i]).exp()  # (j, L)
            q_z, q_dims = each.prod(1).sum() / 200, each.sum(0) / 200
            torch.testing.assert_close(parts.mutual_information[i].exp(), each[i].prod() / q_z)
            torch.testing.assert_close(parts.total_correlation[i].exp(), q_z / q_dims.prod())
            torch.testing.assert_close(
                parts.dimension_kl[i], q_dims.log().sum() - Normal(0.0, 1.0).log_prob(z[i]).sum()
            )

    def test_stratified_weights_are_unbiased(self):
        """Over all batches of 3 of a data set of 5 that hold z's own sample, the mean estimate of q(z) is q(z)."""
        z, mu, logvar = self.case()
        log_q = Normal(mu, (logvar / 2).exp()).log_prob(z[0]).sum(1)
        estimates = []
        for others in itertools.permutations(range(1, 5), 2):
            batch = [0, *others]
            parts = VF.kl_decomposition(z[[0, 0, 0]], mu[batch], logvar[batch], 5)
            estimates.append((log_q[0] - parts.mutual_information[0]).exp())
        torch.testing.assert_close(torch.stack(estimates).mean(), log_q.exp().mean())
