"""Digits of the likelihoods: against mpmath, at the edges of what they take, and far out."""

import math

import mpmath
import numpy as np
import pytest
import torch
from torch import distributions as D

from tests.support.accuracy import U
from tests.support.terms import TERMS
from vaefast import likelihoods as L

F64 = torch.float64


def normal(*shape, scale=1.0):
    return torch.randn(shape, dtype=F64) * scale


class TestAccuracy:
    """float32 against 50 digits of mpmath; the bounds are those that docs/accuracy.md publishes, relative to the largest of a
    value's terms (and for counts, which are computed in float64, to the value)."""

    @pytest.fixture(autouse=True)
    def digits(self):
        with mpmath.workdps(50):
            yield

    def check(self, got, exact, scale, bound):
        worst = max(
            abs(float(mpmath.mpf(g) - e)) / (U * float(s)) for g, e, s in zip(got.tolist(), exact, scale, strict=True)
        )
        assert worst <= bound, f"{worst:.2f} u"

    def floats(self, low, high, n=3000):
        return torch.empty(n).uniform_(low, high, generator=torch.Generator().manual_seed(5))

    @pytest.mark.parametrize("size", [1e-4, 0.5, 2.0, 20.0, 80.0])
    def test_continuous_bernoulli(self, size, isa):
        logits, x = self.floats(-size, size), self.floats(0, 1)
        got = L.ContinuousBernoulli().log_prob(logits, x, reduction="elementwise")
        exact, scale = [], []
        for l, t in zip(map(mpmath.mpf, logits.tolist()), map(mpmath.mpf, x.tolist()), strict=True):
            exact.append(t * l + mpmath.log(l / mpmath.expm1(l)))
            linear, rest = abs(l) * (1 - t if l >= 0 else t), abs(l) / -mpmath.expm1(-abs(l))
            scale.append(
                abs((t - 0.5) * l) + l * l / 24 if abs(l) < 1 else linear + abs(mpmath.log(rest)) + mpmath.mpf(1)
            )
        self.check(got, exact, scale, 4)

    @pytest.mark.parametrize("log_scale", [-7.0, -3.0, 0.0, 3.0])
    def test_discretized_logistic(self, log_scale):
        mean, x = self.floats(-0.2, 1.2), self.floats(0, 1).mul(255).round() / 255
        scales = self.floats(log_scale - 1, log_scale + 1)
        got = L.DiscretizedLogistic().log_prob((mean, scales), x, reduction="elementwise")
        exact, scale = [], []
        for m, s, t in zip(*(map(mpmath.mpf, v.tolist()) for v in (mean, scales, x)), strict=True):
            half, precision = mpmath.mpf(1) / 510, mpmath.exp(-s)
            low, high = (t - m - half) * precision, (t - m + half) * precision
            sign = -1 if low > 0 else 1  # the tail that is small keeps its digits
            ends = [0 if t <= half else 1 / (1 + mpmath.exp(-sign * low)), 1 / (1 + mpmath.exp(-sign * high))]
            if t <= half and sign < 0:
                ends[0] = 1
            if t >= 1 - half:
                ends[1] = 1 if sign > 0 else 0
            exact.append(mpmath.log(sign * (ends[1] - ends[0])))
            scale.append((abs(t) + abs(m) + half) * precision * 2 + 8)
        self.check(got, exact, scale, 4)

    @pytest.mark.parametrize("log_theta", [-200.0, -3.0, 0.0, 5.0, 12.0, 18.0, 35.0, 60.0])
    def test_negative_binomial(self, log_theta):
        log_mean, log_thetas = self.floats(-4, 8), self.floats(log_theta - 1, log_theta + 1)
        x = torch.poisson(log_mean.exp(), generator=torch.Generator().manual_seed(3))
        mpmath.mp.dps = 80
        got = L.NegativeBinomial().log_prob((log_mean, log_thetas), x, reduction="elementwise")
        exact = []
        for m, r, k in zip(*(map(mpmath.mpf, v.tolist()) for v in (log_mean, log_thetas, x)), strict=True):
            m, r = mpmath.exp(m), mpmath.exp(r)
            gamma = mpmath.loggamma(k + r) - mpmath.loggamma(r) - mpmath.loggamma(k + 1)
            exact.append(gamma + r * mpmath.log(r / (r + m)) + k * mpmath.log(m / (r + m)))
        row = TERMS["negative_binomial"]
        operands = [t.double().numpy() for t in (log_mean, x, log_thetas)]
        value, *slopes = row.exact(*operands)
        assert np.abs(value - np.array([float(e) for e in exact])).max() < 1e-12 * np.abs(value).max()
        units = row.bounds(operands, value, slopes)[0][0] / 8  # as docs/accuracy.md publishes it
        self.check(got, exact, units.tolist(), 8)


@pytest.mark.parametrize(
    ("logit", "log_c"), [(0.5, 0.71368193318735), (1, 0.771936832905305), (5, 1.62291401037271), (50, 3.91202300542815)]
)
def test_exact_values_of_the_continuous_bernoulli(logit, log_c):
    for dtype, tolerance in ((F64, 1e-10), (torch.float32, 2e-5)):
        for sign in (1, -1):
            l, x = torch.tensor([[sign * float(logit)]], dtype=dtype), torch.tensor([[0.3]], dtype=dtype)
            difference = L.ContinuousBernoulli().log_prob(l, x) - L.Bernoulli().log_prob(l, x)
            assert abs(difference.item() - log_c) < tolerance * max(1, abs(L.Bernoulli().log_prob(l, x).item()))


def test_the_gradient_by_a_large_dispersion_vanishes():
    """A negative binomial tends to Poisson: nothing is left to gain, and nothing explodes."""
    log_theta = torch.tensor([[20.0, 35.0, 60.0, 800.0, -800.0]], requires_grad=True)
    value = L.NegativeBinomial().log_prob(
        (torch.ones(1, 5), log_theta), torch.tensor([[3, 3, 3, 3, 0]]), reduction="elementwise"
    )
    poisson = D.Poisson(math.e).log_prob(torch.tensor(3.0))
    torch.testing.assert_close(value[0, :4], poisson.expand(4), rtol=1e-6, atol=0)
    value.sum().backward()
    assert log_theta.grad.abs().max() < 1e-6


def test_poisson_of_large_counts():
    got = L.Poisson().log_prob(torch.tensor([[math.log(1e6)]], dtype=torch.float32), torch.tensor([[1e6]]))
    rate = math.exp(torch.tensor(math.log(1e6)).item())
    assert abs(got.item() - (1e6 * math.log(rate) - rate - math.lgamma(1e6 + 1))) < 1e-6


def test_nothing_is_lost_where_the_scale_is_0():
    """No error at any scale, on both paths; the kernel's NaN reaches every gradient."""
    for make in (lambda f: lambda *t: torch.autograd.grad(f(*(u := [v.requires_grad_() for v in t])).sum(), u),
                 lambda f: torch.func.grad(lambda *t: f(*t).sum(), (0, 1))):  # fmt: skip
        grads = make(lambda m, s: L.Laplace().log_prob((m, s), torch.ones(1, 1)))(
            torch.ones(1, 1), torch.full((1, 1), -90.0)
        )
        assert [g.item() for g in grads] == [0, -1]
    nan, zero = torch.full((1, 1), math.nan).requires_grad_(), torch.zeros(1, 1).requires_grad_()
    value = L.Laplace().log_prob((nan, zero), torch.ones(1, 1))
    assert value.isnan() and all(g.isnan() for g in torch.autograd.grad(value, (nan, zero)))
    for log_scale in (-90.0, 90.0):
        m, s = torch.full((1, 1), 0.5).requires_grad_(), torch.full((1, 1), log_scale).requires_grad_()
        value = L.DiscretizedLogistic(levels=257).log_prob((m, s), torch.full((1, 1), 0.5))
        assert abs(value.item() - (0.0 if log_scale < 0 else math.log(1 / 256) - 90 - math.log(4))) < 1e-4
        assert all(g.isfinite() for g in torch.autograd.grad(value, (m, s)))


def test_continuous_bernoulli_at_the_edges():
    """At logit 0 the density is 1; an infinite logit is a point mass at its side."""
    l = torch.tensor([[0.0], [math.inf], [math.inf], [-math.inf], [math.nan]], requires_grad=True)
    x = torch.tensor([[0.3], [1.0], [0.5], [0.0], [0.5]])
    value = L.ContinuousBernoulli().log_prob(l, x)
    assert value[:4].tolist() == [0, math.inf, -math.inf, math.inf] and value[4].isnan()
    fused = torch.autograd.grad(value.sum(), l)[0]
    composite = torch.func.grad(lambda l: L.ContinuousBernoulli().log_prob(l, x).sum())(l.detach())
    for grad in (fused, composite):
        assert abs(grad[0].item() - (0.3 - 0.5)) < 1e-7
        assert grad[1:4].flatten().tolist() == [0, -0.5, 0]


def test_a_perfect_reconstruction_has_a_finite_optimal_scale():
    x = torch.rand(4, 3)
    recon_x = x.clone().requires_grad_()
    loss = -L.Gaussian(optimal_scale=True).log_prob(recon_x, x).sum()
    loss.backward()
    assert loss.isfinite() and torch.equal(recon_x.grad, torch.zeros_like(x))


def test_negative_binomial_far_out():
    log_mean = torch.tensor([[800.0, -float("inf")]], requires_grad=True)
    value = L.NegativeBinomial().log_prob(
        (log_mean, torch.zeros(1, 2)), torch.tensor([[1, 0]]), reduction="elementwise"
    )
    value.sum().backward()
    assert value.tolist() == [[-800.0, 0.0]]
    assert log_mean.grad.tolist() == [[-1.0, 0.0]]


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_mean_of_a_continuous_bernoulli(dtype):
    """The series and the formula meet near 0.1; the formula's own error is that of 1 / l."""
    logits = torch.tensor([1e-9, 1e-3, 0.02, 0.0999, 0.1001, 0.3, 2.0, 40.0], dtype=dtype)
    logits = torch.cat([logits, -logits])
    with mpmath.workdps(40):
        exact = [float(1 / (1 - mpmath.exp(-mpmath.mpf(l))) - 1 / mpmath.mpf(l)) for l in logits.tolist()]
    got = L.ContinuousBernoulli().mean(logits)
    atol = 20 * torch.finfo(dtype).eps  # two roundings of 1 / 0.1
    torch.testing.assert_close(got.double(), torch.tensor(exact, dtype=F64), rtol=0, atol=atol)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_mean_of_a_discretized_logistic(levels):
    """The sum over the grid of x p(x), and its gradient; outside of [0, 1] and for scales of all sizes."""
    grid = torch.arange(levels, dtype=F64) / (levels - 1)
    parameters = [(0.5 + normal(3, 4)).requires_grad_(), normal(3, 4, scale=3.0).requires_grad_()]
    likelihood = L.DiscretizedLogistic(levels)
    wide = [t.expand(levels, 3, 4) for t in parameters]
    x = grid[:, None, None]
    expected = (likelihood.log_prob(wide, x.expand(levels, 3, 4), reduction="elementwise").exp() * x).sum(0)
    got = likelihood.mean(parameters)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    ours, theirs = (torch.autograd.grad(v.sin().sum(), parameters) for v in (got, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)
    mixture = L.DiscretizedLogisticMixture(levels)
    logits = normal(3, 4)
    of_two = mixture.mean([torch.stack([logits, -logits], 1), *(torch.stack([t, t], 1) for t in parameters)])
    torch.testing.assert_close(of_two, got)
    assert likelihood.mean([t.detach().bfloat16() for t in parameters]).dtype == torch.bfloat16
