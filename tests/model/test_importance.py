"""The bounds of a VAE, ELBO and log p(x), against models whose log p(x) is known."""

import math

import pytest
import torch
from torch import nn

import vaefast
from tests.support.models import Expand, GaussianPrior, Known, linear, vamp_vae
from vaefast import likelihoods


@pytest.fixture
def linear_gaussian():
    """z ~ N(0, I), x ~ N(Wz + b, 1/4 I), q = N((.4, -.6), exp(-1, -2))."""
    decoder = linear([[1.0, 0.5], [-0.3, 0.8], [0.2, -1.1]], [0.1, -0.2, 0.3])
    return vaefast.VAE(Known([0.4, -0.6], [-1.0, -2.0]), decoder, likelihood=likelihoods.Gaussian(scale=0.5))


def test_bounds_of_a_linear_gaussian_model(linear_gaussian):
    """log p(x) = ELBO + KL(q || p(z|x)): all three, estimated, against their closed forms."""
    x = torch.tensor([[0.7, -1.0, 0.4]])
    many = x.expand(200_000, 3)
    elbo = linear_gaussian.elbo(many)
    standard_error = elbo.elbo.std().item() / math.sqrt(len(many))
    assert elbo.elbo.mean().item() == pytest.approx(-4.487997146779442, abs=5 * standard_error)
    assert elbo.kl[0].item() == pytest.approx(1.0116073622040274, rel=1e-6)
    estimates = linear_gaussian.log_likelihood(x.expand(20, 3), num_samples=20_000, chunk_size=1000)
    assert estimates.shape == (20,)
    assert estimates.mean().item() == pytest.approx(-3.4077295799186738, abs=0.02)
    gap = linear_gaussian.posterior_gap(x.expand(20, 3), num_samples=20_000, chunk_size=1000)
    assert gap.mean().item() == pytest.approx(1.0802675668607686, abs=0.03)


def test_log_likelihood_of_a_bernoulli_model():
    decoder = linear([[1.5], [-2.0], [0.7], [3.0]], [0.2, -0.5, 1.0, -1.0])
    vae = vaefast.VAE(Known([0.8], [-0.7]), decoder)
    x = torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    got = vae.log_likelihood(x.expand(10, 4), num_samples=20_000, chunk_size=3000).mean().item()
    assert got == pytest.approx(-1.5134779691271336, abs=0.01)
    assert got > vae.elbo(x.expand(1000, 4)).elbo.mean().item()


def test_the_gap_of_an_exact_posterior_is_zero():
    """W = 0: p(z|x) is the prior, which q is."""
    vae = vaefast.VAE(Known([0.0, 0.0], [0.0, 0.0]), linear([[0.0, 0.0]], [0.3]), likelihood="gaussian")
    assert vae.posterior_gap(torch.randn(5, 1), num_samples=100, chunk_size=7).abs().max() < 1e-5


def test_chunks_do_not_change_the_estimate(linear_gaussian):
    x = torch.tensor([[0.7, -1.0, 0.4]]).expand(3, 3)
    estimates = []
    for chunk_size in (1, 7, 1000):
        torch.manual_seed(4)
        estimates.append(linear_gaussian.log_likelihood(x, num_samples=5000, chunk_size=chunk_size))
    for estimate in estimates[1:]:
        torch.testing.assert_close(estimate, estimates[0], rtol=0.05, atol=0.05)


def test_a_parameter_that_all_samples_share():
    """One dispersion for every gene: the decoder returns it as it is, and log p(x) takes it as the loss does."""

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean, self.log_scale = nn.Linear(3, 11), nn.Parameter(torch.tensor([-0.5]))

        def forward(self, z):
            return self.mean(z), self.log_scale

    vae = vaefast.VAE(nn.Linear(11, 6), Decoder(), likelihood=likelihoods.Gaussian())
    x = torch.randn(5, 11)
    assert vae.loss(x).isfinite()
    log_px = vae.log_likelihood(x, 400, generator=torch.Generator().manual_seed(0))
    expanded = vaefast.VAE(vae.encoder, nn.Sequential(vae.decoder, Expand()), likelihood=likelihoods.Gaussian())
    torch.testing.assert_close(log_px, expanded.log_likelihood(x, 400, generator=torch.Generator().manual_seed(0)))


def test_a_shared_parameter_as_long_as_a_chunk():
    """50 samples of 2 data: 100 rows, and 100 elements that one parameter is shared by."""

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.log_mean, self.log_theta = nn.Linear(2, 100), nn.Parameter(torch.zeros(100))

        def forward(self, z):
            return self.log_mean(z), self.log_theta

    vae = vaefast.VAE(nn.Linear(100, 4), Decoder(), likelihood="negative_binomial")
    x = torch.poisson(torch.ones(2, 100))
    expanded = vaefast.VAE(vae.encoder, nn.Sequential(vae.decoder, Expand()), likelihood="negative_binomial")
    g = [torch.Generator().manual_seed(0) for _ in range(2)]
    torch.testing.assert_close(*(m.log_likelihood(x, 50, generator=k) for m, k in zip((vae, expanded), g, strict=True)))


def test_bounds_under_a_prior(linear_gaussian):
    """x = Wz + b + noise with z ~ N(m, S) is N(Wm + b, W S W^T + I/4): log p(x), the ELBO and its KL in closed form."""
    m, logvar = [1.0, -0.5], [0.4, -1.2]
    vae = vaefast.VAE(
        linear_gaussian.encoder, linear_gaussian.decoder, likelihood=linear_gaussian.likelihood,
        prior=GaussianPrior(m, logvar),
    )  # fmt: skip
    weight, bias, scale = (t.detach().double() for t in (*vae.decoder.parameters(), vae.prior.logvar.exp()))
    covariance = weight * scale @ weight.T + torch.eye(3, dtype=torch.float64) / 4
    marginal = torch.distributions.MultivariateNormal(weight @ vae.prior.mu.detach().double() + bias, covariance)
    x = torch.tensor([[0.7, -1.0, 0.4]])
    log_px = marginal.log_prob(x[0].double()).item()
    estimates = vae.log_likelihood(x.expand(20, 3), num_samples=20_000, chunk_size=1000)
    assert estimates.mean().item() == pytest.approx(log_px, abs=0.02)
    kl = vaefast.functional.gaussian_kl(*(t.detach() for t in (*vae.encode(x), vae.prior.mu, vae.prior.logvar))).item()
    bound = -3.476389784575 - kl  # E_q[log p(x|z)] knows no prior
    many = x.expand(200_000, 3)
    with torch.no_grad():
        elbo = vae.elbo(many)
        loss = vae.loss(many).item()
    for got, expected in ((elbo.elbo, bound), (elbo.kl, kl), (elbo.log_likelihood, -3.476389784575)):
        assert got.mean().item() == pytest.approx(expected, abs=5 * got.std().item() / math.sqrt(len(many)))
    assert loss == pytest.approx(-bound, abs=5 * elbo.elbo.std().item() / math.sqrt(len(many)))
    torch.testing.assert_close(elbo.elbo, elbo.log_likelihood - elbo.kl)
    assert bound < log_px
    gap = vae.posterior_gap(x.expand(20, 3), num_samples=20_000, chunk_size=1000)
    assert gap.mean().item() == pytest.approx(log_px - bound, abs=0.03)
    drawn = vae.sample(100_000)  # E[x|z]
    torch.testing.assert_close(drawn.mean(0).double(), marginal.mean, rtol=0, atol=0.03)
    torch.testing.assert_close(drawn.T.cov().double(), covariance - torch.eye(3) / 4, rtol=0, atol=0.05)


@pytest.mark.parametrize("build", [lambda: vaefast.mlp_vae((16,), latent_dim=2), vamp_vae])
def test_bounds_are_of_the_same_samples(build):
    vae, x, g = build(), torch.rand(5, 16), torch.Generator()
    for samples, chunk in ((1, 50), (7, 3), (200, 50)):
        options = {"num_samples": samples, "chunk_size": chunk, "generator": g}
        g.manual_seed(0)
        bounds = vae.bounds(x, **options)
        torch.testing.assert_close(bounds.elbo, bounds.log_likelihood - bounds.kl)
        assert (bounds.log_px >= bounds.elbo).all() and (bounds.ess >= 1 - 1e-6).all()
        assert samples > 1 or torch.equal(bounds.log_px, bounds.elbo)
        g.manual_seed(0)
        assert all(map(torch.equal, vae.log_likelihood(x, return_ess=True, **options), (bounds.log_px, bounds.ess)))
        g.manual_seed(0)
        assert torch.equal(vae.posterior_gap(x, **options), bounds.log_px - bounds.elbo)
    many, g = x.repeat(400, 1), g.manual_seed(1)
    with torch.no_grad():
        elbo = vae.elbo(many, generator=g)
    bounds = vae.bounds(x, 2000, generator=g)
    for name in ("elbo", "log_likelihood", "kl"):
        each = getattr(elbo, name).unflatten(0, (400, 5))
        # Of the mean over 400 samples, and of that over 2000 that it is held to; a KL in closed form has no noise.
        error = each.std(0) * (1 / 400 + 1 / 2000) ** 0.5
        assert ((each.mean(0) - getattr(bounds, name)).abs() <= 5 * error + 1e-5).all()


@pytest.mark.parametrize("call", ["elbo", "log_likelihood", "posterior_gap", "bounds"])
def test_a_scale_that_has_seen_x_bounds_nothing(call):
    vae, x = vaefast.mlp_vae((4,), 2, likelihood=likelihoods.Gaussian(optimal_scale=True)), torch.rand(3, 4)
    assert vae.loss(x).isfinite()  # what it is for
    with pytest.raises(ValueError, match="optimal_scale fits the scale to x, so this would not be p"):
        getattr(vae, call)(x)


def test_a_mask_leaves_elements_out_of_every_bound():
    vae = vaefast.mlp_vae((6,), latent_dim=2, hidden_dims=())
    x, mask = torch.rand(3, 6).round(), torch.tensor([True, True, False, True, False, True])
    other = torch.where(mask, x, 1 - x)
    vae.encoder[-1].weight.data[:, ~mask] = 0  # q does not see what is left out
    for call in (
        lambda x, mask: vae.elbo(x, mask=mask).elbo,
        lambda x, mask: vae.log_likelihood(x, 20, mask=mask),
        lambda x, mask: vae.bounds(x, 20, mask=mask).elbo,
        lambda x, mask: vae.posterior_gap(x, 20, mask=mask),
    ):
        values = []
        for data, kept in ((x, mask), (other, mask), (x, None), (other, None)):
            torch.manual_seed(0)
            values.append(call(data, kept))
        assert torch.equal(values[0], values[1]) and not torch.allclose(values[2], values[3])
    vae.decoder[0].weight.data.zero_(), vae.decoder[0].bias.data.zero_()
    log_half = torch.full((3,), 4 * math.log(0.5))
    torch.testing.assert_close(vae.log_likelihood(x, 20, mask=mask), log_half, rtol=0.2, atol=0)


def test_a_torch_distribution_as_prior():
    normal = torch.distributions.Independent(torch.distributions.Normal(torch.ones(2), torch.ones(2)), 1)
    vae = vaefast.VAE(nn.Linear(6, 4), nn.Linear(2, 6), prior=normal)
    assert vae.loss(torch.rand(3, 6)).shape == ()
    torch.manual_seed(0)
    z = normal.sample((4,))
    torch.manual_seed(0)
    assert torch.equal(vae.sample(4), torch.sigmoid(vae.decoder(z)))
    same = vaefast.VAE(vae.encoder, vae.decoder, prior=GaussianPrior([1.0, 1.0], [0.0, 0.0]))
    x, mask, values = torch.rand(3, 6).round(), torch.rand(3, 6) < 0.7, []
    for each in (vae, same):
        torch.manual_seed(0)
        values.append(
            torch.stack([each.log_likelihood(x, 9), each.bounds(x, 9, mask=mask).elbo, each.elbo(x, mask=mask).elbo])
        )
    torch.testing.assert_close(*values)
    with pytest.raises(ValueError, match="Independent.sample takes no generator; seed torch"):
        vae.sample(4, generator=torch.Generator())
