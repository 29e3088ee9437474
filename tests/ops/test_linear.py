"""A likelihood over a linear layer, computed in blocks, against the layer's whole output."""

import pytest
import torch
from torch.nn import functional as F

from vaefast import functional as VF
from vaefast.ops import linear


@pytest.fixture(autouse=True)
def several_blocks(monkeypatch):
    monkeypatch.setattr(linear, "_BLOCK", 1)  # the least: 256 columns


def case(dtype=torch.float64, bias=True, target=torch.uint8, width=700):
    g = torch.Generator().manual_seed(1)
    h, weight, b = (torch.randn(n, generator=g, dtype=dtype).requires_grad_() for n in ((5, 6), (width, 6), (width,)))
    x = torch.randint(0, 2, (5, width), generator=g).to(target)
    return h, weight, b if bias else None, x


def whole(h, weight, bias, x, mask=None, target_scale=1.0):
    """Per sample, in plain torch."""
    value = -F.binary_cross_entropy_with_logits(
        F.linear(h, weight, bias), x.to(h.dtype) * target_scale, reduction="none"
    )
    return (value if mask is None else torch.where(mask, value, 0)).sum(1)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_equals_the_whole_layer(reduction, bias, masked):
    operands = case(bias=bias)
    mask = torch.rand(5, 700) < 0.7 if masked else None
    scale = 0.25
    value = VF.linear_bernoulli_log_likelihood(*operands, reduction=reduction, mask=mask, target_scale=scale)
    true = whole(*operands, mask, scale)
    true = true if reduction == "none" else getattr(true, reduction)()
    torch.testing.assert_close(value, true, rtol=1e-12, atol=0)
    upstream = torch.randn_like(true)
    leaves = [t for t in operands[:3] if t is not None]
    grads, expected = (torch.autograd.grad(v, leaves, upstream, retain_graph=True) for v in (value, true))
    torch.testing.assert_close(grads, expected, rtol=1e-10, atol=1e-12)
    again = torch.autograd.grad(value, leaves, upstream)
    torch.testing.assert_close(again, expected, rtol=1e-10, atol=1e-12)


def test_only_what_requires_a_gradient_gets_one():
    h, weight, bias, x = case()
    VF.linear_bernoulli_log_likelihood(h.detach(), weight, bias.detach(), x, reduction="sum").backward()
    expected = torch.autograd.grad(whole(h, weight, bias, x).sum(), weight)[0]
    torch.testing.assert_close(weight.grad, expected, rtol=1e-10, atol=1e-12)
    assert h.grad is None and bias.grad is None


def test_second_derivatives_and_transforms_take_the_whole_layer():
    h, weight, bias, x = case(width=4)
    assert torch.autograd.gradgradcheck(
        lambda *t: VF.linear_bernoulli_log_likelihood(*t, x, reduction="sum"), (h, weight, bias)
    )
    batched = torch.func.vmap(torch.func.grad(lambda h, x: whole(h[None], weight, bias, x[None])[0]))(h, x)
    ours = torch.func.vmap(
        torch.func.grad(
            lambda h, x: VF.linear_bernoulli_log_likelihood(h[None], weight, bias, x[None], reduction="sum")
        )
    )(h, x)
    torch.testing.assert_close(ours, batched)


def test_compiles_without_a_graph_break():
    h, weight, bias, x = case(torch.float32)
    compiled = torch.compile(VF.linear_bernoulli_log_likelihood, fullgraph=True)
    torch.testing.assert_close(compiled(h, weight, bias, x), whole(h, weight, bias, x), rtol=1e-5, atol=1e-4)


def test_half_precision_and_autocast():
    h, weight, bias, x = case(torch.float32)
    for value in (
        VF.linear_bernoulli_log_likelihood(h.bfloat16(), weight.bfloat16(), bias.bfloat16(), x),
        torch.autocast("cpu", torch.bfloat16)(VF.linear_bernoulli_log_likelihood)(h, weight, bias, x),
    ):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, whole(h, weight, bias, x), rtol=2e-2, atol=0)


def test_no_rows_and_no_columns():
    h, weight, bias, x = case()
    assert VF.linear_bernoulli_log_likelihood(h[:0], weight, bias, x[:0]).shape == (0,)
    empty = VF.linear_bernoulli_log_likelihood(h, weight[:0], bias[:0], x[:, :0], reduction="sum")
    assert empty == 0
    empty.backward()
    assert torch.equal(h.grad, torch.zeros_like(h))


def test_the_output_is_never_whole():
    """No tensor of the output's size is made: none of more elements than a block's or a parameter's."""
    h, weight, bias, x = case(torch.float32, width=4096)

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for t in torch.utils._pytree.tree_leaves(out):
                if isinstance(t, torch.Tensor) and t.shape[:1] == (5,):
                    self.elements = max(self.elements, t[0].numel() if t is not x and t.dtype != x.dtype else 0)
            return out

    with Largest() as largest:
        VF.linear_bernoulli_log_likelihood(h, weight, bias, x, reduction="sum").backward()
    assert largest.elements == 256


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(h=torch.zeros(5)), ValueError, "h must have 2 dimensions"),
        (dict(weight=torch.zeros(700, 7, dtype=torch.float64)), ValueError, r"weight must have shape \(700, 6\)"),
        (dict(bias=torch.zeros(6, dtype=torch.float64)), ValueError, r"bias must have shape \(700,\)"),
        (dict(weight=torch.zeros(700, 6)), TypeError, "weight must have the dtype of h"),
        (dict(x=None), TypeError, "x must be a torch.Tensor, got NoneType"),
        (dict(reduction="elementwise"), ValueError, "reduction must be one of"),
    ],
)
def test_bad_input(change, error, message):
    arguments = dict(zip(("h", "weight", "bias", "x"), case(), strict=True)) | change
    positional = [arguments.pop(name) for name in ("h", "weight", "bias", "x")]
    with pytest.raises(error, match=f"vaefast.functional.linear_bernoulli_log_likelihood: {message}"):
        VF.linear_bernoulli_log_likelihood(*positional, **arguments)
