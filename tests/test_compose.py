"""torch.compile, torch.func, forward-mode AD, double backward, checkpoint, export: right, or a clear error, never silent."""

import pytest
import torch
import torch._dynamo.testing
from torch import nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from vaefast import ELBOLoss, mlp_vae, reference
from vaefast import functional as VF

LOSSES = {
    "bernoulli": ELBOLoss("bernoulli"),
    "gaussian": ELBOLoss("gaussian", reduction="sum", beta=0.5),
    "none": ELBOLoss("bernoulli", reduction="none"),
    "free bits": ELBOLoss("bernoulli", free_bits=0.1),
}
each_loss = pytest.mark.parametrize("criterion", LOSSES.values(), ids=LOSSES)


def inputs(batch=6, dtype=torch.float64):
    g = torch.Generator().manual_seed(batch)
    recon_x, x = torch.randn(batch, 11, generator=g, dtype=dtype), torch.rand(batch, 11, generator=g, dtype=dtype)
    mu, logvar = torch.randn(batch, 3, generator=g, dtype=dtype), torch.randn(batch, 3, generator=g, dtype=dtype)
    return recon_x, x, mu, logvar


def eager_grads(function, args):
    leaves = [a.clone().requires_grad_() for a in args]
    value = function(*leaves)
    return value.detach(), torch.autograd.grad(value, leaves)


@each_loss
def test_compile_fullgraph_cold(criterion):
    """No graph break, value and gradients of eager, at most two graphs over changing batches."""
    torch._dynamo.reset()
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return torch._inductor.compile(graph, example_inputs)

    compiled = torch.compile(lambda *args: criterion(*args).sum(), fullgraph=True, backend=backend)
    for batch in (7, 128, 129, 1):
        args = inputs(batch, torch.float32)
        value, grads = eager_grads(compiled, args)
        expected, expected_grads = eager_grads(lambda *args: criterion(*args).sum(), args)
        torch.testing.assert_close(value, expected)
        for g, e in zip(grads, expected_grads, strict=True):
            torch.testing.assert_close(g, e)
    assert len(graphs) <= 3  # one for 7, one for any batch, one for a batch of 1, which torch always treats on its own


def test_beta_schedule_does_not_recompile():
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    criterion = torch.compile(ELBOLoss(), fullgraph=True, backend=counter)
    for beta in (0.0, 0.1, 0.5, 1.0):
        args = inputs()
        value = criterion(*args, beta=torch.tensor(beta, dtype=torch.float64))
        torch.testing.assert_close(value, ELBOLoss(beta=beta)(*args))
    assert counter.frame_count == 1


def test_a_float_beta_compiles_too():
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    criterion = torch.compile(lambda beta, *args: ELBOLoss()(*args, beta=beta), fullgraph=True, backend=counter)
    for beta in (0.1, 0.2, 0.3, 0.4):
        torch.testing.assert_close(criterion(beta, *inputs()), ELBOLoss(beta=beta)(*inputs()))
    assert counter.frame_count <= 2


def test_compile_a_training_step():
    """The sampling, the loss and the model in one graph; the noise is torch's random state's."""
    torch._dynamo.reset()
    vae = mlp_vae((11,), latent_dim=3, hidden_dims=(8,))
    step = torch.compile(vae.loss, fullgraph=True)
    x = torch.rand(5, 11)
    step(x).backward()
    values = []
    for function in (step, vae.loss):
        torch.manual_seed(9)
        values.append(function(x))
    torch.testing.assert_close(*values)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.parameters())


@each_loss
@pytest.mark.parametrize("compiled", [False, True])
def test_func_grad_and_jvp(criterion, compiled):
    args = inputs()

    def function(*args):
        return criterion(*args).sum()

    transforms = {
        "grad": torch.func.grad(function, argnums=(0, 1, 2, 3)),
        "jvp": lambda *a: torch.func.jvp(function, a, tuple(torch.ones_like(t) for t in a)),
    }
    _, grads = eager_grads(function, args)
    expected = {"grad": grads, "jvp": (function(*args), sum(g.sum() for g in grads))}
    for name, transform in transforms.items():
        torch._dynamo.reset()
        got = (torch.compile(transform, fullgraph=True) if compiled else transform)(*args)
        for g, e in zip(got, expected[name], strict=True):
            torch.testing.assert_close(g, e, msg=name)


@each_loss
def test_vmap(criterion):
    stacked = [torch.stack([a, a * 0.5]) for a in inputs()]
    got = torch.func.vmap(criterion)(*stacked)
    expected = torch.stack([criterion(*[s[k] for s in stacked]) for k in range(2)])
    torch.testing.assert_close(got, expected)
    got = torch.func.vmap(torch.func.grad(lambda *a: criterion(*a).sum()))(*stacked)
    expected = torch.stack(
        [eager_grads(lambda *a: criterion(*a).sum(), [s[k] for s in stacked])[1][0] for k in range(2)]
    )
    torch.testing.assert_close(got, expected)


@each_loss
def test_forward_mode(criterion):
    args = inputs()
    expected = sum(g.sum() for g in eager_grads(lambda *a: criterion(*a).sum(), args)[1])
    with forward_ad.dual_level():
        out = criterion(*[forward_ad.make_dual(a, torch.ones_like(a)) for a in args])
        tangent = forward_ad.unpack_dual(out).tangent
    assert tangent is not None
    torch.testing.assert_close(tangent.sum(), expected)


@each_loss
def test_double_backward_and_hessian(criterion):
    """A gradient penalty beside the loss itself, against the composite."""
    recon_x, x, mu, logvar = inputs()

    def penalty(loss):
        leaves = [t.clone().requires_grad_() for t in (recon_x, mu, logvar)]
        value = loss(leaves[0], x, *leaves[1:]).sum()
        first = torch.autograd.grad(value, leaves, create_graph=True)
        return torch.autograd.grad(value + sum(g.square().sum() for g in first), leaves)

    def composite(recon_x, x, mu, logvar):
        term = "gaussian" if criterion is LOSSES["gaussian"] else "bernoulli"
        operands = (recon_x, x, torch.zeros(())) if term == "gaussian" else (recon_x, x)
        fit = reference.row_sum(term, operands)
        kl = reference.row_sum("gaussian_kl", (mu, logvar))
        if criterion.free_bits is not None:
            kl = reference.gaussian_kl(mu, logvar).mean(0).clamp(min=criterion.free_bits).sum()
        loss = criterion.beta * kl - fit
        return loss.mean() if criterion.reduction == "mean" else loss

    for g, e in zip(penalty(criterion), penalty(composite), strict=True):
        torch.testing.assert_close(g, e)
    hessian = torch.func.hessian(lambda m: criterion(recon_x, x, m, logvar).sum())(mu)
    expected = torch.func.hessian(lambda m: composite(recon_x, x, m, logvar).sum())(mu)
    torch.testing.assert_close(hessian, expected)


def test_double_backward_of_a_sample():
    mu, logvar = (t.requires_grad_() for t in inputs()[2:])
    for options in ({}, {"num_samples": 3}):
        z = VF.reparameterize(mu, logvar, **options)
        (first,) = torch.autograd.grad(z.square().sum(), logvar, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), logvar)
        eps_sigma = z - mu
        lead = 0 if options else ()
        expected = (
            (0.5 * eps_sigma**2 + 0.5 * z * eps_sigma).sum(lead)
            if options
            else 0.5 * eps_sigma**2 + 0.5 * z * eps_sigma
        )
        torch.testing.assert_close(second, expected.detach())


def test_samples_under_func():
    """torch.func rules the randomness: vmap raises unless it is told what to do; grad is right."""
    mu, logvar = torch.randn(4, 3), torch.zeros(4, 3)
    with pytest.raises(RuntimeError, match="randomness"):
        torch.func.vmap(VF.reparameterize)(mu, logvar)
    z = torch.func.vmap(VF.reparameterize, randomness="different")(torch.zeros(2, 1000), torch.zeros(2, 1000))
    assert not torch.equal(z[0], z[1])
    got = torch.func.grad(lambda m: VF.reparameterize(m, logvar).sum())(mu)
    assert torch.equal(got, torch.ones_like(mu))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint_redraws_the_same_noise(use_reentrant):
    mu, logvar = torch.randn(4, 30, requires_grad=True), torch.randn(4, 30, requires_grad=True)

    def block(mu, logvar):
        return VF.reparameterize(mu, logvar).square()

    torch.manual_seed(3)
    expected = torch.autograd.grad(block(mu, logvar).sum(), (mu, logvar))
    torch.manual_seed(3)
    checkpoint(block, mu, logvar, use_reentrant=use_reentrant).sum().backward()
    torch.testing.assert_close(mu.grad, expected[0])
    torch.testing.assert_close(logvar.grad, expected[1])


def test_saved_tensor_hooks():
    """Saved tensors may be packed away and brought back."""
    args = [t.requires_grad_() for t in inputs()]
    expected = torch.autograd.grad(ELBOLoss()(*args), args)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.numpy(force=True).copy(), torch.from_numpy):
        loss = ELBOLoss()(*args)
    for g, e in zip(torch.autograd.grad(loss, args), expected, strict=True):
        torch.testing.assert_close(g, e)


def test_export_and_meta():
    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.criterion = ELBOLoss()

        def forward(self, *args):
            return self.criterion(*args)

    args = inputs()
    program = torch.export.export(Step(), args)
    torch.testing.assert_close(program.module()(*args), ELBOLoss()(*args))
    value = ELBOLoss()(*[a.to("meta") for a in args])
    assert value.device.type == "meta" and value.shape == ()


def test_batched_gradients():
    args = [t.requires_grad_() for t in inputs()]
    value = ELBOLoss(reduction="none")(*args)
    (got,) = torch.autograd.grad(value, args[0], torch.eye(6, dtype=torch.float64), is_grads_batched=True)
    torch.testing.assert_close(
        got.sum(0), torch.autograd.grad(ELBOLoss("bernoulli", reduction="sum")(*args), args[0])[0]
    )
