"""Every likelihood against torch.distributions, mpmath, sums over its support, and its own samples."""

import math

import mpmath
import numpy as np
import pytest
import torch
from torch import distributions as D

import vaefast
from tests.accuracy import U
from vaefast import likelihoods as L

F64 = torch.float64


def normal(*shape, scale=1.0):
    return torch.randn(shape, dtype=F64) * scale


def counts(*shape):
    return torch.randint(0, 30, shape)


# name: (likelihood, the decoder's output, data, the same distribution in torch)
SHAPE = (5, 4, 3)
DISTRIBUTIONS = {
    "bernoulli": lambda l: (L.Bernoulli(), l, torch.rand(SHAPE).round(), D.Bernoulli(logits=l)),
    "gaussian": lambda m, s: (L.Gaussian(), (m, s), normal(*SHAPE), D.Normal(m, (s / 2).exp())),
    "laplace": lambda m, s: (L.Laplace(), (m, s), normal(*SHAPE), D.Laplace(m, s.exp())),
    "laplace, fixed": lambda m: (L.Laplace(scale=0.3), m, normal(*SHAPE), D.Laplace(m, 0.3)),
    "continuous bernoulli": lambda l: (
        L.ContinuousBernoulli(), l, torch.rand(SHAPE), D.ContinuousBernoulli(logits=l, lims=(0.4999, 0.5001))
    ),
    "poisson": lambda r: (L.Poisson(), r, counts(*SHAPE), D.Poisson(r.exp())),
    "negative binomial": lambda m, r: (
        L.NegativeBinomial(), (m, r), counts(*SHAPE), D.NegativeBinomial(r.exp(), logits=m - r)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DISTRIBUTIONS)
class TestAgainstTorch:
    def case(self, name):
        make = DISTRIBUTIONS[name]
        parameters = [normal(*SHAPE).requires_grad_() for _ in range(make.__code__.co_argcount)]
        return parameters, *make(*parameters)

    def test_log_prob_and_gradients(self, name):
        parameters, likelihood, recon_x, x, torchs = self.case(name)
        expected = torchs.log_prob(x.double()).flatten(1).sum(1)
        got = likelihood.log_prob(recon_x, x)
        torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-7)
        upstream = torch.randn(5, dtype=F64)
        ours, theirs = (torch.autograd.grad(v, parameters, upstream) for v in (got, expected))
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)

    def test_reductions_masks_and_batch_dims(self, name):
        _, likelihood, recon_x, x, torchs = self.case(name)
        mask = torch.rand(SHAPE) < 0.6
        bad = x.double().masked_fill(~mask, math.nan)
        kept = torchs.log_prob(x.double()).masked_fill(~mask, 0)
        close = dict(rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(likelihood.log_prob(recon_x, bad, mask=mask), kept.sum((1, 2)), **close)
        torch.testing.assert_close(likelihood.log_prob(recon_x, bad, mask=mask, batch_dims=2), kept.sum(2), **close)
        for reduction, expected in (("elementwise", kept), ("sum", kept.sum()), ("mean", kept.sum((1, 2)).mean())):
            got = likelihood.log_prob(recon_x, bad, mask=mask, reduction=reduction)
            torch.testing.assert_close(got, expected, **close)

    def test_mean_and_samples(self, name):
        _, likelihood, recon_x, x, torchs = self.case(name)
        mean = likelihood.mean(recon_x)
        # torch's own mean of a continuous Bernoulli loses digits near logit 0
        torch.testing.assert_close(
            mean, torchs.mean, rtol=1e-3 if name == "continuous bernoulli" else 1e-12, atol=1e-12
        )
        g = torch.Generator().manual_seed(0)
        n = 4000
        many = [t.detach().repeat(n, 1, 1) for t in (recon_x if isinstance(recon_x, tuple) else (recon_x,))]
        drawn = likelihood.sample(tuple(many) if len(many) > 1 else many[0], generator=g).view(n, *SHAPE).double()
        error = (drawn.mean(0) - torchs.mean).abs() / (torchs.variance / n).sqrt()
        assert error.max() < 5, error.max()

    def test_in_the_loss(self, name):
        """ELBOLoss takes it as it is, fused or not."""
        _, likelihood, recon_x, x, torchs = self.case(name)
        mu, logvar = normal(5, 2), normal(5, 2)
        for reduction in ("mean", "none"):
            loss, parts = vaefast.ELBOLoss(likelihood, reduction=reduction)(recon_x, x, mu, logvar, return_parts=True)
            kl = D.kl_divergence(D.Normal(mu, (logvar / 2).exp()), D.Normal(0.0, 1.0)).sum(1)
            each = kl - torchs.log_prob(x.double()).sum((1, 2))
            torch.testing.assert_close(loss, each.mean() if reduction == "mean" else each, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(parts.kl, kl)


class TestNormalization:
    """The probabilities of everything that can happen add up to 1."""

    def total(self, likelihood, parameters, support):
        shape = (len(support), len(parameters[0]))
        recon_x = tuple(t.expand(shape[0], *t.shape) for t in parameters)
        x = support[:, None].expand(shape)
        recon_x = recon_x if len(recon_x) > 1 else recon_x[0]
        return likelihood.log_prob(recon_x, x, reduction="elementwise").exp().sum(0)

    @pytest.mark.parametrize("levels", [2, 17, 256])
    def test_discretized_logistic(self, levels):
        mean, log_scale = torch.rand(200, dtype=F64) * 1.6 - 0.3, torch.empty(200, dtype=F64).uniform_(-9, 2)
        grid = torch.linspace(0, 1, levels, dtype=F64)
        total = self.total(L.DiscretizedLogistic(levels), (mean, log_scale), grid)
        torch.testing.assert_close(total, torch.ones(200, dtype=F64), rtol=1e-10, atol=0)

    def test_counts(self):
        log_mean, log_count, gate = (torch.empty(50, dtype=F64).uniform_(-2, 2) for _ in range(3))
        support = torch.arange(2000)
        for likelihood, parameters in (
            (L.Poisson(), (log_mean,)),
            (L.NegativeBinomial(), (log_mean, log_count)),
            (L.ZeroInflatedNegativeBinomial(), (log_mean, log_count, gate)),
        ):
            total = self.total(likelihood, parameters, support)
            torch.testing.assert_close(total, torch.ones(50, dtype=F64), rtol=1e-9, atol=0)

    def test_continuous_bernoulli(self):
        """By Gauss-Legendre quadrature over [0, 1]."""
        points, weights = np.polynomial.legendre.leggauss(60)
        x, w = torch.from_numpy((points + 1) / 2), torch.from_numpy(weights / 2)
        logits = torch.cat(
            [torch.linspace(-30, 30, 61, dtype=F64), torch.tensor([1e-9, -1e-4, 0.999, 1.001], dtype=F64)]
        )
        density = L.ContinuousBernoulli().log_prob(
            logits.expand(60, -1), x[:, None].expand(60, len(logits)), reduction="elementwise"
        )
        torch.testing.assert_close(
            (w[:, None] * density.exp()).sum(0), torch.ones(len(logits), dtype=F64), rtol=1e-10, atol=0
        )

    def test_mixture(self):
        parameters = [torch.randn(30, 5, 1, dtype=F64) * s for s in (2.0, 0.5, 1.0)]
        grid = torch.linspace(0, 1, 256, dtype=F64)
        recon_x = tuple(t.repeat(256, 1, 1) for t in parameters)
        x = grid.repeat_interleave(30)[:, None]
        total = L.DiscretizedLogisticMixture().log_prob(recon_x, x).view(256, 30).exp().sum(0)
        torch.testing.assert_close(total, torch.ones(30, dtype=F64), rtol=1e-10, atol=0)


def test_mixture_of_one_component_is_the_component():
    mean, log_scale = normal(4, 6, scale=0.3), normal(4, 6)
    x = torch.rand(4, 6, dtype=F64)
    one = L.DiscretizedLogisticMixture().log_prob((normal(4, 1, 6), mean[:, None], log_scale[:, None]), x)
    torch.testing.assert_close(one, L.DiscretizedLogistic().log_prob((mean, log_scale), x))


def test_categorical_is_cross_entropy():
    logits, x = normal(5, 7, 4, 3).requires_grad_(), torch.randint(0, 7, (5, 4, 3))
    got = L.Categorical().log_prob(logits, x)
    expected = -torch.nn.functional.cross_entropy(logits, x, reduction="none").sum((1, 2))
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(L.Categorical().mean(logits).sum(1), torch.ones(5, 4, 3, dtype=F64))
    drawn = L.Categorical().sample(torch.tensor([[0.0, 2.0]]).log().expand(50, 2)[..., None])
    assert drawn.shape == (50, 1) and (drawn == 1).all()


def test_zero_inflation():
    log_mean, log_count, gate = normal(3, 5), normal(3, 5), normal(3, 5)
    x = torch.randint(0, 3, (3, 5))
    plain = D.NegativeBinomial(log_count.exp(), logits=log_mean - log_count).log_prob(x.double()).exp()
    expected = torch.sigmoid(gate) * (x == 0) + torch.sigmoid(-gate) * plain
    zinb = L.ZeroInflatedNegativeBinomial()
    torch.testing.assert_close(zinb.log_prob((log_mean, log_count, gate), x), expected.log().sum(1))
    one = log_mean[:1], log_count[:1], gate[:1]
    drawn = zinb.sample(tuple(t.repeat(20_000, 1) for t in one))
    error = (drawn.mean(0) - zinb.mean(one)[0]).abs()
    assert (error < 5 * drawn.std(0) / 20_000**0.5).all()


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

    @pytest.mark.parametrize("log_count", [-200.0, -3.0, 0.0, 5.0, 12.0, 18.0, 35.0, 60.0])
    def test_negative_binomial(self, log_count):
        log_mean, log_counts = self.floats(-4, 8), self.floats(log_count - 1, log_count + 1)
        x = torch.poisson(log_mean.exp(), generator=torch.Generator().manual_seed(3))
        mpmath.mp.dps = 80
        got = L.NegativeBinomial().log_prob((log_mean, log_counts), x, reduction="elementwise")
        exact = []
        for m, r, k in zip(*(map(mpmath.mpf, v.tolist()) for v in (log_mean, log_counts, x)), strict=True):
            m, r = mpmath.exp(m), mpmath.exp(r)
            gamma = mpmath.loggamma(k + r) - mpmath.loggamma(r) - mpmath.loggamma(k + 1)
            exact.append(gamma + r * mpmath.log(r / (r + m)) + k * mpmath.log(m / (r + m)))
        self.check(got, exact, [max(abs(e), 2.0**-126) for e in exact], 4)


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
    log_count = torch.tensor([[20.0, 35.0, 60.0, 800.0, -800.0]], requires_grad=True)
    value = L.NegativeBinomial().log_prob(
        (torch.ones(1, 5), log_count), torch.tensor([[3, 3, 3, 3, 0]]), reduction="elementwise"
    )
    poisson = D.Poisson(math.e).log_prob(torch.tensor(3.0))
    torch.testing.assert_close(value[0, :4], poisson.expand(4), rtol=1e-6, atol=0)
    value.sum().backward()
    assert log_count.grad.abs().max() < 1e-6


def test_poisson_of_large_counts():
    got = L.Poisson().log_prob(torch.tensor([[math.log(1e6)]], dtype=torch.float32), torch.tensor([[1e6]]))
    rate = math.exp(torch.tensor(math.log(1e6)).item())
    assert abs(got.item() - (1e6 * math.log(rate) - rate - math.lgamma(1e6 + 1))) < 1e-6


def test_one_dispersion_for_all_samples():
    log_mean, log_count, x = normal(5, 4), normal(4), counts(5, 4)
    got = L.NegativeBinomial().log_prob((log_mean, log_count), x)
    torch.testing.assert_close(got, L.NegativeBinomial().log_prob((log_mean, log_count.expand(5, 4)), x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "name", ["poisson", "negative_binomial", "zero_inflated_negative_binomial", "discretized_logistic"]
)
def test_composites_compile_and_take_half_precision(name, dtype):
    torch.compiler.reset()
    likelihood = L.by_name(name)
    count = len(likelihood.parameters_expected)
    recon_x = tuple(normal(3, 4, scale=0.5).to(dtype) for _ in range(count))
    recon_x = recon_x if count > 1 else recon_x[0]
    x = torch.rand(3, 4) if name == "discretized_logistic" else counts(3, 4)
    value = likelihood.log_prob(recon_x, x)
    assert value.dtype == torch.float32
    wide = tuple(t.double() for t in recon_x) if count > 1 else recon_x.double()
    torch.testing.assert_close(value.double(), likelihood.log_prob(wide, x), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(
        torch.compile(likelihood.log_prob, fullgraph=True)(recon_x, x), value, rtol=1e-5, atol=1e-4
    )


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


def test_validate_looks_at_what_a_likelihood_can_hold():
    mu, logvar = torch.zeros(2, 1), torch.zeros(2, 1)
    zero, bad = torch.zeros(2, 3), torch.full((2, 3), -1.0)
    for name, x, message in (
        ("poisson", bad, r"Poisson targets must lie in \[0, inf\]"),
        ("poisson", bad.abs() / 2, "Poisson targets must be whole numbers"),
        ("continuous_bernoulli", 7 * bad.abs(), r"ContinuousBernoulli targets must lie in \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            vaefast.ELBOLoss(name, validate=True)(zero, x, mu, logvar)
    with pytest.raises(ValueError, match="NaN or infinite"):
        vaefast.ELBOLoss("poisson", validate=True)(zero + math.nan, zero, mu, logvar)


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


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: L.Laplace(scale=0.0), ValueError, "Laplace: scale must be positive, got 0.0"),
        (lambda: L.DiscretizedLogistic(levels=1), ValueError, "DiscretizedLogistic: levels must be an int of at least 2"),
        (lambda: L.Poisson().log_prob(torch.zeros(2, 3), torch.zeros(2, 4)), ValueError,
         r"Poisson: recon_x is for data of shape \(2, 3\), got \(2, 4\)"),
        (lambda: L.NegativeBinomial().log_prob(torch.zeros(2, 3), torch.zeros(2, 3)), ValueError,
         r"NegativeBinomial: recon_x must be \(log_mean, log_count\), got 1 tensors"),
        (lambda: L.Categorical().log_prob(torch.zeros(2, 5, 3), torch.zeros(2, 5)), ValueError,
         r"Categorical: recon_x is for data of shape \(2, 3\), got \(2, 5\)"),
        (lambda: L.Poisson().log_prob(torch.zeros(2, 3), None), TypeError, "Poisson: x must be a torch.Tensor, got NoneType"),
        (lambda: L.by_name("laplac"), ValueError, "likelihood must be one of 'bernoulli', .*'laplace'"),
    ],
)  # fmt: skip
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_log_prob_of_ones_own_is_used():
    class Half(L.Gaussian):
        def log_prob(self, *args, **options):
            return 0.5 * super().log_prob(*args, **options)

    recon_x, x, z = torch.randn(4, 3), torch.randn(4, 3), torch.zeros(4, 2)
    for reduction in ("mean", "sum", "none"):
        whole, half = (vaefast.ELBOLoss(p, reduction=reduction)(recon_x, x, z, z) for p in (L.Gaussian(), Half()))
        torch.testing.assert_close(half, 0.5 * whole)


def test_a_perfect_reconstruction_has_a_finite_optimal_scale():
    x = torch.rand(4, 3)
    recon_x = x.clone().requires_grad_()
    loss = -L.Gaussian(optimal_scale=True).log_prob(recon_x, x).sum()
    loss.backward()
    assert loss.isfinite() and torch.equal(recon_x.grad, torch.zeros_like(x))


def test_validate_reads_the_mask_of_a_mixture():
    x, mask = torch.rand(2, 3), torch.tensor([True, False, True]).expand(2, 3)
    parameters = tuple(torch.randn(2, 5, 3) for _ in range(3))
    parameters[1][:, :, 1] = x[:, 1] = float("nan")
    z = torch.zeros(2, 2)
    criterion = vaefast.ELBOLoss(L.DiscretizedLogisticMixture(), validate=True)
    assert criterion(parameters, x, z, z, mask=mask).isfinite()
    with pytest.raises(ValueError, match="holds NaN"):
        criterion(parameters, x, z, z)
    with pytest.raises(ValueError, match="Poisson targets must be whole numbers"):
        vaefast.ELBOLoss("poisson", validate=True)(torch.zeros(2, 3), torch.full((2, 3), 0.5), z, z)


def test_negative_binomial_far_out():
    log_mean = torch.tensor([[800.0, -float("inf")]], requires_grad=True)
    value = L.NegativeBinomial().log_prob(
        (log_mean, torch.zeros(1, 2)), torch.tensor([[1, 0]]), reduction="elementwise"
    )
    value.sum().backward()
    assert value.tolist() == [[-800.0, 0.0]]
    assert log_mean.grad.tolist() == [[-1.0, 0.0]]


@pytest.mark.parametrize("likelihood", [
    L.Gaussian(scale=0.5), L.Gaussian(learn_scale=True), L.Gaussian(optimal_scale=True), L.Laplace(scale=0.5),
    L.Laplace(learn_scale=True),
], ids=repr)  # fmt: skip
def test_a_scale_beside_the_decoders_own(likelihood):
    pair, x, z = (torch.zeros(2, 3), torch.zeros(2, 3)), torch.zeros(2, 3), torch.zeros(2, 1)
    for call in (
        lambda: likelihood.log_prob(pair, x),
        lambda: likelihood.mean(pair),
        lambda: likelihood.sample(pair),
        lambda: vaefast.ELBOLoss(likelihood)(pair, x, z, z),
    ):
        with pytest.raises(
            ValueError, match=r"recon_x must be the mean alone where \w+ is given, got a pair \(mean, log"
        ):
            call()


def test_repr_shows_the_options():
    for made, expected in (
        (L.Bernoulli(), "Bernoulli()"),
        (L.Bernoulli(probs=True), "Bernoulli(probs=True)"),
        (L.Gaussian(scale=0.5, target_scale=0.25), "Gaussian(scale=0.5, target_scale=0.25)"),
        (L.Gaussian(optimal_scale=True), "Gaussian(optimal_scale=True)"),
        (L.Laplace(learn_scale=True), "Laplace(learn_scale=True)"),
        (L.DiscretizedLogistic(17), "DiscretizedLogistic(levels=17)"),
        (L.DiscretizedLogisticMixture(target_scale=0.5), "DiscretizedLogisticMixture(target_scale=0.5)"),
        (L.Poisson(target_scale=2), "Poisson(target_scale=2.0)"),
    ):
        assert repr(made) == expected
    loss = repr(vaefast.ELBOLoss(L.Bernoulli(probs=True), free_bits=0.5, free_bits_per="total"))
    assert "free_bits=0.5, free_bits_per='total'" in loss and "Bernoulli(probs=True)" in loss
    assert "free_bits" not in repr(vaefast.ELBOLoss())


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


def test_mean_of_a_discretized_logistic_keeps_little():
    """A decoder's output and a few numbers, and not one tensor for each level."""
    kept = []
    parameters = [torch.rand(50, 40).requires_grad_() for _ in range(2)]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        L.DiscretizedLogistic().mean(parameters)
    assert sum(kept) < 8 * 2000, kept


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.uint16, torch.int64])
def test_counts_of_any_integer_type(dtype):
    x = torch.tensor([[3, 0, 7]])
    expected = L.Poisson().log_prob(torch.ones(1, 3), x)
    assert torch.equal(L.Poisson().log_prob(torch.ones(1, 3), x.to(dtype)), expected)
