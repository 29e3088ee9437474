"""The gallery's scripts learn. Each bound is held out, and has to go past the best model without z by a stated amount, a number
that depends on the data alone."""

import importlib
import math
import runpy
import sys

import pytest
import torch
from torch import distributions as D

from tests.support.native import ROOT
from vaefast import functional

pytest.importorskip("sklearn")
SCRIPTS = sorted(path.stem for path in (ROOT / "examples").glob("gallery_*.py"))


@pytest.fixture(autouse=True)
def _on_one_core():
    """Steps are short: on a busy machine threads would wait for one another."""
    torch.set_num_threads(1)


def script(name):
    return importlib.import_module(f"examples.gallery_{name}")


def test_each_is_tested_shown_and_short():
    page = (ROOT / "docs" / "gallery.md").read_text()
    names = ("convolutional", "counts", "hierarchical", "images", "mlp")
    assert [f"gallery_{name}" for name in names] == SCRIPTS
    for name in SCRIPTS:
        assert f"examples/{name}.py" in page and f"python -m examples.{name}" in page
        assert len((ROOT / "examples" / f"{name}.py").read_text().splitlines()) <= 80


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_run(name, monkeypatch, capsys):
    """As a user runs them, from the first line to the last, without training: the steps and their gradients do nothing. What
    training reaches, the tests below say."""
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: None)
    monkeypatch.setattr(torch.Tensor, "backward", lambda self: None)
    sys.modules.pop(f"examples.{name}", None)
    runpy.run_module(f"examples.{name}", run_name="__main__")
    said = {"gallery_convolutional": "bits per pixel", "gallery_images": "bits per dimension"}.get(name, "ELBO -")
    assert said in capsys.readouterr().out


def test_mlp():
    """At least 3 nats per sample past the pixels' frequencies, -24.31, and 20 past its start."""
    mlp = script("mlp")
    assert mlp.pixels_alone(*mlp.digits()) == pytest.approx(-24.31, abs=0.01)
    history = mlp.main(epochs=10)
    assert len(history) == 11
    assert -24.31 + 3 < history[-1] < -15  # 60 epochs reach -18.3
    assert history[-1] > history[0] + 20


def test_convolutional():
    """At least 0.1 bits per pixel below the pixels' histograms, 2.423, and 2 below its start."""
    convolutional = script("convolutional")
    images = convolutional.data.load("digits")
    assert convolutional.pixels_alone(images.train, images.test) == pytest.approx(2.423, abs=0.001)
    history = convolutional.main(epochs=30)
    assert 1.8 < history[-1] < 2.423 - 0.1  # 60 epochs reach 2.10
    assert history[-1] < history[0] - 2


def test_a_discretized_logistic_is_a_distribution_over_the_levels():
    """What makes its bits comparable: over the levels the probabilities add up to 1."""
    convolutional = script("convolutional")
    vae = convolutional.build()
    mean, log_scale = vae.decode(torch.randn(1, convolutional.LATENT))
    levels = torch.linspace(0, 1, convolutional.LEVELS)
    each = [
        vae.likelihood.log_prob((mean, log_scale), torch.full_like(mean, x), reduction="elementwise") for x in levels
    ]
    torch.testing.assert_close(torch.stack(each).exp().sum(0), torch.ones_like(mean), rtol=1e-5, atol=0)


def test_hierarchical():
    """At least 2 nats past the pixels' frequencies, with both layers in use; without free bits z2 is not."""
    hierarchical = script("hierarchical")
    history = hierarchical.main(epochs=10)
    assert -24.31 + 2 < history[-1]["elbo"] < -15
    assert history[-1]["elbo"] > history[0]["elbo"] + 20
    assert history[-1]["kl_top"] > 1.5
    assert history[-1]["kl"] - history[-1]["kl_top"] > 1.5
    assert hierarchical.main(epochs=5, free_bits=0.0)[-1]["kl_top"] < 0.1


def test_the_hierarchys_kl_is_that_of_its_distribution():
    """Both layers against torch.distributions, whose terms the script's model does not share."""
    hierarchical = script("hierarchical")
    model, x = hierarchical.Hierarchy(), torch.rand(6, 64).round()
    torch.manual_seed(1)
    terms = model(x)
    torch.manual_seed(1)  # the same noise again
    h = model.features(x)
    normals = []
    for encoded in (model.below(h), model.top(h)):
        mu, logvar = encoded.chunk(2, 1)
        normals.append(D.Normal(mu, (logvar / 2).exp()))
    q1, q2 = normals
    z2 = functional.reparameterize(q2.mean, 2 * q2.stddev.log())
    prior_mu, prior_logvar = model.prior(z2).chunk(2, 1)
    expected = D.kl_divergence(q2, D.Normal(0.0, 1.0)).sum(1)
    expected = expected + D.kl_divergence(q1, D.Normal(prior_mu, (prior_logvar / 2).exp())).sum(1)
    torch.testing.assert_close(terms.kl, expected, rtol=1e-4, atol=1e-5)


def test_counts():
    """The negative binomial ends at least 20 nats above the Poisson, and near the dispersion that made the data, 2."""
    counts = script("counts")
    result = counts.main(epochs=60)
    poisson, negative_binomial = result["poisson"], result["negative_binomial"]
    for history in (poisson, negative_binomial):
        assert history[-1] > history[0] + 100
    assert negative_binomial[-1] > poisson[-1] + 20
    assert negative_binomial[-1] < -111.3  # log p(x) under the data's distribution: no bound is above it
    assert result["dispersion"][0] == pytest.approx(counts.DISPERSION, rel=0.2)


def test_the_counts_have_the_spread_that_they_claim():
    """Var = m + m^2 / r, of many draws at one mean."""
    counts = script("counts")
    log_mean = torch.full((200_000, 1), math.log(5.0))
    likelihood = counts.likelihoods.NegativeBinomial()
    x = likelihood.sample((log_mean, torch.full_like(log_mean, math.log(counts.DISPERSION))))
    assert x.mean().item() == pytest.approx(5, rel=0.02)
    assert x.var().item() == pytest.approx(5 + 25 / counts.DISPERSION, rel=0.04)
    assert counts.counts(50).shape == (50, counts.FEATURES)


def test_images():
    """Coupled colors take at least 0.1 bits per dimension less than independent ones, and 1 less than before training."""
    history = script("images").main(epochs=10)
    assert history["coupled"][-1] < history["independent"][-1] - 0.1
    assert history["coupled"][-1] < history["coupled"][0] - 1
