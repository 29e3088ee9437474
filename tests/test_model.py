"""VAE: its bounds against models whose log p(x) is known, and training."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import vaefast
from vaefast import likelihoods
from vaefast.priors import VampPrior


class Known(nn.Module):
    """An encoder that returns the same (mu, logvar) for every x."""

    def __init__(self, mu, logvar):
        super().__init__()
        self.mu, self.logvar = nn.Parameter(torch.tensor(mu)), nn.Parameter(torch.tensor(logvar))

    def forward(self, x):
        return self.mu.expand(len(x), -1), self.logvar.expand(len(x), -1)


def linear(weight, bias):
    layer = nn.Linear(len(weight[0]), len(weight))
    layer.weight.data, layer.bias.data = torch.tensor(weight), torch.tensor(bias)
    return layer


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


@pytest.mark.parametrize("build", [
    lambda likelihood: vaefast.mlp_vae((1, 8, 8), 3, (16,), likelihood),
    lambda likelihood: vaefast.mlp_vae((10,), 2, (), likelihood),
    lambda likelihood: vaefast.conv_vae((3, 8, 12), 4, (8, 16), likelihood),
])  # fmt: skip
@pytest.mark.parametrize("likelihood", ["bernoulli", "bernoulli_probs", "gaussian"])
def test_builders(build, likelihood):
    vae = build(likelihood)
    samples = vae.sample(5)
    recon_x, mu, logvar = vae(torch.rand_like(samples))
    assert recon_x.shape == samples.shape and mu.shape == logvar.shape == (5, *vae.latent_shape)
    x = torch.rand_like(samples)
    for training in (True, False):
        vae.train(training)
        torch.manual_seed(0)
        loss = vae.loss(x)
        torch.manual_seed(0)
        elbo = vae.elbo(x)
        torch.testing.assert_close(loss, -elbo.elbo.mean())
        assert not torch.equal(vae.elbo(x).elbo, vae.elbo(x).elbo), "sampling does not depend on .training"
    assert torch.equal(vae.reconstruct(x), vae.reconstruct(x))
    assert not torch.equal(vae.reconstruct(x, sample=True), vae.reconstruct(x, sample=True))
    g = torch.Generator().manual_seed(1)
    first = vae.sample(2, generator=g)
    assert torch.equal(first, vae.sample(2, generator=g.manual_seed(1)))
    loss.backward()
    assert all(p.grad.isfinite().all() for p in vae.parameters())


def test_bad_models():
    with pytest.raises(ValueError, match="split in two along dimension 1"):
        vaefast.VAE(nn.Linear(4, 3), nn.Linear(1, 4)).encode(torch.zeros(2, 4))
    with pytest.raises(
        RuntimeError, match="vaefast.VAE.sample: the shape of z is unknown; give VAE its latent_shape, or"
    ):
        vaefast.VAE(nn.Linear(4, 2), nn.Linear(1, 4)).sample(3)
    with pytest.raises(ValueError, match="sides divisible by 4, got \\(1, 6, 6\\)"):
        vaefast.conv_vae((1, 6, 6))
    vae, x = vaefast.mlp_vae((4,)), torch.zeros(1, 4)
    for call, error, message in (
        (lambda: vaefast.mlp_vae((4,), 0), ValueError, "mlp_vae: latent_dim must be an int of at least 1, got 0"),
        (lambda: vaefast.mlp_vae((4,), 2.5), TypeError, "mlp_vae: latent_dim must be an int, got float"),
        (lambda: vaefast.mlp_vae(()), ValueError, r"mlp_vae: input_shape must hold at least one int, got \(\)"),
        (lambda: vaefast.mlp_vae("12"), TypeError, "mlp_vae: input_shape must be a sequence of ints, got str"),
        (lambda: vaefast.mlp_vae((4,), 2, (3, 0)), ValueError, "each of hidden_dims must be an int of at least 1, got 0"),
        (lambda: vaefast.mlp_vae((4, 1.5)), TypeError, "each of input_shape must be an int, got float"),
        (lambda: vaefast.mlp_vae((4,), 2, (2**21,)), ValueError, "each of hidden_dims must be an int of at most 2\\^20"),
        (lambda: vaefast.conv_vae(channels=()), ValueError, r"conv_vae: channels must hold at least one int, got \(\)"),
        (lambda: vaefast.conv_vae(()), ValueError, "conv_vae: input_shape must hold at least one int"),
        (lambda: vaefast.VAE(nn.Linear(4, 2), nn.Linear(1, 4), latent_shape=1), TypeError, "VAE: latent_shape must be a seq"),
        (lambda: vaefast.VAE(lambda x: None, nn.Linear(1, 4)).loss(x), TypeError, "an encoder's output, if not \\(mu, logvar\\), must be a torch.Tensor, got NoneType"),
        (lambda: vaefast.VAE(lambda x: (x, None), nn.Linear(1, 4)).loss(x), TypeError, "each of an encoder's .* must be a torch.Tensor, got NoneType"),
        (lambda: vae.sample(2.5), TypeError, "vaefast.VAE.sample: n must be an int, got float"),
        (lambda: vae.sample(-1), ValueError, "n must be an int of at least 0, got -1"),
        (lambda: vae.log_likelihood(x, 0), ValueError, "num_samples must be an int of at least 1, got 0"),
        (lambda: vae.log_likelihood(x, "5"), TypeError, "num_samples must be an int, got str"),
        (lambda: vae.posterior_gap(x, chunk_size=True), TypeError, "chunk_size must be an int, got bool"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            call()


def test_training_matches_a_hand_written_loop():
    """300 Adam steps with vaefast's loss and with torch's own operations, on the same noise: the same curve to 1e-4."""
    x = torch.rand(64, 16).round()

    def train(loss_of):
        torch.manual_seed(0)
        vae = vaefast.mlp_vae((16,), latent_dim=2, hidden_dims=(12,))
        optimizer = torch.optim.Adam(vae.parameters(), lr=1e-2)
        curve = []
        for step in range(300):
            eps = torch.randn(64, 2, generator=torch.Generator().manual_seed(step))
            mu, logvar = vae.encode(x)
            z = mu + (0.5 * logvar).exp() * eps
            loss = loss_of(vae.decode(z), x, mu, logvar)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
        return torch.tensor(curve)

    def by_hand(logits, x, mu, logvar):
        bce = nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        return (bce - 0.5 * (1 + logvar - mu**2 - logvar.exp()).sum()) / len(x)

    torch.testing.assert_close(train(vaefast.ELBOLoss()), train(by_hand), rtol=1e-4, atol=0)


def test_a_linear_vae_reaches_probabilistic_pca():
    """Its optimum is known: the trained ELBO approaches scikit-learn's PCA score on the digits from below, within 0.35
    nats (Lucas et al. 2019)."""
    datasets = pytest.importorskip("sklearn.datasets")
    decomposition = pytest.importorskip("sklearn.decomposition")
    k = 8
    data = datasets.load_digits().data / 16
    score = decomposition.PCA(k).fit(data).score(data)
    x = torch.tensor(data, dtype=torch.float32)
    vae = vaefast.VAE(
        nn.Linear(64, 2 * k), nn.Linear(k, 64), likelihood=likelihoods.Gaussian(scale=0.3, learn_scale=True)
    )
    optimizer = torch.optim.Adam(vae.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8000)
    for _ in range(8000):
        optimizer.zero_grad(set_to_none=True)
        vae.loss(x).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        elbo = torch.stack([vae.elbo(x).elbo.mean() for _ in range(100)]).mean().item()
    assert score - 0.35 < elbo < score + 0.05
    assert 0 < vae.posterior_gap(x[:200], num_samples=1000).mean() < 1


@pytest.mark.parametrize("call", [
    lambda vae, x, **g: vae(x, **g)[0], lambda vae, x, **g: vae.loss(x, **g), lambda vae, x, **g: vae.elbo(x, **g).elbo,
    lambda vae, x, **g: vae.reconstruct(x, sample=True, **g), lambda vae, x, **g: vae.sample(3, **g),
    lambda vae, x, **g: vae.sample(3, draw=True, **g),
    lambda vae, x, **g: vae.log_likelihood(x, 20, **g), lambda vae, x, **g: vae.posterior_gap(x, num_samples=20, **g),
    lambda vae, x, **g: vae.reparameterize(*vae.encode(x), **g),
])  # fmt: skip
def test_generators(call):
    """Whatever samples draws from the generator that it is given, and leaves the default one alone."""
    vae, x = vaefast.mlp_vae((11,), latent_dim=3), torch.rand(5, 11)
    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(4)
    first, second = (call(vae, x, generator=generator).detach() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first, second)
    assert torch.equal(call(vae, x, generator=generator.manual_seed(4)).detach(), first)


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


class Expand(nn.Module):
    def forward(self, parameters):
        mean, log_scale = parameters
        return mean, log_scale.expand(mean.shape)


@pytest.mark.parametrize("build", [vaefast.mlp_vae, vaefast.conv_vae])
def test_probabilities_by_an_object_end_in_a_sigmoid(build):
    vae = build((1, 4, 4), 2, likelihood=likelihoods.Bernoulli(probs=True))
    assert vae.sample(50).min() >= 0 and vae.loss(torch.rand(5, 1, 4, 4)).isfinite()


def test_an_overridden_method_need_not_know_of_generators():
    class Own(vaefast.VAE):
        def reparameterize(self, mu, logvar):
            return mu

        def forward(self, x):
            return super().forward(x)

    vae, x = Own(nn.Linear(6, 4), nn.Linear(2, 6)), torch.rand(3, 6)
    assert torch.equal(vae.loss(x), vae.loss(x)) and torch.equal(vae.reconstruct(x, sample=True), vae.reconstruct(x))


def test_a_shared_parameter_as_long_as_a_chunk():
    """50 samples of 2 data: 100 rows, and 100 elements that one parameter is shared by."""

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.log_mean, self.log_count = nn.Linear(2, 100), nn.Parameter(torch.zeros(100))

        def forward(self, z):
            return self.log_mean(z), self.log_count

    vae = vaefast.VAE(nn.Linear(100, 4), Decoder(), likelihood="negative_binomial")
    x = torch.poisson(torch.ones(2, 100))
    expanded = vaefast.VAE(vae.encoder, nn.Sequential(vae.decoder, Expand()), likelihood="negative_binomial")
    g = [torch.Generator().manual_seed(0) for _ in range(2)]
    torch.testing.assert_close(*(m.log_likelihood(x, 50, generator=k) for m, k in zip((vae, expanded), g, strict=True)))


class GaussianPrior(nn.Module):
    """N(mu, diag exp(logvar)), learned."""

    def __init__(self, mu, logvar):
        super().__init__()
        self.mu, self.logvar = nn.Parameter(torch.tensor(mu)), nn.Parameter(torch.tensor(logvar))

    def log_prob(self, z):
        return vaefast.functional.gaussian_log_prob(z, self.mu.expand(z.shape), self.logvar.expand(z.shape))

    def sample(self, n, *, generator=None):
        return vaefast.functional.reparameterize(
            self.mu.expand(n, -1), self.logvar.expand(n, -1), generator=generator
        ).detach()


def vamp_vae(seed=0):
    torch.manual_seed(seed)
    base = vaefast.mlp_vae((16,), latent_dim=2, hidden_dims=(12,))
    return vaefast.VAE(base.encoder, base.decoder, prior=VampPrior(base.encoder, torch.rand(5, 16)))


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


def test_a_vae_with_a_vamp_prior_trains():
    vae, x = vamp_vae(), torch.rand(4, 16).round().repeat(16, 1)
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-2)
    before = vae.prior.pseudo_inputs.detach().clone()
    curve = []
    for _ in range(300):
        optimizer.zero_grad()
        loss = vae.loss(x)
        loss.backward()
        assert all(p.grad.isfinite().all() for p in vae.parameters())
        optimizer.step()
        curve.append(loss.item())
    assert sum(curve[-20:]) / 20 < 0.6 * curve[0]
    assert not torch.equal(vae.prior.pseudo_inputs, before)
    with torch.no_grad():
        elbo = torch.stack([vae.elbo(x).elbo for _ in range(200)]).mean()
    assert elbo < vae.log_likelihood(x, 1000).mean() < 0


def test_the_state_of_a_vae_with_a_prior():
    """The prior's parameters are the model's, once; a copy's VampPrior has the copy's encoder."""
    vae, x = vamp_vae(), torch.rand(3, 16)
    names = [name for name in vae.state_dict() if "pseudo_inputs" in name]
    assert names == ["criterion.prior.pseudo_inputs"] and len(vae.state_dict()) == len(list(vae.parameters()))
    other = vamp_vae(seed=1)
    assert not torch.equal(vae.prior.log_prob(torch.zeros(3, 2)), other.prior.log_prob(torch.zeros(3, 2)))
    other.load_state_dict(vae.state_dict())
    copied = copy.deepcopy(vae)
    g = torch.Generator()
    for call in (
        lambda vae: vae.loss(x, generator=g), lambda vae: vae.elbo(x, generator=g).kl,
        lambda vae: vae.sample(3, generator=g), lambda vae: vae.log_likelihood(x, 10, generator=g),
    ):  # fmt: skip
        first, *rest = (call(m) for m in (vae, other, copied) if g.manual_seed(3))
        assert all(torch.equal(first, r) for r in rest)
    with torch.no_grad():
        copied.encoder[1].weight.zero_()
    assert torch.equal(vae.prior.log_prob(x[:, :2]), other.prior.log_prob(x[:, :2]))
    assert not torch.equal(copied.prior.log_prob(x[:, :2]), vae.prior.log_prob(x[:, :2]))


def test_a_criterion_that_estimates_the_kl():
    """`vae.criterion` may be replaced: loss and elbo then give it the z that was decoded."""
    vae, x = vaefast.mlp_vae((16,), latent_dim=2), torch.rand(3, 16)
    g = torch.Generator()
    closed = vae.loss(x, generator=g.manual_seed(0))
    vae.criterion = vaefast.ELBOLoss(estimator="mc")
    got = vae.loss(x, generator=g.manual_seed(0))
    mu, logvar = vae.encode(x)
    z = vae.reparameterize(mu, logvar, generator=g.manual_seed(0))
    assert torch.equal(got, vae.criterion(vae.decode(z), x, mu, logvar, z=z)) and got != closed
    elbo = vae.elbo(x, generator=g.manual_seed(0))
    torch.testing.assert_close(got, -elbo.elbo.mean())
    vae.criterion.beta = 0.25
    torch.testing.assert_close(vae.elbo(x, generator=g.manual_seed(0)).elbo, elbo.elbo)  # the bound, whatever beta


def test_what_belongs_to_the_criterion():
    vae = vaefast.mlp_vae((4,))
    for name, value in (("prior", GaussianPrior([0.0], [0.0])), ("likelihood", likelihoods.Gaussian()), ("beta", 2.0)):
        with pytest.raises(AttributeError, match=f"{name} belongs to the criterion"):
            setattr(vae, name, value)
    with pytest.raises(TypeError, match="vaefast.VAE: prior must have log_prob and sample, got Linear"):
        vaefast.VAE(nn.Linear(4, 2), nn.Linear(1, 4), prior=nn.Linear(1, 1))


@pytest.mark.parametrize("build", [lambda: vaefast.mlp_vae((16,), latent_dim=2), vamp_vae])
def test_the_arguments_of_a_loss(build):
    """They reach the criterion, one by one."""
    vae, x, g = build(), torch.rand(3, 16), torch.Generator()
    mu, logvar = vae.encode(x)
    z = vae.reparameterize(mu, logvar, generator=g.manual_seed(0))
    options = {
        "beta": vaefast.schedules.linear(1, 4),
        "weight": torch.tensor([1.0, 0.0, 2.0]),
        "mask": torch.rand(3, 16) < 0.5,
    }
    plain = vae.loss(x, generator=g.manual_seed(0))
    assert plain.shape == ()
    sample = {} if vae.prior is None else {"z": z}
    for given in ({name: value} for name, value in options.items()):
        got, parts = vae.loss(x, generator=g.manual_seed(0), return_parts=True, **given)
        expected, wanted = vae.criterion(vae.decode(z), x, mu, logvar, return_parts=True, **sample, **given)
        torch.testing.assert_close((got, *parts), (expected, *wanted))
        assert got != plain and torch.equal(got, vae.loss(x, generator=g.manual_seed(0), **given))
    got = vae.loss(x, generator=g.manual_seed(0), **options)
    assert torch.equal(got, vae.criterion(vae.decode(z), x, mu, logvar, **sample, **options))
    assert vae.loss(x, beta=0, generator=g.manual_seed(0)) != plain  # 0 is an argument, too


def test_a_restored_model_samples_at_once():
    """Before it has encoded anything: the shape of z is not part of the state, but of the model."""
    trained = vaefast.VAE(nn.Linear(6, 4), nn.Linear(2, 6))
    trained.encode(torch.rand(1, 6))
    restored = vaefast.VAE(nn.Linear(6, 4), nn.Linear(2, 6), latent_shape=[2])
    restored.load_state_dict(trained.state_dict())
    g = torch.Generator()
    assert torch.equal(*(m.sample(3, generator=g.manual_seed(0)) for m in (trained, restored)))
    assert restored.latent_shape == trained.latent_shape == (2,)


def test_samples_of_x():
    """Without a gradient; with draw=True from p(x|z) and not its mean."""
    vae, g = vaefast.mlp_vae((500,), 2, likelihood=likelihoods.Gaussian(scale=0.5)), torch.Generator()
    mean, drawn = (vae.sample(40, draw=draw, generator=g.manual_seed(0)) for draw in (False, True))
    assert not mean.requires_grad and not drawn.requires_grad
    assert (drawn - mean).std().item() == pytest.approx(0.5, rel=0.02)  # 20,000 elements: a standard error of 0.5 %
    assert set(vaefast.mlp_vae((50,), 2).sample(4, draw=True).unique().tolist()) == {0.0, 1.0}


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


def test_a_model_without_parameters_samples():
    vae = vaefast.VAE(nn.Flatten(), nn.Identity(), latent_shape=(2,))
    assert vae.sample(3).shape == (3, 2)
    assert vae.double().sample(3).dtype is torch.float32  # it has no dtype: torch's default


def test_numpy_integers_are_integers():
    vae = vaefast.mlp_vae((np.int64(4),), np.int64(2), hidden_dims=(np.int32(8),))
    assert vae.sample(np.int64(3)).shape == (3, 4)


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
