"""Every objective against evidence that is not vaefast's: closed forms, quadrature, torch.distributions in float64,
enumeration; estimators against the gradient they estimate; and the errors of other libraries, each as a case that their
formula fails."""

import itertools
import math
import pathlib
import re

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import vaefast
from vaefast import functional as VF

# Each objective and what it is checked against, by the tests that do it.
EVIDENCE = {
    "log_weights": ("torch.distributions", "test_integer_targets"),
    "iwae_bound": ("quadrature", "test_elbo_iwae_and_renyi"),
    "renyi_bound": ("quadrature", "test_log_px_and_renyi_of_infinitely_many_samples"),
    "miwae_bound": ("quadrature", "test_elbo_iwae_and_renyi"),
    "piwae_bounds": ("quadrature", "test_elbo_iwae_and_renyi"),
    "ciwae_bound": ("quadrature", "test_elbo_iwae_and_renyi"),
    "IWAELoss": ("closed form", "test_sticking_the_landing_is_zero_at_the_exact_posterior"),
    "free_bits_kl": ("closed form", "test_three_meanings_of_free_bits"),
    "capacity_kl": ("closed form", "test_capacity"),
    "dip_penalty": ("closed form", "test_dip_penalty"),
    "balanced_kl": ("torch.distributions", "test_balanced"),
    "hierarchical_kl": ("torch.distributions", "test_many_layers"),
    "kl_decomposition": ("enumeration", "test_stratified_weights_are_unbiased"),
    "effective_sample_size": ("closed form", "test_effective_sample_size"),
    "active_units": ("closed form", "test_active_units"),
    "VampPrior": ("torch.distributions", "test_vamp_prior_is_the_mixture_of_posteriors"),
    "estimator": ("closed form", "test_monte_carlo_kl"),
    "schedules": ("closed form", "test_schedules"),
}

# What a test of each kind has in it: the other distribution, the sum over nodes, all cases. A closed form has no sign.
SIGNS = {
    "torch.distributions": r"kl_divergence\(|\.log_prob\(",
    "quadrature": r"\b(nodes|pairs)\(",
    "enumeration": r"itertools\.",
    "closed form": r"",
}

F64 = torch.float64
LOG_PX, ELBO, IWAE_2, RENYI_HALF = -1.5134779691271336, -1.7003289278022526, -1.5787741233489254, -1.5856849628093812
MU, LOGVAR = 0.8, -0.7
SLOPE, BIAS = torch.tensor([1.5, -2.0, 0.7, 3.0], dtype=F64), torch.tensor([0.2, -0.5, 1.0, -1.0], dtype=F64)
X = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=F64)


def test_every_objective_has_evidence():
    modules = ("kl", "penalties", "weights", "bounds", "diagnostics")
    functions = {n for n in VF.__all__ if n[0].islower() and getattr(VF, n).__module__.split(".")[-1] in modules}
    functions -= {"gaussian_kl", "elbo"}  # terms, tested by tests/ops and tests/losses
    assert functions <= set(EVIDENCE)
    source = "".join(
        (pathlib.Path(__file__).parent / f"test_{name}.py").read_text() for name in ("objectives", "kl", "penalties")
    )
    for objective, (kind, test) in EVIDENCE.items():
        body = re.split(r"\n {0,4}(?:def|class|@)", source.split(f"def {test}(")[1])[0]
        assert objective in body, f"{test} does not use {objective}"
        assert re.search(SIGNS[kind], body), f"{test} is not evidence by {kind}"


def decode(z):
    """The decoder of the one-dimensional model: logits of shape (..., 4) from z of shape (..., 1)."""
    return z * SLOPE + BIAS


def nodes(n):
    """Gauss-Hermite quadrature of E[f(eps)], eps ~ N(0, 1): points and weights."""
    points, weights = np.polynomial.hermite_e.hermegauss(n)
    return torch.from_numpy(points), torch.from_numpy(weights / math.sqrt(2 * math.pi))


def pairs(mu, logvar, n=120):
    """log w of every pair of quadrature points, (2, n^2), and the pairs' weights."""
    points, weights = nodes(n)
    z = mu + torch.exp(logvar / 2) * points[:, None, None]  # (n, 1, 1)
    log_w = VF.log_weights(decode(z), X[None], z, mu.expand(1, 1), logvar.expand(1, 1))[:, 0]
    first, second = (grid.flatten() for grid in torch.meshgrid(log_w, log_w, indexing="ij"))
    return torch.stack([first, second]), torch.outer(weights, weights).flatten()


@pytest.fixture
def q():
    return torch.tensor(MU, dtype=F64, requires_grad=True), torch.tensor(LOGVAR, dtype=F64, requires_grad=True)


class TestExactValues:
    """The one-dimensional Bernoulli model, whose bounds quadrature gives to 1e-9."""

    def test_elbo_iwae_and_renyi(self, q):
        log_w, weights = pairs(*q)
        for bound, exact in (
            (log_w[0], ELBO),
            (VF.renyi_bound(log_w, 1.0), ELBO),
            (VF.iwae_bound(log_w), IWAE_2),
            (VF.renyi_bound(log_w, 0.0), IWAE_2),
            (VF.ciwae_bound(log_w, 0.25), 0.25 * ELBO + 0.75 * IWAE_2),
            (VF.miwae_bound(log_w[None]), IWAE_2),
            (VF.miwae_bound(log_w[:, None]), ELBO),
            (VF.piwae_bounds(log_w[:, None]).decoder, IWAE_2),
            (VF.piwae_bounds(log_w[:, None]).encoder, ELBO),
        ):
            assert abs((weights * bound).sum().item() - exact) < 1e-7

    def test_log_px_and_renyi_of_infinitely_many_samples(self, q):
        """The points stand for samples that come in the proportions of their weights."""
        points, weights = nodes(160)
        z = q[0] + torch.exp(q[1] / 2) * points[:, None, None]
        log_w = VF.log_weights(decode(z), X[None], z, q[0].expand(1, 1), q[1].expand(1, 1))
        for alpha, exact in ((0.0, LOG_PX), (0.5, RENYI_HALF)):
            weighted = log_w + (160 * weights).log()[:, None] / (1 - alpha)
            assert abs(VF.renyi_bound(weighted, alpha).item() - exact) < 1e-7

    def test_bounds_are_ordered(self):
        log_w = torch.randn(16, 400, dtype=F64)
        for bounds in (
            [VF.renyi_bound(log_w, alpha) for alpha in (-2.0, 0.0, 0.5, 1.0, 3.0)],
            [VF.iwae_bound(log_w), VF.ciwae_bound(log_w, 0.3), VF.renyi_bound(log_w, 1.0)],
        ):
            for higher, lower in itertools.pairwise(bounds):
                assert (higher >= lower - 1e-12).all()

    @pytest.mark.parametrize("dtype", [F64, torch.float32])
    def test_renyi_is_continuous_at_one(self, dtype):
        """The derivative by alpha at 1 is minus half the variance of log w."""
        log_w = (5 * torch.randn(16, 50, dtype=dtype) - 100).requires_grad_()
        at_one, variance = VF.renyi_bound(log_w, 1.0), log_w.var(0, correction=0)
        for epsilon in (1e-7, -1e-5, 1e-3):
            bound = VF.renyi_bound(log_w, 1 + epsilon)
            torch.testing.assert_close(bound, at_one - epsilon / 2 * variance, rtol=0, atol=3e-4)
            weights = torch.autograd.grad(bound.sum(), log_w)[0]
            torch.testing.assert_close(weights, (-epsilon * log_w).softmax(0), rtol=1e-3, atol=1e-6)

    def test_half_precision_is_computed_in_float32(self):
        log_w = (torch.randn(64, 50) * 3 - 700).bfloat16()
        for function in (VF.iwae_bound, VF.effective_sample_size, lambda w: VF.renyi_bound(w, 0.5)):
            got = function(log_w)
            assert got.dtype == torch.float32
            torch.testing.assert_close(got.double(), function(log_w.double()), rtol=1e-5, atol=0)
        assert VF.ciwae_bound(torch.tensor([[0.0], [-math.inf]]), 0.0).isfinite()


class TestGradientEstimators:
    """The mean over many draws against the gradient of the quadrature, within 4 standard errors."""

    DRAWS = 200_000

    def draws(self, k, draws, **options):
        """Each draw's gradient of minus the bound by (mu, logvar), (draws, 2)."""
        mu, logvar = (torch.full((draws, 1), v, dtype=F64, requires_grad=True) for v in (MU, LOGVAR))
        z = VF.reparameterize(mu, logvar, num_samples=k)
        loss = vaefast.IWAELoss(reduction="sum", **options)(decode(z), X.expand(draws, 4), z, mu, logvar)
        return torch.cat(torch.autograd.grad(loss, (mu, logvar)), 1)

    def exact(self, q, alpha):
        log_w, weights = pairs(*q)
        return -torch.stack(torch.autograd.grad((weights * VF.renyi_bound(log_w, alpha)).sum(), q))

    @pytest.mark.parametrize("gradient", ["standard", "dreg"])
    @pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
    def test_unbiased(self, q, gradient, alpha):
        drawn = self.draws(2, self.DRAWS, gradient=gradient, alpha=alpha)
        error = (drawn.mean(0) - self.exact(q, alpha)).abs() / (drawn.std(0) / self.DRAWS**0.5)
        assert (error < 4).all(), error

    def test_sticking_the_landing_is_unbiased_for_one_sample(self, q):
        drawn = self.draws(1, self.DRAWS, gradient="stl")
        error = (drawn.mean(0) - self.exact(q, 1.0)).abs() / (drawn.std(0) / self.DRAWS**0.5)
        assert (error < 4).all(), error

    def test_sticking_the_landing_is_zero_at_the_exact_posterior(self):
        """p(x|z) = N(z, 1): q = N(x/2, 1/2) is exact, and every draw's gradient is 0; the standard one's is not."""
        x = torch.randn(50, 1, dtype=F64)
        for gradient in ("standard", "stl", "dreg"):
            mu, logvar = (x / 2).requires_grad_(), torch.full_like(x, math.log(0.5)).requires_grad_()
            z = VF.reparameterize(mu, logvar, num_samples=4)
            loss = vaefast.IWAELoss("gaussian", gradient=gradient, reduction="sum")(z, x, z, mu, logvar)
            largest = max(g.abs().max() for g in torch.autograd.grad(loss, (mu, logvar)))
            assert largest > 1e-2 if gradient == "standard" else largest < 1e-12

    def test_doubly_reparameterized_has_the_smaller_variance(self):
        dreg, standard = (self.draws(64, 4000, gradient=g).var(0) for g in ("dreg", "standard"))
        assert (dreg < standard).all(), (dreg, standard)

    @pytest.mark.parametrize("gradient", ["standard", "stl", "dreg"])
    def test_value_and_decoder_gradient_are_the_bounds(self, gradient):
        mu, logvar = torch.randn(2, 6, 2, dtype=F64).unbind()
        z = VF.reparameterize(mu.requires_grad_(), logvar, num_samples=3)
        weight = torch.randn(2, 5, dtype=F64, requires_grad=True)
        x = torch.rand(6, 5).round()
        loss = vaefast.IWAELoss(gradient=gradient)(z @ weight, x, z, mu, logvar)
        log_w = (
            Independent(torch.distributions.Bernoulli(logits=z @ weight), 1).log_prob(x.double())
            + Independent(Normal(torch.zeros_like(mu), 1.0), 1).log_prob(z)
            - Independent(Normal(mu, torch.exp(logvar / 2)), 1).log_prob(z)
        )
        expected = -(log_w.logsumexp(0) - math.log(3)).mean()
        torch.testing.assert_close(loss, expected)
        got, true = (torch.autograd.grad(v, weight, retain_graph=True)[0] for v in (loss, expected))
        torch.testing.assert_close(got, true)


class TestCombinations:
    def test_integer_targets(self):
        """Labels and counts, as a discrete likelihood takes them."""
        mu, logvar = torch.randn(2, 4, 2).unbind()
        z = VF.reparameterize(mu, logvar, num_samples=3)
        logits, x = torch.randn(3, 4, 7, 5), torch.randint(0, 7, (4, 5))
        log_w = VF.log_weights(logits, x, z, mu, logvar, likelihood=vaefast.likelihoods.Categorical())
        fit = torch.distributions.Categorical(logits=logits.movedim(2, -1)).log_prob(x).sum(-1)
        prior, q = Normal(0.0, 1.0).log_prob(z).sum(-1), Normal(mu, (logvar / 2).exp()).log_prob(z).sum(-1)
        torch.testing.assert_close(log_w, fit + prior - q, rtol=1e-5, atol=1e-5)

    def test_a_likelihood_of_ones_own(self):
        """It may take what a decoder returns in any shape."""

        class Shared:
            def log_prob(self, recon_x, x, *, mask=None, batch_dims=1):
                return Normal(recon_x[0], 1.0).log_prob(x).flatten(batch_dims).sum(-1)

        z, x, mu = torch.randn(3, 4, 2), torch.rand(4, 5), torch.zeros(4, 2)
        got = VF.log_weights((torch.ones(5), z), x, z, mu, mu, likelihood=Shared())
        expected = VF.log_weights(torch.ones(3, 4, 5), x, z, mu, mu, likelihood="gaussian")
        torch.testing.assert_close(got, expected)

    def test_a_prior_of_ones_own(self):
        mu, logvar = torch.randn(2, 4, 2, dtype=F64).unbind()
        z = VF.reparameterize(mu, logvar, num_samples=3)
        prior = Independent(Normal(torch.ones(2, dtype=F64), 2.0), 1)
        recon_x, x = torch.randn(3, 4, 5, dtype=F64), torch.rand(4, 5).round()
        options = dict(prior_mu=torch.tensor(1.0, dtype=F64), prior_logvar=torch.tensor(math.log(4), dtype=F64))
        expected = VF.log_weights(recon_x, x, z, mu, logvar, **options)
        torch.testing.assert_close(VF.log_weights(recon_x, x, z, mu, logvar, prior=prior), expected)
        loss = vaefast.IWAELoss()(recon_x, x, z, mu, logvar, prior=prior)
        torch.testing.assert_close(loss, -VF.iwae_bound(expected).mean())
        with pytest.raises(ValueError, match="exclude each other"):
            VF.log_weights(recon_x, x, z, mu, logvar, prior=prior, **options)
        elementwise = vaefast.ELBOLoss(estimator="mc", prior=Normal(0.0, 1.0))
        with pytest.raises(ValueError, match=r"prior.log_prob must return a tensor of shape \(4,\), got \(4, 2\)"):
            elementwise(recon_x[0], x, mu, logvar, z=z[0])
        with pytest.raises(ValueError, match="this loss was built with a prior"):
            vaefast.ELBOLoss(estimator="mc", prior=prior)(recon_x[0], x, mu, logvar, z=z[0], **options)


class TestPosterior:
    def test_effective_sample_size(self):
        log_w = torch.randn(9, 4, dtype=F64) * 3
        w = log_w.exp()
        torch.testing.assert_close(VF.effective_sample_size(log_w), w.sum(0) ** 2 / (w * w).sum(0))
        torch.testing.assert_close(VF.effective_sample_size(log_w + 1000), VF.effective_sample_size(log_w))

    def test_active_units(self):
        mu = torch.randn(1000, 3) * torch.tensor([1.0, 0.11, 0.05])
        assert VF.active_units(mu).tolist() == [True, True, False]

    def test_log_likelihood_reports_its_effective_sample_size(self):
        vae = vaefast.mlp_vae((6,), latent_dim=2, hidden_dims=(8,))
        x = torch.rand(5, 6).round()
        mu, logvar = vae.encode(x)
        state = torch.get_rng_state()
        z = torch.cat([VF.reparameterize(mu, logvar, num_samples=n) for n in (7, 7, 7, 7, 7, 5)])
        log_w = VF.log_weights(vae.decode_samples(z), x, z, mu, logvar)
        torch.set_rng_state(state)
        log_px, ess = vae.log_likelihood(x, 40, chunk_size=7, return_ess=True)
        torch.testing.assert_close(ess, VF.effective_sample_size(log_w), rtol=1e-4, atol=0)
        torch.testing.assert_close(log_px, VF.iwae_bound(log_w), rtol=1e-5, atol=0)
        vae.encoder[-1].weight.data.zero_(), vae.encoder[-1].bias.data.zero_()
        vae.decoder[0].weight.data.zero_()  # q is the prior and x does not depend on z: all weights are equal
        torch.testing.assert_close(vae.log_likelihood(x, 40, chunk_size=7, return_ess=True)[1], torch.full((5,), 40.0))

    def test_vamp_prior_is_the_mixture_of_posteriors(self):
        encoder = torch.nn.Linear(6, 4, dtype=F64)
        prior = vaefast.priors.VampPrior(encoder, torch.rand(7, 6, dtype=F64))
        mu, logvar = encoder(prior.pseudo_inputs).chunk(2, 1)
        mixture = MixtureSameFamily(
            Categorical(torch.ones(7, dtype=F64)), Independent(Normal(mu, (logvar / 2).exp()), 1)
        )
        z = torch.randn(9, 2, dtype=F64)
        torch.testing.assert_close(prior.log_prob(z), mixture.log_prob(z))
        assert torch.autograd.grad(prior.log_prob(z).sum(), prior.pseudo_inputs)[0].abs().sum() > 0
        drawn = prior.sample(20_000)
        torch.testing.assert_close(drawn.mean(0), mixture.mean, rtol=0, atol=0.05)
        mu_x, logvar_x = torch.randn(2, 9, 2, dtype=F64).unbind()
        criterion = vaefast.ELBOLoss(estimator="mc", prior=prior, reduction="none")
        nothing = torch.zeros(9, 0, dtype=F64)
        expected = Independent(Normal(mu_x, (logvar_x / 2).exp()), 1).log_prob(z) - mixture.log_prob(z)
        torch.testing.assert_close(criterion(nothing, nothing, mu_x, logvar_x, z=z), expected)


def _iwae(recon_x, z, **options):
    x = torch.zeros(3, 4)
    return vaefast.IWAELoss()(recon_x, x, z, x, x, **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda w: VF.iwae_bound(w[0]), ValueError, r"iwae_bound: log_w must have shape \(K, B\), with samples"),
        (lambda w: VF.iwae_bound(w[:0]), ValueError, r"iwae_bound: log_w must have shape \(K, B\), with samples"),
        (lambda w: VF.miwae_bound(w), ValueError, r"miwae_bound: log_w must have shape \(M, K, B\)"),
        (lambda w: VF.renyi_bound(w, math.nan), ValueError, "renyi_bound: alpha must be a finite number"),
        (lambda w: VF.ciwae_bound(w, 1.5), ValueError, r"ciwae_bound: beta must be in \[0, 1\], got 1.5"),
        (lambda w: VF.free_bits_kl(w, -1.0), ValueError, "free_bits_kl: free_bits must be a finite number of at least"),
        (lambda w: VF.free_bits_kl(w, 1.0, "pixel"), ValueError, "free_bits_kl: per must be one of 'dimension'"),
        (lambda w: VF.balanced_kl(w, w, w, w, balance=2.0), ValueError, r"balanced_kl: balance must be in \[0, 1\]"),
        (lambda w: VF.kl_decomposition(w, w, w, 2), ValueError, "kl_decomposition: z must have shape"),
        (lambda w: VF.hierarchical_kl([]), ValueError, "hierarchical_kl: layers is empty"),
        (lambda w: VF.hierarchical_kl([(w, w, w)]), ValueError, "hierarchical_kl: layer 0 must be"),
        (lambda w: VF.hierarchical_kl([(w, w), (w[:2], w[:2])]), ValueError, "hierarchical_kl: layer 1 has shape"),
        (lambda w: VF.log_weights(w, w, w, w, w), ValueError, r"log_weights: z must have shape \(K, 3, 4\)"),
        (lambda w: VF.elbo(w, w, w, w[:2]), ValueError, "functional.elbo: logvar must have the shape of mu"),
        (
            lambda w: _iwae(w, w.expand(2, 3, 4)),
            ValueError,
            r"IWAELoss: recon_x must have shape \(2, 3, 4\), the shape of x for each sample of z",
        ),
        (lambda w: _iwae(w[None], w), ValueError, r"IWAELoss: z must have shape \(K, 3, 4\)"),
        (lambda w: _iwae(w[None], w[None], prior_mu=w[:2]), ValueError, "IWAELoss: prior_mu must be broadcastable"),
        (lambda w: vaefast.IWAELoss(gradient="score"), ValueError, "IWAELoss: gradient must be one of 'standard'"),
        (lambda w: vaefast.ELBOLoss(estimator="mc")(w, w, w, w), ValueError, "estimator='mc' needs z"),
        (lambda w: vaefast.ELBOLoss()(w, w, w, w, z=w), ValueError, "estimator='analytic' takes no z"),
        (lambda w: vaefast.ELBOLoss(estimator="mc", free_bits=1.0), ValueError, "free_bits needs estimator='analytic'"),
        (lambda w: VF.balanced_kl(w, w, None, None), TypeError, "balanced_kl: prior_mu must be a torch.Tensor"),
        (lambda w: vaefast.schedules.cyclical(1, 5, ramp=2.0), ValueError, "cyclical: ramp is a part of the period"),
        (lambda w: vaefast.schedules.linear(1, 0), ValueError, "schedules.linear: warmup must be positive"),
        (
            lambda w: vaefast.priors.VampPrior(None, w[0]),
            ValueError,
            r"VampPrior: pseudo_inputs must have shape \(C, D\)",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(torch.randn(3, 4))


def test_hierarchical_kl_of_no_samples():
    empty = torch.zeros(0, 3)
    assert VF.hierarchical_kl([(empty, empty), (torch.zeros(0, 2, 4, 4),) * 4]).shape == (0,)
