"""VAE: its builders, methods and state, and training."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import vaefast
from tests.support.models import GaussianPrior, vamp_vae
from vaefast import likelihoods
from vaefast.priors import VampPrior


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


class Returns(nn.Module):
    """A decoder that returns this, whatever z."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, z):
        return self.value


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
        (lambda: vaefast.VAE(nn.Linear(4, 2), Returns(None)).bounds(x, 2), TypeError, "VAE: a decoder must return a torch.Tensor or a tuple of them, got NoneType"),
        (lambda: vaefast.VAE(nn.Linear(4, 2), Returns((x, None))).bounds(x, 2), TypeError, r"or a tuple of them, got \(Tensor, NoneType\)"),
        (lambda: vaefast.VAE(nn.Linear(4, 2), Returns(())).bounds(x, 2), TypeError, r"or a tuple of them, got \(\)"),
        (lambda: vaefast.VAE(nn.Linear(4, 2), Returns(torch.zeros(5, 4))).bounds(x, 2), ValueError, r"a decoder must return 2 rows for 2 of z, got \(5, 4\)"),
        (lambda: vaefast.VAE(nn.Linear(4, 2), Returns((x.sum(), x))).bounds(x, 2), ValueError, r"a decoder must return 2 rows for 2 of z, got \(\)"),
        (lambda: vae.decode_samples(None), TypeError, "VAE.decode_samples: z must be a torch.Tensor, got NoneType"),
        (lambda: vae.decode_samples(x[0]), ValueError, r"VAE.decode_samples: z must have shape \(K, B, L\), got \(4,\)"),
        (lambda: vae.loss(None), TypeError, "vaefast.VAE: x must be a torch.Tensor, got NoneType"),
        (lambda: vae.log_likelihood([1.0]), TypeError, "vaefast.VAE: x must be a torch.Tensor, got list"),
        (lambda: vaefast.VAE(nn.Linear(4, 2), Returns(None)).reconstruct(x), TypeError, "Bernoulli: recon_x must be a torch.Tensor, got NoneType"),
        (lambda: setattr(vae, "criterion", vaefast.IWAELoss()), TypeError, "IWAELoss takes several samples; call it with decode_samples"),
        (lambda: vaefast.VAE(nn.Linear(4, 2), nn.Linear(1, 4), prior=VampPrior), TypeError, "prior must be an object with log_prob and sample, got the class VampPrior"),
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
    torch.set_num_threads(1)  # small tensors, many steps
    vae = vaefast.VAE(
        nn.Linear(64, 2 * k), nn.Linear(k, 64), likelihood=likelihoods.Gaussian(scale=0.3, learn_scale=True)
    )
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2000)
    for _ in range(2000):
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
    with pytest.raises(TypeError, match="prior must be an object with log_prob and sample, got torch.nn.*Linear"):
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


def test_the_shape_of_a_sample_is_the_given_one_or_the_first():
    """A convolutional model takes images of any size, and each has another shape of z."""
    conv = nn.Conv2d(1, 4, 1)
    first, given = vaefast.VAE(conv, nn.Identity()), vaefast.VAE(conv, nn.Identity(), latent_shape=(2, 3, 3))
    for size in (5, 6):
        for vae in (first, given):
            assert vae.encode(torch.rand(1, 1, size, size))[0].shape == (1, 2, size, size)
    assert first.sample(1).shape == (1, 2, 5, 5) and given.sample(1).shape == (1, 2, 3, 3)


def test_samples_of_x():
    """Without a gradient; with draw=True from p(x|z) and not its mean."""
    vae, g = vaefast.mlp_vae((500,), 2, likelihood=likelihoods.Gaussian(scale=0.5)), torch.Generator()
    mean, drawn = (vae.sample(40, draw=draw, generator=g.manual_seed(0)) for draw in (False, True))
    assert not mean.requires_grad and not drawn.requires_grad
    assert (drawn - mean).std().item() == pytest.approx(0.5, rel=0.02)  # 20,000 elements: a standard error of 0.5 %
    assert set(vaefast.mlp_vae((50,), 2).sample(4, draw=True).unique().tolist()) == {0.0, 1.0}


def test_a_model_without_parameters_samples():
    vae = vaefast.VAE(nn.Flatten(), nn.Identity(), latent_shape=(2,))
    assert vae.sample(3).shape == (3, 2)
    assert vae.double().sample(3).dtype is torch.float32  # it has no dtype: torch's default


def test_a_subclass_may_hold_another_loss():
    class Own(vaefast.VAE):
        def __init__(self):
            super().__init__(nn.Linear(6, 4), nn.Linear(2, 6))
            self.iwae = vaefast.IWAELoss()

    assert Own().loss(torch.rand(3, 6)).isfinite()


def test_numpy_integers_are_integers():
    vae = vaefast.mlp_vae((np.int64(4),), np.int64(2), hidden_dims=(np.int32(8),))
    assert vae.sample(np.int64(3)).shape == (3, 4)
