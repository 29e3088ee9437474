"""The examples: that a host's training is the same before and after its change, and that the host's own trainer runs.

`differences` takes 20 steps to compare losses, and 20 more to compare gradients. float32 has 2^-24 = 6e-8 a rounding; in float64
the two must agree to what is left of rounding there, so that nothing hides in a tolerance.
"""

import importlib
import json
import math
import runpy
import subprocess
import sys
from dataclasses import replace
from unittest import mock

import pytest
import torch
from torch.nn import functional as F

import vaefast
from tests.support.native import ROOT

pytest.importorskip("sklearn")
pytest.importorskip("rich")
from benchmarks import report  # noqa: E402
from examples import __main__ as command  # noqa: E402
from examples import compare  # noqa: E402

HOSTS = {
    "pytorch_examples": "torch",
    "pythae_models": "pythae",
    "diffusers_autoencoder": "diffusers",
    "lightning_module": "lightning",
    "accelerate_loop": "accelerate",
    "pyro_check": "pyro",
    "scvi_tools": "scvi",
}


@pytest.fixture(autouse=True)
def _on_one_core(monkeypatch):
    """Steps are short: on a busy machine threads would wait for one another. Accelerate picks its device once a process."""
    torch.set_num_threads(1)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def example(name):
    pytest.importorskip(HOSTS[name])
    return importlib.import_module(f"examples.{name}")


def pairs(name):
    small = {"genes": (200,)} if name == "scvi_tools" else {}
    return example(name).pairs(**small)


def test_every_example_is_here():
    assert list(HOSTS) == command.MODULES
    files = {file.stem for file in (ROOT / "examples").glob("*.py") if not file.stem.startswith("gallery_")}
    assert files == {*HOSTS, "__init__", "__main__", "compare"}


@pytest.mark.parametrize("name", HOSTS)
def test_losses_and_gradients_are_the_hosts(name):
    for pair in pairs(name):
        loss, gradient = compare.differences(pair)
        assert loss < 1e-5, pair.host
        assert gradient < 1e-4, pair.host


@pytest.mark.parametrize("name", HOSTS)
def test_only_rounding_is_left_in_float64(name):
    for pair in pairs(name):
        for side in (pair.before, pair.after, pair.reference):
            if side:
                side.module.double()
        loss, gradient = compare.differences(replace(pair, data=pair.data.double()), steps=5)
        assert loss < 1e-13, pair.host
        assert gradient < 1e-11, pair.host


@pytest.mark.parametrize("name", HOSTS)
def test_scripts_run(name, capsys):
    example(name)
    sys.modules.pop(f"examples.{name}")
    runpy.run_module(f"examples.{name}", run_name="__main__")
    assert "loss" in capsys.readouterr().out


def test_pytorch_examples_trains_alike():
    host = example("pytorch_examples")
    histories = []
    for criterion in (host.before, host.after):
        torch.manual_seed(1)
        histories.append(host.train(criterion, epochs=2))
    assert histories[0] == pytest.approx(histories[1], rel=1e-5)
    assert histories[1][1] < 0.8 * histories[1][0]


@pytest.mark.parametrize("name", ["VAE", "BetaVAE", "IWAE"])
def test_pythaes_trainer_trains_alike(name, tmp_path):
    """With its pipeline and its seed, and a saved model is read back with vaefast's loss in it."""
    host = example("pythae_models")
    theirs = (host.RightIWAE if name == "IWAE" else getattr(host.pythae.models, name))(host.config(name))
    kind = getattr(host, name)
    ours = kind(host.config(name))
    ours.load_state_dict(theirs.state_dict())
    inputs = {"data": host.digits()}

    def loss(model):
        torch.manual_seed(0)
        return model.eval()(inputs).loss.item()

    first = loss(ours)
    assert first == pytest.approx(loss(theirs), rel=1e-5)
    pipelines = [host.train(model, str(tmp_path / model.__module__)) for model in (theirs, ours)]
    last = loss(ours)
    assert last == pytest.approx(loss(theirs), rel=1e-5)
    assert last < 0.9 * first
    saved = kind.load_from_folder(f"{pipelines[1].trainer.training_dir}/final_model")
    assert type(saved) is kind
    assert loss(saved) == pytest.approx(loss(pipelines[1].trainer.model), rel=1e-6)


@pytest.mark.parametrize("name", ["VAE", "BetaVAE", "IWAE"])
@pytest.mark.parametrize("reconstruction_loss", ["bce", "mse"])
def test_pythaes_outputs(name, reconstruction_loss):
    """Every part that pythae records, and the gradients, for both of its likelihoods."""
    host = example("pythae_models")
    theirs = getattr(host.pythae.models, name)(host.config(name, reconstruction_loss))
    ours = getattr(host, name)(host.config(name, reconstruction_loss))
    ours.load_state_dict(theirs.state_dict())
    outputs = []
    for model in (theirs, ours):
        torch.manual_seed(0)
        outputs.append(model({"data": host.digits()[:64]}))
        outputs[-1].loss.backward()
    constant = 64 * math.log(2 * math.pi) / 2 if reconstruction_loss == "mse" else 0.0
    expected, actual = outputs
    assert actual.recon_loss.item() == pytest.approx(expected.recon_loss.item() + constant, rel=1e-5)
    assert actual.reg_loss.item() == pytest.approx(expected.reg_loss.item(), rel=1e-5)
    if name != "IWAE":
        assert actual.loss.item() == pytest.approx(expected.loss.item() + constant, rel=1e-5)
    for p, q in zip(theirs.parameters(), ours.parameters(), strict=True):
        assert compare.relative(q.grad, p.grad) < 1e-4


def test_pythaes_iwae_does_not_return_its_bound():
    """Its value is E[-log w_k] under the normalized weights v; the bound's is that plus log K - entropy of v, which is 0 only
    where all weights are equal."""
    host = example("pythae_models")
    model = host.pythae.models.IWAE(host.config("IWAE")).double()
    seen = []
    with mock.patch.object(model, "loss_function", lambda *args: seen.append(args) or [torch.zeros(())] * 3):
        model({"data": host.digits()[:64].double()})
    recon_x, x, mu, log_var, z = seen[0]
    q, p = torch.distributions.Normal(mu, (0.5 * log_var).exp()), torch.distributions.Normal(0.0, 1.0)
    fit = torch.distributions.Bernoulli(probs=recon_x, validate_args=False).log_prob(x.flatten(1).unsqueeze(1)).sum(-1)
    log_w = fit + p.log_prob(z).sum(-1) - q.log_prob(z).sum(-1)
    v = log_w.softmax(1)
    gap = (math.log(5) + (v * v.log()).sum(1)).mean()
    bound = (log_w.logsumexp(1) - math.log(5)).mean()
    value = model.loss_function(*seen[0])[0]
    torch.testing.assert_close(
        value + gap, -bound, rtol=1e-6, atol=0
    )  # Bernoulli clamps probabilities at float64's eps
    assert gap > 0.05
    ours = host.IWAE(host.config("IWAE")).double()
    torch.testing.assert_close(ours.loss_function(*seen[0])[0], -bound, rtol=1e-6, atol=0)


def gaussians(kind):
    """diffusers' distribution of parameters that its clamp meets on both sides, and the parameters."""
    parameters = torch.randn(4, 6, 3, 3, generator=torch.Generator().manual_seed(3))
    parameters[:, 3:] *= 20
    assert (parameters[:, 3:] < -30).any() and (parameters[:, 3:] > 20).any()
    parameters.requires_grad_()
    return kind(parameters), parameters


def test_diffusers_clamp_and_reductions():
    host = example("diffusers_autoencoder")
    other = host.DiagonalGaussianDistribution(torch.randn(4, 6, 3, 3))
    for prior in ((), (other,)):
        kls, gradients = [], []
        for kind in (host.DiagonalGaussianDistribution, host.FusedGaussian):
            posterior, parameters = gaussians(kind)
            kls.append(posterior.kl(*prior))
            gradients += torch.autograd.grad(kls[-1].sum(), parameters)
        assert kls[0].shape == kls[1].shape == (4,)
        torch.testing.assert_close(kls[1], kls[0], rtol=1e-6, atol=0)
        torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-6, atol=1e-6)
        beyond = (parameters[:, 3:] < -30) | (parameters[:, 3:] > 20)
        assert (gradients[1][:, 3:][beyond] == 0).all()


def test_diffusers_samples():
    host = example("diffusers_autoencoder")
    ours, _ = gaussians(host.FusedGaussian)
    seed = lambda k: torch.Generator().manual_seed(k)  # noqa: E731
    first = ours.sample(seed(1))
    assert torch.equal(first, ours.sample(seed(1))) and not torch.equal(first, ours.sample(seed(2)))
    eps = compare.vaefasts_noise(first.shape, generator=seed(1))
    torch.testing.assert_close(first, ours.mean + ours.std * eps, rtol=1e-5, atol=1e-5)
    parameters = torch.zeros(1, 2, 300, 300)
    standard = host.FusedGaussian(parameters).sample()
    assert standard.shape == (1, 1, 300, 300)
    assert abs(standard.mean()) < 4 / 300 and abs(standard.var() - 1) < 4 * math.sqrt(2) / 300  # four standard errors
    # what is left to diffusers
    theirs, _ = gaussians(host.DiagonalGaussianDistribution)
    each = [ours.sample([seed(k) for k in range(4)]), theirs.sample([seed(k) for k in range(4)])]
    torch.testing.assert_close(*each, rtol=0, atol=0)
    fixed = host.FusedGaussian(ours.parameters.detach(), deterministic=True)
    assert torch.equal(fixed.sample(), fixed.mean) and torch.equal(fixed.kl(), torch.zeros(1))


def test_diffusers_model_as_a_whole(tmp_path):
    host = example("diffusers_autoencoder")
    model, x = host.tiny(), host.digits()[:4]
    model.save_pretrained(tmp_path)
    model = host.FusedAutoencoderKL.from_pretrained(tmp_path)
    (posterior,) = model.encode(x, return_dict=False)
    assert type(posterior) is type(model.encode(x).latent_dist) is host.FusedGaussian
    samples = [model(x, sample_posterior=True, generator=torch.Generator().manual_seed(k)).sample for k in (0, 0, 1)]
    assert torch.equal(samples[0], samples[1]) and not torch.equal(samples[0], samples[2])
    history = host.train(epochs=2)
    assert history[1] < 0.9 * history[0]


def test_lightnings_trainer_trains_alike():
    host = example("lightning_module")
    losses = []
    for criterion in (host.before, host.after):
        host.lightning.seed_everything(0, verbose=False)
        losses.append(torch.stack(host.train(host.LitVAE(criterion), epochs=2).losses))
    assert len(losses[0]) == 2 * 23
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=0)
    assert losses[1][-5:].mean() < 0.9 * losses[1][:5].mean()


def test_accelerates_loop_trains_alike():
    host = example("accelerate_loop")
    histories = []
    for criterion in (host.before, host.after):
        torch.manual_seed(1)
        histories.append(host.train(criterion, epochs=2))
    assert histories[0] == pytest.approx(histories[1], rel=1e-5)
    assert histories[1][1] < 0.9 * histories[1][0]


def accumulated(host, batches, steps):
    """Gradients after an update that accumulates, and loss; the noise is 0."""
    torch.manual_seed(0)
    accelerator = host.Accelerator(cpu=True, gradient_accumulation_steps=steps)
    module = host.VAE()
    model, optimizer = accelerator.prepare(module, torch.optim.SGD(module.parameters(), 0.0))
    with mock.patch("torch.randn_like", torch.zeros_like):
        loss = host.update(accelerator, model, optimizer, batches)
    return [p.grad for p in module.parameters()], loss


def in_one_piece(host, x):
    """The same by the mean over samples, without Accelerate."""
    torch.manual_seed(0)
    module = host.VAE()
    with mock.patch("torch.randn_like", torch.zeros_like):
        recon_x, mu, logvar = module(x)
    loss = vaefast.ELBOLoss("bernoulli")(recon_x, x, mu, logvar)
    return torch.autograd.grad(loss, list(module.parameters())), loss.detach()


def test_accumulated_gradients_are_those_of_the_whole_batch():
    host = example("accelerate_loop")
    x = host.digits()[:45].flatten(1)
    whole, loss = in_one_piece(host, x)
    for sizes in ([16, 16, 13], [10, 20, 1, 14]):  # a short last batch; fewer batches than steps
        parts, same = accumulated(host, x.split(sizes), host.MICRO_BATCHES)
        torch.testing.assert_close(same, loss, rtol=1e-5, atol=0)
        assert max(map(compare.relative, parts, whole)) < 1e-5


def test_accumulated_gradients_of_two_processes(tmp_path):
    host = example("accelerate_loop")
    x = host.digits()[:48].flatten(1)
    whole, loss = in_one_piece(host, x)
    script = tmp_path / "two.py"
    script.write_text(f"""
import os, sys; sys.path.insert(0, {str(ROOT)!r})
import torch
from examples import accelerate_loop as host
from tests.docs.test_examples import accumulated
rank = int(os.environ['RANK'])
x = host.digits()[:48].flatten(1)
mine = (x[:20].split(10), x[20:].split(7))[rank]  # 20 and 28 samples, in 2 and 4 micro-batches
result = accumulated(host, mine, host.MICRO_BATCHES)
if rank == 0: torch.save(result, {str(tmp_path / "result")!r})
torch.distributed.barrier()  # without it a process aborted at its exit now and then
torch.distributed.destroy_process_group()
""")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(launch, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    parts, same = torch.load(tmp_path / "result")
    torch.testing.assert_close(same, loss, rtol=1e-5, atol=0)
    assert max(map(compare.relative, parts, whole)) < 1e-5


def test_pyros_svi_trains_alike():
    """Pyro's own trainer beside a plain training step with vaefast's loss."""
    host = example("pyro_check")
    pyro, pair = host.pyro, host.pairs()[0]
    theirs = host.VAE()
    theirs.load_state_dict(pair.after.module.state_dict())
    pyro.clear_param_store()
    optimizer = pyro.optim.Adam({"lr": 1e-3})
    svi = pyro.infer.SVI(theirs.model, theirs.guide, optimizer, loss=host.TraceMeanField_ELBO())
    for k, x in enumerate(pair.batches(20)):
        torch.manual_seed(k)
        with mock.patch(pair.noise, compare.vaefasts_noise):
            expected = svi.step(x)
        torch.manual_seed(k)
        assert pair.after.step(x).item() == pytest.approx(expected, rel=1e-5)


def test_scvis_trainer_trains_alike():
    host = example("scvi_tools")
    theirs, ours = (host.train(kind, epochs=2).history for kind in (host.scvi.model.SCVI, host.SCVI))
    for name in ("train_loss", "elbo_train", "kl_local_train"):
        assert ours[name][name].tolist() == pytest.approx(theirs[name][name].tolist(), rel=1e-5)
    assert ours["train_loss"]["train_loss"][1] < 0.97 * ours["train_loss"]["train_loss"][0]


def test_scvis_options():
    """A dispersion for each cell and an inferred library; what is left to scvi-tools."""
    host = example("scvi_tools")
    x, zero = host.counts(50, 64), torch.zeros(64, 1, dtype=torch.long)
    one = zero[:1].numpy() + 1
    library = {"use_observed_lib_size": False, "library_log_means": 7 * one, "library_log_vars": one}
    cases = ({"dispersion": "gene-cell"}, 1), (library, 1), ({"gene_likelihood": "nb"}, 1), ({}, 2)
    for options, samples in cases:
        losses = []
        for kind in (host.scvi.module.VAE, host.VAE):
            torch.manual_seed(0)
            module = kind(50, n_batch=1, **options)
            outputs = module({"X": x, "batch": zero, "labels": zero}, inference_kwargs={"n_samples": samples})
            losses.append(outputs[-1].loss)
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=0)


def test_a_run_ends_in_a_table_and_a_file(tmp_path, monkeypatch, capsys):
    file = tmp_path / "hosts.json"
    monkeypatch.setattr(sys, "argv", ["examples", "--seconds", "0.01", "--json", str(file)])
    monkeypatch.setattr(command, "MODULES", ["a_host_that_is_not_here", "pytorch_examples"])
    command.main()
    out, err = capsys.readouterr()
    assert "a_host_that_is_not_here" in err and "pytorch/examples VAE" in out
    results = json.loads(file.read_text())
    assert results["stamp"]["torch"] == torch.__version__
    assert results["hosts"][0]["milliseconds"]["before"] > 0
    text = command.section(results)
    assert "| pytorch/examples VAE | torch" in text
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{command.BEGIN}old\n{command.END}after\n")
    for _ in range(2):
        report.rewrite(text, command.BEGIN, command.END, readme)
        assert readme.read_text() == f"before\n{command.BEGIN}{text}{command.END}after\n"


def test_the_page_shows_the_committed_results():
    page, file = command.PAGE.read_text(), command.RESULTS / "hosts.json"
    shown = page[page.index(command.BEGIN) + len(command.BEGIN) : page.index(command.END)]
    assert shown == command.section(report.load(file))


def test_a_difference_is_seen():
    """A loss that is another, and one whose gradient alone is: what differences() must not miss."""
    host = example("pytorch_examples")
    (pair,) = host.pairs()
    for change, seen in (
        (lambda v: 1.001 * v, (True, True)),
        (lambda v: 1.001 * v - 0.001 * v.detach(), (False, True)),
    ):
        model = host.VAE()

        def loss(x, model=model, change=change):
            recon_x, mu, logvar = model(x)
            return change(host.after(recon_x, x, mu, logvar))

        worst = compare.differences(replace(pair, after=compare.side(model, loss)), steps=1)
        assert tuple(value > 5e-4 for value in worst) == seen


def test_the_hand_written_loss_is_the_definition():
    """`before` of pytorch/examples against torch.distributions, so that the comparison rests on something."""
    host = example("pytorch_examples")
    probs, x, mu, logvar = torch.rand(5, 7), torch.rand(5, 7).round(), torch.randn(5, 2), torch.randn(5, 2)
    q, p = torch.distributions.Normal(mu, (0.5 * logvar).exp()), torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(q, p).sum() + F.binary_cross_entropy(probs, x, reduction="sum")
    torch.testing.assert_close(host.before(probs, x, mu, logvar), expected)
