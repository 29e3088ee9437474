"""inplace=True: the gradient over the decoder's output, and over nothing else."""

import contextlib

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.support.cases import LOSS_SHAPES, loss_inputs
from vaefast import ELBOLoss


def test_inplace_writes_the_gradient_over_the_logits():
    _, x, mu, logvar = loss_inputs(*LOSS_SHAPES[0])
    hidden, layer = torch.randn(128, 30), nn.Linear(30, 784)
    losses, grads = [], []
    for inplace in (False, True):
        logits = layer(hidden)
        before = logits.data_ptr(), logits.detach().clone()
        loss = ELBOLoss(inplace=inplace)(logits, x, mu, logvar)
        losses.append(loss.item())
        grads.append(torch.autograd.grad(loss, layer.weight, retain_graph=True)[0])
        assert logits.data_ptr() == before[0]
        assert (logits._version > 0) == inplace
        assert torch.equal(logits, before[1]) != inplace
    assert losses[0] == losses[1] and torch.equal(*grads)
    with pytest.raises(RuntimeError, match="inplace=True.*once only"):
        loss.backward()
    leaf = torch.zeros(128, 784, requires_grad=True)
    ELBOLoss(inplace=True)(leaf, x, mu, logvar).backward()
    assert torch.equal(leaf, torch.zeros(128, 784)), "a leaf is never written"
    with torch.no_grad():
        logits = layer(hidden)
        ELBOLoss(inplace=True)(logits, x, mu, logvar)
        assert logits._version == 0, "without a gradient there is nothing to write"


def test_inplace_makes_a_stale_use_raise():
    _, x, mu, logvar = loss_inputs(*LOSS_SHAPES[0])
    logits = torch.randn(128, 784, requires_grad=True) * 1
    penalty = logits.square().sum()  # whose backward reads them
    loss = ELBOLoss(inplace=True)(logits, x, mu, logvar) + penalty
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("option", ["beta", "weight"])
def test_inplace_beside_other_gradients(option):
    """Where the prediction is read again in the backward pass, it is not written."""
    _, x, mu, logvar = loss_inputs(*LOSS_SHAPES[1])
    grads = []
    for inplace in (False, True):
        leaf = torch.ones(7, 1, 8, 8, requires_grad=True)
        value = {
            "beta": torch.tensor(0.5, requires_grad=True),
            "weight": torch.rand(7).mul(0).add(0.3).requires_grad_(),
        }[option]
        loss = ELBOLoss(inplace=inplace)(leaf * 2, x, mu, logvar, **{option: value})
        grads.append(torch.autograd.grad(loss, (leaf, value)))
    for a, b in zip(*grads, strict=True):
        assert torch.equal(a, b)


def test_inplace_never_writes_what_is_not_the_predictions_own():
    _, x, _, _ = loss_inputs(*LOSS_SHAPES[1])
    parameter = torch.zeros(7 * 64, requires_grad=True)
    z = torch.zeros(7, 2)
    ELBOLoss(inplace=True)(parameter.view(7, 1, 8, 8), x, z, z).backward()
    assert torch.equal(parameter, torch.zeros(7 * 64)), "a view of a leaf"
    shared = torch.randn(7, 4, requires_grad=True)
    losses = [
        ELBOLoss(inplace=inplace)(q := shared * 1, torch.ones(7, 4), q[:, :2], q[:, 2:]) for inplace in (False, True)
    ]
    assert torch.equal(*losses), "latents that are views of the prediction"
    base = torch.randn(7, 64, requires_grad=True) * 1
    ELBOLoss(inplace=True)(base.view(7, 1, 8, 8), x, z, z).backward()
    assert base._version > 0, "a view of a tensor that nothing else needs, as Unflatten makes it"


LAST = {
    "sigmoid": torch.sigmoid,
    "softmax": lambda h: torch.softmax(h, 1),
    "view": lambda h: torch.sigmoid(h).view(4, 1, 3),
    "view of a view": lambda h: torch.sigmoid(h).view(4, 1, 3).flatten(),
}


@pytest.mark.parametrize("last", LAST)
def test_in_place_leaves_what_the_last_operation_saved(last):
    logits, x = torch.randn(4, 3), torch.rand(4, 3)
    grads = []
    for inplace in (False, True):
        leaf = logits.clone().requires_grad_()
        probs = LAST[last](leaf)
        x = x.view(probs.shape)
        z = torch.zeros(len(x), 2)
        ELBOLoss("bernoulli_probs", inplace=inplace)(probs, x, z, z).backward()
        grads.append(leaf.grad)
    assert torch.equal(*grads)


class Rectified(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h):
        out = h.relu()
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx, grad):
        return torch.where(ctx.saved_tensors[0] > 0, grad, 0.0)


class Same(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h):
        return h.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad


ENDS = {
    "compiled relu": nn.ReLU(),
    "compiled linear": nn.Identity(),
    "saves its result": Rectified.apply,
    "hooks that copy": Rectified.apply,
    "saves nothing": Same.apply,
    "linear": nn.Identity(),
}


@pytest.mark.parametrize("last", ENDS)
def test_in_place_beside_what_python_or_a_compiler_saved(last):
    layer, end = nn.Linear(5, 6), ENDS[last]

    def decoder(h):
        return end(layer(h))

    if last.startswith("compiled"):
        decoder = torch.compile(nn.Sequential(layer, end), backend="aot_eager")
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach(), lambda t: t.clone())
    h, x, z = torch.randn(4, 5), torch.rand(4, 6), torch.zeros(4, 2)
    grads = []
    for inplace in (False, True):
        with hooks if last == "hooks that copy" else contextlib.nullcontext():
            recon_x = decoder(h)
        before = recon_x.detach().clone()
        grads.append(torch.autograd.grad(ELBOLoss("gaussian", inplace=inplace)(recon_x, x, z, z), layer.weight)[0])
        assert torch.equal(before, recon_x) == (not inplace or last not in ("saves nothing", "linear"))
    assert torch.equal(*grads)


def test_in_place_computes_nothing_again():
    layer, calls = nn.Linear(5, 6), []

    def decoder(h):
        calls.append(h)
        return Rectified.apply(layer(h))

    h, x, z = torch.randn(4, 5, requires_grad=True), torch.rand(4, 6), torch.zeros(4, 2)
    loss = ELBOLoss("gaussian", inplace=True)(checkpoint(decoder, h, use_reentrant=False), x, z, z)
    assert len(calls) == 1
    loss.backward()
    assert len(calls) == 2


def test_in_place_after_the_graph_was_freed():
    h, x, z = torch.randn(4, 6, requires_grad=True), torch.rand(4, 6), torch.zeros(4, 2)
    recon_x = Rectified.apply(h)
    recon_x.sum().backward()
    grads = [
        torch.autograd.grad(ELBOLoss("gaussian", inplace=inplace)(recon_x, x, z, z), recon_x)[0]
        for inplace in (False, True)
    ]
    assert torch.equal(*grads)
