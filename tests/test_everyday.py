"""The everyday call of ELBOLoss, which is checked and run in one step: what it takes, and what it leaves to Python."""

import math
import subprocess
import sys

import pytest
import torch

import vaefast
from tests.cases import LOSS_SHAPES, loss_inputs
from vaefast import ELBOLoss, likelihoods
from vaefast import functional as VF


@pytest.mark.parametrize(
    "likelihood",
    ["bernoulli", "bernoulli_probs", "continuous_bernoulli", "gaussian", likelihoods.Laplace(0.5, target_scale=2.0)],
    ids=str,
)
def test_everyday_call_equals_the_general_one(likelihood):
    """The call that is checked in one step gives the bits of the other way, with its gradients."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        args = [t.to(dtype).requires_grad_() for t in loss_inputs(*LOSS_SHAPES[1])]
        args[0] = args[0].detach().sigmoid().requires_grad_() if likelihood == "bernoulli_probs" else args[0]
        for reduction in ("mean", "sum"):
            criterion = ELBOLoss(likelihood, reduction=reduction, beta=2)
            assert criterion.likelihood.numbers is not None
            everyday, general = criterion(*args), criterion(*args, beta=2.0)
            assert torch.equal(everyday, general)
            for g, e in zip(torch.autograd.grad(everyday, args), torch.autograd.grad(general, args), strict=True):
                assert torch.equal(g, e)


def test_everyday_call_leaves_other_scales_to_python():
    mean, x, mu, logvar = loss_inputs(*LOSS_SHAPES[1])
    changed = likelihoods.Gaussian()
    changed.logvar = 1
    for likelihood in (likelihoods.Gaussian(learn_scale=True), likelihoods.Gaussian(optimal_scale=True), changed):
        assert likelihood.numbers is None
        assert torch.equal(
            ELBOLoss(likelihood)(mean, x, mu, logvar), ELBOLoss(likelihood)(mean, x, mu, logvar, beta=1.0)
        )
    pair = (mean, torch.ones_like(mean))
    assert torch.equal(ELBOLoss("gaussian")(pair, x, mu, logvar), ELBOLoss(changed)(mean, x, mu, logvar))


@pytest.mark.parametrize("place", range(4))
def test_everyday_call_leaves_the_unusual_to_python(place):
    class Subclass(torch.Tensor):
        pass

    def attempt(*args):
        return vaefast._ops.fast_elbo_loss("bernoulli", *args, 1.0, "mean", 1.0, ())

    args = loss_inputs((3, 4), (3, 2))
    assert attempt(*args) is not None
    ordinary = args[place]
    unusual = [
        *(None, 1.0, ordinary.cpu().numpy(), ordinary.as_subclass(Subclass), ordinary.to("meta"), ordinary.to_sparse()),
        *(ordinary.int(), ordinary.to(torch.complex64), ordinary[:2], ordinary[0, 0]),
        *(torch._neg_view(ordinary), torch.nested.nested_tensor([ordinary[0]]), ordinary.to(torch.float8_e4m3fn)),
    ]
    for value in unusual:
        assert attempt(*args[:place], value, *args[place + 1 :]) is None, value
    with torch.inference_mode():
        assert attempt(*args[:place], ordinary.clone(), *args[place + 1 :]) is None

    def under_vmap(value):
        assert attempt(*args[:place], value, *args[place + 1 :]) is None
        return value

    torch.func.vmap(under_vmap)(ordinary[None])


@pytest.mark.parametrize(
    "base", [likelihoods.Bernoulli, likelihoods.ContinuousBernoulli, likelihoods.Gaussian, likelihoods.Laplace]
)
def test_everyday_call_heeds_a_subclass(base):
    class Smoothed(base):
        def operands(self, recon_x, x, mask=None):
            return super().operands(recon_x, 0.9 * x + 0.05, mask)

    recon_x, x, mu, logvar = loss_inputs((3, 4), (3, 2))
    got = ELBOLoss(Smoothed())(recon_x, x, mu, logvar)
    assert torch.equal(got, ELBOLoss(Smoothed())(recon_x, x, mu, logvar, beta=1.0))
    torch.testing.assert_close(got, ELBOLoss(base())(recon_x, 0.9 * x + 0.05, mu, logvar))


def test_everyday_call_refuses_an_infinite_scale():
    likelihood = likelihoods.Gaussian()
    likelihood.logvar = math.inf
    with pytest.raises(ValueError, match="logvar must be a finite number, got inf"):
        ELBOLoss(likelihood)(*loss_inputs((3, 4), (3, 2)))


def test_everyday_call_heeds_a_likelihood_that_is_not_its_own():
    class Plain:  # no nn.Module
        def log_prob(self, recon_x, x, mask=None):
            return -(recon_x - x).square().sum(1)

    args = loss_inputs((3, 4), (3, 2))
    expected = VF.gaussian_kl(*args[2:]).mean() + (args[0] - args[1]).square().sum(1).mean()
    torch.testing.assert_close(ELBOLoss(Plain())(*args), expected)


def test_everyday_call_outlives_a_first_call_under_inference_mode():
    code = """
import torch, vaefast
args = [torch.zeros(2, n) for n in (3, 3, 1, 1)]
with torch.inference_mode():
    vaefast.ELBOLoss()(*args)
assert vaefast._ops.fast_elbo_loss("bernoulli", *args, 1.0, "mean", 1.0, ()) is not None
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_first_call_may_come_in_a_mode():
    """What the everyday call is known by does not depend on it."""
    program = """
import torch, vaefast
from torch._subclasses.fake_tensor import FakeTensorMode
from vaefast import autograd
x, z = torch.zeros(2, 3), torch.zeros(2, 2)
call = lambda: autograd.fast_elbo_loss("bernoulli", x, x, z, z, 1.0, "mean", 1.0, ())
with FakeTensorMode(allow_non_fake_inputs=True):
    call()
assert call() is not None
"""
    subprocess.run([sys.executable, "-c", program], check=True)
