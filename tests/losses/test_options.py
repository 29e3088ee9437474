"""What ELBOLoss may be told: weights, masks, free bits, beta, validate; and IWAELoss: weight, prior, target_scale."""

import pytest
import torch
from torch.distributions import Independent, Normal
from torch.nn import functional as F

from tests.support.cases import loss_inputs
from vaefast import ELBOLoss, IWAELoss, likelihoods, reference, schedules
from vaefast import functional as VF
from vaefast.priors import VampPrior


def parts64(likelihood, recon_x, x, mu, logvar, prior_mu=None, prior_logvar=None, mask=None, **_):
    """Per-sample log-likelihood and KL in float64, by torch.distributions."""
    if likelihood == "bernoulli":
        fit = -F.binary_cross_entropy_with_logits(recon_x, x, reduction="none")
    else:
        mean, lv = recon_x if isinstance(recon_x, tuple) else (recon_x, torch.zeros_like(recon_x))
        fit = torch.distributions.Normal(mean, (lv / 2).exp()).log_prob(x)
    if mask is not None:
        fit = fit * mask
    prior_mu = torch.zeros_like(mu) if prior_mu is None else prior_mu.expand_as(mu)
    prior_logvar = torch.zeros_like(mu) if prior_logvar is None else prior_logvar.expand_as(mu)
    normal = torch.distributions.Normal
    kl = torch.distributions.kl_divergence(normal(mu, (logvar / 2).exp()), normal(prior_mu, (prior_logvar / 2).exp()))
    return fit.flatten(1).sum(1), kl.flatten(1).sum(1)


def eager64(*args, beta=1.0, weight=None, **options):
    fit, kl = parts64(*args, **options)
    loss = beta * kl - fit
    return loss if weight is None else weight * loss


def test_a_weight_for_samples_of_one_number():
    for shapes in (((7,), (7,)), ((7,), (7, 3)), ((7, 3), (7,))):
        args, weight = loss_inputs(*shapes), torch.rand(7)
        parts = ELBOLoss(reduction="none")(*args)
        for reduction, total in (("sum", (weight * parts).sum()), ("mean", (weight * parts).mean())):
            torch.testing.assert_close(ELBOLoss(reduction=reduction)(*args, weight=weight), total)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("extra", ["plain", "prior", "learned prior", "beta", "weight", "mask", "everything"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "heteroscedastic"])
def test_options(likelihood, extra, reduction):
    """Every option and its gradient against torch.distributions, in float64."""
    recon_x, x, mu, logvar = loss_inputs((6, 5, 4), (6, 3), torch.float64)
    leaves = [recon_x.requires_grad_(), mu.requires_grad_(), logvar.requires_grad_()]
    options = {}

    def leaf(*shape):
        leaves.append(torch.randn(shape, dtype=torch.float64, requires_grad=True))
        return leaves[-1]

    if extra in ("prior", "everything"):
        options |= {"prior_mu": leaf(6, 3), "prior_logvar": leaf(6, 3)}
    if extra == "learned prior":
        options |= {"prior_mu": leaf(3), "prior_logvar": leaf(3)}
    if extra in ("beta", "everything"):
        options["beta"] = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        leaves.append(options["beta"])
    if extra in ("weight", "everything"):
        options["weight"] = leaf(6)
    if extra in ("mask", "everything"):
        options["mask"] = torch.rand(6, 5, 4) < 0.5
    if likelihood == "heteroscedastic":
        recon_x = (recon_x, leaf(6, 5, 4))
    criterion = ELBOLoss("bernoulli" if likelihood == "bernoulli" else "gaussian", reduction=reduction)
    loss, parts = criterion(recon_x, x, mu, logvar, return_parts=True, **options)
    rows = eager64(likelihood, recon_x, x, mu, logvar, **options)
    expected = {"none": lambda: rows, "sum": rows.sum, "mean": rows.mean}[reduction]()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(loss)
    got = torch.autograd.grad(loss, leaves, upstream, retain_graph=True)
    wanted = torch.autograd.grad(expected, leaves, upstream, retain_graph=True)
    for g, e in zip(got, wanted, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-10, atol=1e-12)
    again = torch.autograd.grad(loss, leaves, upstream)  # the retained graph, swept anew
    for g, e in zip(again, wanted, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-10, atol=1e-12)
    fit, kl = parts64(likelihood, recon_x, x, mu, logvar, **options)
    torch.testing.assert_close(parts.log_likelihood, fit, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts.kl, kl, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts.elbo, fit - options.get("beta", 1.0) * kl, rtol=1e-12, atol=1e-12)


def test_free_bits():
    """max(free bits, the batch's mean KL) of each dimension, summed; its gradient stops where a dimension is below."""
    recon_x, x, mu, logvar = loss_inputs((50, 10), (50, 6), torch.float64)
    mu[:, :3] *= 0.01
    logvar[:, :3] *= 0.01
    mu.requires_grad_()
    loss, parts = ELBOLoss(free_bits=0.25, beta=2.0)(recon_x, x, mu, logvar, return_parts=True)
    per_dimension = 0.5 * (mu**2 + logvar.exp() - 1 - logvar).mean(0)
    assert (per_dimension[:3] < 0.25).all() and (per_dimension[3:] > 0.25).all()
    floored = torch.maximum(per_dimension, torch.tensor(0.25)).sum()
    torch.testing.assert_close(loss, 2.0 * floored - parts.log_likelihood.mean())
    loss.backward()
    assert (mu.grad[:, :3] == 0).all() and (mu.grad[:, 3:] != 0).all()


def test_optimal_scale_heeds_the_mask():
    mean, x = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    mask = torch.rand(4, 6) < 0.5
    got = likelihoods.Gaussian(optimal_scale=True).log_prob(mean, torch.where(mask, x, float("nan")), mask=mask)
    sigma = (x - mean)[mask].square().mean().sqrt()
    expected = (torch.distributions.Normal(mean, sigma).log_prob(x) * mask).sum(1)
    torch.testing.assert_close(got, expected)


def test_validate_looks_at_what_counts():
    criterion = ELBOLoss("bernoulli_probs", validate=True)
    probs, z = torch.rand(3, 4), torch.zeros(3, 2)
    spoiled = probs.clone()
    spoiled[0, 0] = torch.nan
    assert criterion(spoiled, probs, z, z, mask=~spoiled.isnan()).isfinite()
    for wrong in (lambda: criterion(spoiled, probs, z, z), lambda: criterion(probs + 1, probs, z, z),
                  lambda: criterion(probs, probs, z, z, beta=torch.tensor(torch.nan)),
                  lambda: criterion(probs, probs, z, z, weight=torch.full((3,), torch.inf))):  # fmt: skip
        with pytest.raises(ValueError):
            wrong()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("parts", [False, True])
def test_beta_as_a_number(reduction, weighted, parts):
    """Of the module and of the call, in value and gradients, against the plain formula in float64."""
    recon_x, x, mu, logvar = torch.randn(7, 20), torch.rand(7, 20), torch.randn(7, 4), torch.randn(7, 4)
    weight = torch.rand(7) if weighted else None
    for criterion, options in (
        (ELBOLoss(beta=0.3, reduction=reduction), {}),
        (ELBOLoss(beta=5.0, reduction=reduction), {"beta": 0.3}),
    ):
        leaves = [t.clone().requires_grad_() for t in (recon_x, mu, logvar)]
        loss = criterion(leaves[0], x, *leaves[1:], weight=weight, return_parts=parts, **options)
        loss = loss[0] if parts else loss
        exact = [t.double().requires_grad_() for t in (recon_x, mu, logvar)]
        expected = 0.3 * reference.gaussian_kl(*exact[1:]).sum(1) - reference.bernoulli(exact[0], x.double()).sum(1)
        expected = expected if weight is None else weight.double() * expected
        expected = {"mean": expected.mean(), "sum": expected.sum(), "none": expected}[reduction]
        torch.testing.assert_close(loss.double(), expected, rtol=2e-6, atol=1e-6)
        for g, e in zip(
            torch.autograd.grad(loss.sum(), leaves), torch.autograd.grad(expected.sum(), exact), strict=True
        ):
            torch.testing.assert_close(g.double(), e, rtol=2e-6, atol=1e-7)


def test_a_number_that_no_int_of_torch_holds():
    args = loss_inputs((3, 5), (3, 2))
    assert torch.equal(ELBOLoss(beta=10**30)(*args), ELBOLoss(beta=1e30)(*args))
    assert torch.equal(ELBOLoss()(*args, beta=10**30), ELBOLoss()(*args, beta=1e30))
    for number in (10**400, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="vaefast.ELBOLoss: beta must be a finite number of at least 0, got"):
            ELBOLoss(beta=number)


def test_a_weights_type_changes_no_result():
    args = torch.zeros(4, 3), torch.rand(4, 3), torch.zeros(4, 2), torch.zeros(4, 2)
    weight = torch.rand(4, dtype=torch.float64)
    for options in ({"reduction": "mean"}, {"reduction": "none"}, {"free_bits": 0.1}):
        assert ELBOLoss(**options)(*args, weight=weight).dtype == torch.float32


def test_a_beta_from_the_cpu_goes_anywhere():
    tensors = [t.to("meta") for t in (torch.zeros(4, 5), torch.zeros(4, 5), torch.zeros(4, 2), torch.zeros(4, 2))]
    with torch.device("cpu"):
        beta = schedules.linear(1, 2)
    for options in ({}, {"return_parts": True}):
        loss = ELBOLoss()(*tensors, beta=beta, **options)
        assert (loss[0] if options else loss).shape == ()


@pytest.mark.parametrize("gradient", ["standard", "stl", "dreg"])
def test_iwae_weight_prior_and_target_scale(gradient):
    """Each against what it stands for, with the encoder's gradients."""
    x, weight, prior = torch.rand(5, 6).round(), torch.rand(5), Independent(Normal(torch.ones(2), 2.0), 1)

    def loss(data=x, reduction="mean", told=(), **options):
        mu, logvar = torch.full((5, 2), 0.3, requires_grad=True), torch.full((5, 2), -0.4, requires_grad=True)
        z = VF.reparameterize(mu, logvar, num_samples=3, eps=torch.linspace(-2, 2, 30).view(3, 5, 2))
        criterion = IWAELoss(gradient=gradient, reduction=reduction, **dict(told))
        value = criterion(z @ torch.linspace(-1, 1, 12).view(2, 6), data, z, mu, logvar, **options)
        return value.detach(), *torch.autograd.grad(value.sum(), (mu, logvar))

    each, *gradients = loss(reduction="none")
    for reduction, scale in (("sum", 1.0), ("mean", 1 / 5)):
        expected = (scale * (weight * each).sum(), *(scale * weight[:, None] * g for g in gradients))
        torch.testing.assert_close(loss(reduction=reduction, weight=weight), expected)
    torch.testing.assert_close(loss(255 * x.byte(), told={"target_scale": 1 / 255}), loss())
    torch.testing.assert_close(loss(told={"prior": prior}), loss(prior=prior))
    told = {"prior": Independent(Normal(torch.zeros(2), 1.0), 1)}
    torch.testing.assert_close(loss(told=told, prior=prior), loss(prior=prior))  # the call's
    assert loss(prior=prior)[0] != loss()[0]
    with pytest.raises(ValueError, match=r"vaefast.IWAELoss: weight must have shape \(5,\), got \(6,\)"):
        loss(weight=torch.ones(6))
    with pytest.raises(TypeError, match="vaefast.IWAELoss: prior must be an object with log_prob, got int"):
        IWAELoss(prior=3)
    with pytest.raises(ValueError, match="vaefast.IWAELoss: this loss was built with a prior; leave out prior_mu"):
        loss(told=told, prior_mu=torch.zeros(2))


def test_iwae_owns_a_prior_that_learns():
    encoder = torch.nn.Linear(6, 4)
    criterion = IWAELoss("gaussian", prior=VampPrior(encoder, torch.rand(3, 6)), target_scale=0.5)
    assert "prior.pseudo_inputs" in dict(criterion.named_parameters())
    x, weight = torch.rand(5, 6), torch.rand(5, requires_grad=True)
    mu, logvar = encoder(x).chunk(2, 1)
    z = VF.reparameterize(mu, logvar, num_samples=3)
    recon_x = z @ torch.ones(2, 6)
    loss = criterion(recon_x, x, z, mu, logvar, weight=weight)
    log_w = VF.log_weights(recon_x, x, z, mu, logvar, likelihood="gaussian", prior=criterion.prior, target_scale=0.5)
    torch.testing.assert_close(loss, -(weight * VF.iwae_bound(log_w)).mean())
    torch.testing.assert_close(
        log_w, VF.log_weights(recon_x, x / 2, z, mu, logvar, likelihood="gaussian", prior=criterion.prior)
    )
    by_prior, by_weight = torch.autograd.grad(loss, (criterion.prior.pseudo_inputs, weight))
    assert by_prior.abs().sum() > 0
    torch.testing.assert_close(by_weight, -VF.iwae_bound(log_w) / 5)
