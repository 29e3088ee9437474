"""Every likelihood against torch.distributions, sums over its support, and its own samples."""

import math

import numpy as np
import pytest
import torch
from torch import distributions as D

import vaefast
from tests.support.terms import TERMS
from vaefast import likelihoods as L

F64 = torch.float64


def normal(*shape, scale=1.0):
    return torch.randn(shape, dtype=F64) * scale


def counts(*shape):
    return torch.randint(0, 30, shape)


SHAPE = (5, 4, 3)


def of_row(row):
    """What the table of terms says of a likelihood that torch has too."""

    def make(*parameters):
        torchs = row.distribution(*parameters)
        draws = {"unit data": torch.rand(SHAPE), "positive data": normal(*SHAPE).exp(), "count data": counts(*SHAPE)}
        x = draws.get(row.kinds[row.target], normal(*SHAPE))
        x = x.round() if torchs.support is D.constraints.boolean else x
        return L.by_name(row.name), parameters if len(parameters) > 1 else parameters[0], x, torchs

    return len(row.kinds) - 1, make


# name: (the number of parameters, a function of them: the likelihood, the decoder's output, data, the same distribution in
# torch)
DISTRIBUTIONS = {
    name.replace("_", " "): of_row(row) for name, row in TERMS.items() if row.distribution and name in L.NAMES
}
DISTRIBUTIONS |= {
    "laplace, fixed": (1, lambda m: (L.Laplace(scale=0.3), m, normal(*SHAPE), D.Laplace(m, 0.3))),
    "student t": (2, lambda m, s: (L.StudentT(5.0), (m, s), normal(*SHAPE), D.StudentT(5.0, m, s.exp()))),
    "poisson rate": (
        1, lambda r: (L.Poisson(log_parameters=False), r.exp(), counts(*SHAPE), D.Poisson(r.exp()))
    ),
}  # fmt: skip
# How exact the mean of torch's distribution is.
MEAN_TOLERANCE = {name.replace("_", " "): row.mean_tolerance for name, row in TERMS.items()}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
class TestAgainstTorch:
    def case(self, name):
        count, make = DISTRIBUTIONS[name]
        parameters = [normal(*SHAPE).requires_grad_() for _ in range(count)]
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
        mean, expected = likelihood.mean(recon_x), torchs.mean
        g = torch.Generator().manual_seed(0)
        n = 4000
        many = [t.detach().repeat(n, 1, 1) for t in (recon_x if isinstance(recon_x, tuple) else (recon_x,))]
        drawn = likelihood.sample(tuple(many) if len(many) > 1 else many[0], generator=g).view(n, *SHAPE).double()
        if expected.isnan().all():  # the distribution has no mean: what it makes of its samples is uniform
            drawn, expected, variance = torchs.cdf(drawn), torch.tensor(0.5), torch.tensor(1 / 12)
        else:
            torch.testing.assert_close(mean, expected, rtol=MEAN_TOLERANCE.get(name, 1e-12), atol=1e-12)
            variance = torchs.variance
        error = (drawn.mean(0) - expected).abs() / (variance / n).sqrt()
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
        log_mean, log_theta, gate = (torch.empty(50, dtype=F64).uniform_(-2, 2) for _ in range(3))
        support = torch.arange(2000)
        for likelihood, parameters in (
            (L.Poisson(), (log_mean,)),
            (L.NegativeBinomial(), (log_mean, log_theta)),
            (L.ZeroInflatedNegativeBinomial(), (log_mean, log_theta, gate)),
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
    log_mean, log_theta, gate = normal(3, 5), normal(3, 5), normal(3, 5)
    x = torch.randint(0, 3, (3, 5))
    plain = D.NegativeBinomial(log_theta.exp(), logits=log_mean - log_theta).log_prob(x.double()).exp()
    expected = torch.sigmoid(gate) * (x == 0) + torch.sigmoid(-gate) * plain
    zinb = L.ZeroInflatedNegativeBinomial()
    torch.testing.assert_close(zinb.log_prob((log_mean, log_theta, gate), x), expected.log().sum(1))
    one = log_mean[:1], log_theta[:1], gate[:1]
    drawn = zinb.sample(tuple(t.repeat(20_000, 1) for t in one))
    error = (drawn.mean(0) - zinb.mean(one)[0]).abs()
    assert (error < 5 * drawn.std(0) / 20_000**0.5).all()


def test_one_dispersion_for_all_samples():
    log_mean, log_theta, x = normal(5, 4), normal(4), counts(5, 4)
    got = L.NegativeBinomial().log_prob((log_mean, log_theta), x)
    torch.testing.assert_close(got, L.NegativeBinomial().log_prob((log_mean, log_theta.expand(5, 4)), x))


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


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: L.Laplace(scale=0.0), ValueError, "Laplace: scale must be positive, got 0.0"),
        (lambda: L.DiscretizedLogistic(levels=1), ValueError, "DiscretizedLogistic: levels must be an int of at least 2"),
        (lambda: L.Poisson().log_prob(torch.zeros(2, 3), torch.zeros(2, 4)), ValueError,
         r"Poisson: x must have the shape of log_rate, \(2, 3\), got \(2, 4\)"),
        (lambda: L.NegativeBinomial().log_prob(torch.zeros(2, 3), torch.zeros(2, 3)), ValueError,
         r"NegativeBinomial: recon_x must be \(log_mean, log_theta\), got 1 tensors"),
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


@pytest.mark.parametrize("name", L.NAMES)
@pytest.mark.parametrize("method", ["mean", "sample"])
@pytest.mark.parametrize(
    "recon_x",
    [None, 3.0, (), (None,) * 3, (None,) * 2, torch.zeros(2, 3).long(), torch.eye(3).to_sparse()],
    ids=["None", "float", "empty", "three", "two", "integers", "sparse"],
)
def test_what_is_no_decoders_output(name, method, recon_x):
    likelihood = L.by_name(name)
    with pytest.raises((TypeError, ValueError, NotImplementedError), match=f"{likelihood.name}: "):
        getattr(likelihood, method)(recon_x)
