"""The cross entropy of many labels: torch's values and gradients, made in the forward pass."""

import re

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import vaefast
from tests import matrix
from tests.matrix.operations import BATCH, D, Operation
from vaefast import ops
from vaefast.likelihoods import Categorical

PAD = -5
SHAPES = {"classes last": (50, 7), "classes first": (5, 7, 6)}
VIEWS = {
    "dense": lambda t: t,
    "every second class": lambda t: torch.stack([t, t + 1], 2).flatten(1, 2)[:, ::2],
    "transposed": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
}


@pytest.fixture
def node(monkeypatch):
    """Makes few labels count as many, and says whether a result is the node's."""
    monkeypatch.setattr(ops.labels, "_MANY", 1)
    monkeypatch.setattr(ops.labels, "_CLASSES", 1)
    return lambda t: type(t.grad_fn).__name__ == "CrossEntropyBackward"


def drawn(shape, dtype=torch.float64, pad=True):
    labels = torch.randint(shape[1], shape[:1] + shape[2:])
    if pad:
        labels[::3] = PAD
    return torch.randn(shape, dtype=dtype), labels


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients(node, shape, view, pad, dtype):
    """A second pass computes the gradient that the first gave away."""
    logits, labels = drawn(shape, dtype, pad)
    logits = view(logits).detach().requires_grad_()
    got = ops.cross_entropy(logits, labels, PAD)
    expected = F.cross_entropy(logits, labels, ignore_index=PAD, reduction="sum")
    assert node(got)
    torch.testing.assert_close(got, expected)
    (true,) = torch.autograd.grad(expected, logits)
    for factor, retain_graph in ((3.0, True), (0.5, True), (1.0, False)):
        (gradient,) = torch.autograd.grad(factor * got, logits, retain_graph=retain_graph)
        torch.testing.assert_close(gradient, factor * true)
        gradient.zero_()  # the caller's own


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_second_derivatives_and_batches_of_gradients(node, shape):
    logits, labels = drawn(shape)
    logits.requires_grad_()
    assert node(ops.cross_entropy(logits, labels, PAD))
    assert torch.autograd.gradcheck(lambda t: ops.cross_entropy(t, labels, PAD), logits, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(lambda t: ops.cross_entropy(t, labels, PAD), logits)


LABELS = torch.arange(BATCH).remainder(D).index_fill(0, torch.tensor([1, 4]), PAD)
BY_LABEL = Operation(
    "labels",
    lambda logits: ops.cross_entropy(logits, LABELS, PAD),
    lambda logits: F.cross_entropy(logits, LABELS, ignore_index=PAD, reduction="sum"),
    ("logits",),
)


@pytest.mark.parametrize(
    "mode", [m for m in matrix.modes() if not re.search("compile|sharded|meta|fake", m.name)], ids=lambda m: m.name
)
def test_every_way_of_calling_it(node, mode):
    assert node(BY_LABEL.function(BY_LABEL.draw()[0].requires_grad_()))
    assert matrix.outcome(mode, BY_LABEL)[0] == ("raises" if mode.name == "jvp_over_autograd" else "right")


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("wrong", [-1, 7])
def test_what_is_no_label(node, shape, wrong):
    logits, labels = drawn(shape, pad=False)
    labels[3] = wrong
    with pytest.raises(IndexError):
        ops.cross_entropy(logits.requires_grad_(), labels, PAD)
    with pytest.raises(ValueError, match=f"x must hold labels, whole numbers from 0 to 6, got {wrong}"):
        Categorical().log_prob(logits, labels, reduction="sum")


class Made(TorchDispatchMode):
    """Counts the tensors of a size or more that operators allocate."""

    def __init__(self, nbytes):
        super().__init__()
        self.nbytes, self.storages = nbytes, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves(args) if isinstance(t, Tensor)}
        for t in tree_leaves(result):
            if isinstance(t, Tensor) and t.nbytes >= self.nbytes and t.untyped_storage()._cdata not in given:
                self.storages[t.untyped_storage()._cdata] = t  # kept, so that no other gets its place
        return result


@pytest.mark.parametrize("class_dim", [1, -1])
def test_a_loss_of_a_million_logits_makes_one_tensor_of_their_size(class_dim):
    """Their gradient. F.cross_entropy makes three or four."""
    shape = (16, 1 << 13, 8) if class_dim == 1 else (16, 8, 1 << 13)
    logits, x, mu = torch.randn(shape, requires_grad=True), torch.randint(1 << 13, (16, 8)), torch.zeros(16, 2)
    other = logits.detach().requires_grad_()
    with Made(logits.nbytes) as made:
        loss = vaefast.ELBOLoss(Categorical(class_dim), reduction="sum")(logits, x, mu, mu)
        loss.backward()
    with Made(logits.nbytes) as by_hand:
        expected = F.cross_entropy(
            other if class_dim == 1 else other.flatten(0, 1), x.view(-1) if class_dim == -1 else x, reduction="sum"
        )
        expected.backward()
    assert len(made.storages) == 1 and len(by_hand.storages) >= 3
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(logits.grad, other.grad)
