"""ELBOLoss against the losses that people write; in every precision, retained, pickled, and told upstream gradients."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import vaefast
from tests.support.cases import LOSS_SHAPES, loss_inputs
from vaefast import ELBOLoss, likelihoods
from vaefast import functional as VF


def pytorch_examples(recon_x, x, mu, logvar):
    """The loss of pytorch/examples: probabilities, everything summed."""
    bce = F.binary_cross_entropy(recon_x, x, reduction="sum")
    return bce - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())


@pytest.mark.parametrize("shapes", LOSS_SHAPES, ids=str)
def test_equals_pytorch_examples(shapes):
    """Loss and gradients to 2e-6, with the encoder's head chunked in two, from probabilities and from logits."""
    logits, x, _, _ = loss_inputs(*shapes)
    head = torch.randn(shapes[1][0], 2 * shapes[1][1], *shapes[1][2:])

    def run(function):
        leaves = [logits.clone().requires_grad_(), head.clone().requires_grad_()]
        loss = function(leaves[0], x, *leaves[1].chunk(2, 1))
        return loss.item(), torch.autograd.grad(loss, leaves)

    expected, expected_grads = run(lambda l, *rest: pytorch_examples(torch.sigmoid(l), *rest))
    for function in (
        lambda l, *rest: ELBOLoss("bernoulli_probs", reduction="sum")(torch.sigmoid(l), *rest),
        lambda l, *rest: ELBOLoss("bernoulli", reduction="sum")(l, *rest),
        lambda l, *rest: ELBOLoss("bernoulli", reduction="sum", inplace=True)(l * 1, *rest),
        lambda l, *rest: ELBOLoss("bernoulli", reduction="none")(l, *rest).sum(),
    ):
        loss, grads = run(function)
        assert loss == pytest.approx(expected, rel=2e-6)
        for g, e in zip(grads, expected_grads, strict=True):
            torch.testing.assert_close(g, e, rtol=2e-6, atol=2e-6)


def test_mean_is_over_samples_of_sums():
    args = loss_inputs(*LOSS_SHAPES[0])
    none = ELBOLoss(reduction="none")(*args)
    assert none.shape == (128,)
    torch.testing.assert_close(ELBOLoss()(*args), none.mean(), rtol=1e-6, atol=0)
    torch.testing.assert_close(ELBOLoss(reduction="sum")(*args), none.sum(), rtol=1e-6, atol=0)


def test_parts_are_differentiable():
    recon_x, x, mu, logvar = loss_inputs((6, 20), (6, 3), torch.float64)
    leaves = [t.requires_grad_() for t in (recon_x, mu, logvar)]
    loss, parts = ELBOLoss()(recon_x, x, mu, logvar, return_parts=True)
    got = torch.autograd.grad(loss + parts.kl.square().sum() - parts.log_likelihood.sin().sum(), leaves)
    fit, kl = VF.bernoulli_log_likelihood(recon_x, x), VF.gaussian_kl(mu, logvar)
    expected = torch.autograd.grad((kl - fit).mean() + kl.square().sum() - fit.sin().sum(), leaves)
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-12, atol=1e-12)


USES = {  # which of the outputs a backward pass starts from
    "log-likelihood": lambda loss, parts: parts.log_likelihood.sin().sum(),
    "KL": lambda loss, parts: parts.kl.square().sum(),
    "both parts": lambda loss, parts: parts.kl.square().sum() - parts.log_likelihood.sin().sum(),
    "loss": lambda loss, parts: loss,
    "loss, log-likelihood": lambda loss, parts: loss * 2 + parts.log_likelihood.sin().sum(),
    "loss, KL": lambda loss, parts: loss * 2 + parts.kl.square().sum(),
    "ELBO": lambda loss, parts: parts.elbo.square().sum(),
}


@pytest.mark.parametrize("required", ["all", "recon_x", "mu", "logvar", "weight", "beta", "latents, beta"])
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("how", ["once", "again", "create_graph"])
def test_a_backward_pass_from_any_part(use, required, how):
    """Each output reaches its own inputs and no others, whichever of them require a gradient."""
    batch, names = 7, ("recon_x", "mu", "logvar", "prior_mu", "prior_logvar", "weight", "beta")
    tensors = [
        *torch.randn(5, batch, 4, dtype=torch.float64),
        torch.rand(batch, dtype=torch.float64),
        torch.tensor(0.3).double(),
    ]
    x = torch.rand(batch, 4, dtype=torch.float64)
    wanted = {"all": names, "latents, beta": (*names[1:5], "beta")}.get(required, (required,))

    def gradients(function):
        leaves = {n: t.clone().requires_grad_(n in wanted) for n, t in zip(names, tensors, strict=True)}
        value = USES[use](*function(**leaves))
        sources = [leaves[name] for name in wanted]
        if not value.requires_grad:
            return [None] * len(sources)
        if how == "again":
            torch.autograd.grad(value, sources, retain_graph=True, allow_unused=True)
        return torch.autograd.grad(value, sources, create_graph=how == "create_graph", allow_unused=True)

    def fused(recon_x, mu, logvar, prior_mu, prior_logvar, weight, beta):
        prior = {"prior_mu": prior_mu, "prior_logvar": prior_logvar}
        return ELBOLoss()(recon_x, x, mu, logvar, **prior, weight=weight, beta=beta, return_parts=True)

    def plain(recon_x, mu, logvar, prior_mu, prior_logvar, weight, beta):
        fit = vaefast.reference.row_sum("bernoulli", (recon_x, x))
        kl = vaefast.reference.row_sum("gaussian_kl_pair", (mu, logvar, prior_mu, prior_logvar))
        return (weight * (beta * kl - fit)).mean(), VF.ELBO(fit - beta * kl, fit, kl)

    for name, got, expected in zip(wanted, gradients(fused), gradients(plain), strict=True):
        zero = torch.zeros_like(tensors[names.index(name)])
        got, expected = (zero if g is None else g for g in (got, expected))
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_gradient_by_weights_is_rounded_once(dtype):
    """Its two halves, by the log-likelihood and the KL, may each be beyond the weight's type."""
    recon_x, x, logvar = torch.zeros(3, 50), torch.full((3, 50), 52.0), torch.zeros(3, 2)
    mu = torch.full((3, 2), 200.0)
    weight = torch.ones(3, dtype=dtype, requires_grad=True)
    loss, parts = ELBOLoss("gaussian", reduction="sum", beta=0.1)(
        recon_x, x, mu, logvar, weight=weight, return_parts=True
    )
    (got,) = torch.autograd.grad(loss, weight)
    expected = (0.1 * parts.kl - parts.log_likelihood).detach()
    assert parts.log_likelihood[0] < -65504
    torch.testing.assert_close(got, expected.to(dtype))


def test_parts_agree_with_functional_elbo():
    args = loss_inputs(*LOSS_SHAPES[2])
    _, parts = ELBOLoss(beta=0.5)(*args, return_parts=True)
    elbo = VF.elbo(*args, beta=0.5)
    assert type(parts) is type(elbo) is VF.ELBO  # one tuple, in one order
    for name in ("elbo", "log_likelihood", "kl"):
        assert getattr(parts, name).shape == (33,)
        torch.testing.assert_close(getattr(parts, name), getattr(elbo, name), rtol=1e-6, atol=0)


def test_uint8_images():
    image = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    logits, z = torch.randn(4, 3, 8, 8), torch.zeros(4, 2)
    expected = ELBOLoss()(logits, image / 255, z, z)
    torch.testing.assert_close(ELBOLoss(target_scale=1 / 255)(logits, image, z, z), expected, rtol=1e-6, atol=0)
    likelihood = likelihoods.Bernoulli(target_scale=1 / 255)
    torch.testing.assert_close(ELBOLoss(likelihood)(logits, image, z, z), expected, rtol=1e-6, atol=0)


def test_gaussian_scales():
    mean, x = torch.randn(8, 50, dtype=torch.float64), torch.randn(8, 50, dtype=torch.float64)
    normal = torch.distributions.Normal
    fixed = likelihoods.Gaussian(scale=0.5)
    torch.testing.assert_close(fixed.log_prob(mean, x), normal(mean, 0.5).log_prob(x).sum(1))
    learned = likelihoods.Gaussian(scale=2.0, learn_scale=True).double()
    value = learned.log_prob(mean, x).sum()
    value.backward()
    torch.testing.assert_close(value, normal(mean, 2.0).log_prob(x).sum())
    expected = 0.5 * ((x - mean).square() / 4 - 1).sum()  # d log N / d logvar
    torch.testing.assert_close(learned.logvar.grad, expected, rtol=1e-6, atol=0)
    assert [name for name, _ in learned.named_parameters()] == ["logvar"]
    optimal = likelihoods.Gaussian(optimal_scale=True)
    best = optimal.log_prob(mean, x).sum()
    sigma = (x - mean).square().mean().sqrt()
    torch.testing.assert_close(best, normal(mean, sigma).log_prob(x).sum())
    assert best > normal(mean, sigma * 1.01).log_prob(x).sum()
    mean.requires_grad_()
    got = torch.autograd.grad(optimal.log_prob(mean, x).sum(), mean)[0]
    sigma = (x - mean).square().mean().sqrt()
    expected = torch.autograd.grad(normal(mean, sigma).log_prob(x).sum(), mean)[0]
    torch.testing.assert_close(got, expected)


def test_likelihood_means_and_samples():
    logits = torch.randn(20_000, 3)
    bernoulli = likelihoods.Bernoulli()
    torch.testing.assert_close(bernoulli.mean(logits), torch.sigmoid(logits))
    draws = bernoulli.sample(torch.zeros(20_000, 3))
    assert set(draws.unique().tolist()) == {0.0, 1.0} and abs(draws.mean() - 0.5) < 0.02
    gaussian = likelihoods.Gaussian(scale=0.1)
    assert abs((gaussian.sample(logits) - logits).std() - 0.1) < 0.002
    pair = (logits, torch.full_like(logits, 2.0))
    gaussian = likelihoods.Gaussian()
    assert abs((gaussian.sample(pair) - logits).std() - torch.e) < 0.05 and gaussian.mean(pair) is logits


def test_a_users_own_likelihood():
    class Laplace(nn.Module):
        def log_prob(self, recon_x, x, *, mask=None, batch_dims=1):
            return torch.distributions.Laplace(recon_x, 1.0).log_prob(x).sum(1)

    recon_x, x, mu, logvar = loss_inputs((5, 6), (5, 2))
    loss = ELBOLoss(Laplace())(recon_x, x, mu, logvar)
    expected = (VF.gaussian_kl(mu, logvar) - Laplace().log_prob(recon_x, x)).mean()
    torch.testing.assert_close(loss, expected)


def test_three_operator_calls():
    """A forward and a backward pass of the loss are three calls into the library, one inside the other."""
    args = [t.requires_grad_(k != 1) for k, t in enumerate(loss_inputs(*LOSS_SHAPES[0]))]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        ELBOLoss()(*args).backward()
    names = [e.name for e in profile.events() if e.name.startswith("vaefast::")]
    assert names == ["vaefast::elbo_loss", "vaefast::elbo", "vaefast::scale_"]


@pytest.mark.parametrize("option", ["", "weight", "beta", "inplace"])
def test_every_way_through_backward_agrees(option):
    """The kept gradients, the parts beside the loss, a second pass over a retained graph, and create_graph."""
    args = loss_inputs(*LOSS_SHAPES[1])
    inplace = option == "inplace"
    options = {"weight": {"weight": torch.rand(7)}, "beta": {"beta": torch.tensor(0.3)}}.get(option, {})

    def grads(parts=False, **how):
        leaves = [t.clone().requires_grad_() for t in (args[0], *args[2:])]
        loss = ELBOLoss(inplace=inplace)(leaves[0] * 1, args[1], *leaves[1:], return_parts=parts, **options)
        loss = loss[0] if parts else loss
        if how.pop("twice", False):
            torch.autograd.grad(loss, leaves, torch.tensor(3.0), retain_graph=True)
        return torch.autograd.grad(loss, leaves, torch.tensor(0.7), **how)

    expected = grads()
    ways = (
        [{"parts": True}]
        if inplace
        else [{"parts": True}, {"twice": True}, {"create_graph": True}, {"twice": True, "parts": True}]
    )
    for way in ways:
        for g, e in zip(grads(**way), expected, strict=True):
            torch.testing.assert_close(g, e, rtol=2e-6, atol=1e-7)


def test_upstream_gradient_scales():
    args = [t.requires_grad_(k != 1) for k, t in enumerate(loss_inputs(*LOSS_SHAPES[1]))]
    leaves = [args[0], *args[2:]]
    one = torch.autograd.grad(ELBOLoss()(*args), leaves)
    for factor in (0.0, -2.5, 65536.0):
        scaled = torch.autograd.grad(ELBOLoss()(*args), leaves, torch.tensor(factor))
        for s, o in zip(scaled, one, strict=True):
            torch.testing.assert_close(s, factor * o, rtol=1e-6, atol=0)


def test_module_behaves():
    criterion = ELBOLoss(likelihoods.Gaussian(learn_scale=True), beta=0.5)
    for twin in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        args = loss_inputs(*LOSS_SHAPES[1])
        assert torch.equal(twin(*args), criterion(*args))
    assert list(criterion.state_dict()) == ["likelihood.logvar"] and not ELBOLoss().state_dict()
    assert repr(ELBOLoss(beta=4)).startswith("ELBOLoss(\n  beta=4, reduction='mean'")
    assert vaefast.__version__


def test_under_autocast_it_is_computed_in_float32():
    """A bfloat16 output of the decoder has the loss of the same numbers in float32, and its gradient is rounded once."""
    layer, hidden = nn.Linear(16, 30), torch.randn(4, 16)
    x, mu, logvar = torch.rand(4, 30), torch.randn(4, 2), torch.randn(4, 2)
    with torch.autocast(torch.get_default_device().type, torch.bfloat16):
        logits = layer(hidden)
        assert logits.dtype == torch.bfloat16
        loss = ELBOLoss()(logits, x, mu, logvar)
    assert loss.dtype == torch.float32
    (got,) = torch.autograd.grad(loss, logits, retain_graph=True)
    wide = logits.detach().float().requires_grad_()
    expected = ELBOLoss()(wide, x, mu, logvar)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(expected, wide)
    torch.testing.assert_close(got.float(), gradient, rtol=2**-8, atol=0)
    loss.backward()
    assert layer.weight.grad.dtype == torch.float32
    torch.testing.assert_close(
        layer.weight.grad, gradient.T @ hidden, rtol=2e-2, atol=2e-2 * gradient.abs().max().item()
    )


def test_inference_mode():
    """Without a graph: inputs made inside, inputs that require a gradient, and inference tensors used outside."""
    args = [t.requires_grad_(k != 1) for k, t in enumerate(loss_inputs(*LOSS_SHAPES[1]))]
    expected = ELBOLoss()(*args).detach()
    with torch.inference_mode():
        assert ELBOLoss()(*args) == expected
        copies = [a.clone() for a in args]
        assert ELBOLoss()(*copies) == expected
    assert ELBOLoss()(*copies) == expected
    with torch.no_grad():
        assert ELBOLoss()(*args) == expected


def test_a_gradient_changed_in_place_does_not_spoil_a_retained_graph():
    for function in (ELBOLoss(), ELBOLoss(reduction="none"), lambda *a: VF.gaussian_kl(*a[2:], reduction="sum")):
        args = [t.requires_grad_(k != 1) for k, t in enumerate(loss_inputs(*LOSS_SHAPES[1]))]
        loss = function(*args).sum()
        first = torch.autograd.grad(loss, args[2], retain_graph=True)[0]
        expected = first.clone()
        first.zero_()
        torch.testing.assert_close(torch.autograd.grad(loss, args[2])[0], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("batch", [3, 2000])
def test_infinite_logits(isa, batch):
    """One that is right costs nothing, one that is wrong everything."""
    inf = math.inf
    logits = torch.tensor([[inf], [-inf], [inf], [-inf]]).repeat(1, batch)
    x = torch.tensor([[1.0], [0.0], [0.0], [1.0]]).repeat(1, batch)
    assert torch.equal(VF.bernoulli_log_likelihood(logits, x), torch.tensor([0.0, 0.0, -inf, -inf]))
