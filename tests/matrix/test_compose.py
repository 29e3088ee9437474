"""torch.compile, torch.func, forward-mode AD, double backward, checkpoint, export: right, or a clear error, never silent.
The table is tests/matrix's; what does not fit in it, such as noise and recompilation, is here."""

import pytest
import torch
import torch._dynamo.testing
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests import matrix
from tests.matrix.operations import OPERATIONS, Operation
from tests.support.native import ROOT
from vaefast import ELBOLoss, IWAELoss, mlp_vae
from vaefast import functional as VF

MODES = list(matrix.modes())
# A compilation takes up to a second. Here are those of one operation of each kind, and where shapes are dynamic, or a
# way compiles under another name, of three; `python -m tests.matrix` has all.
COMPILED = (
    "ELBOLoss", "ELBOLoss weight, mask, beta", "ELBOLoss (mean, logvar)", "ELBOLoss free bits", "ELBOLoss inplace",
    "gaussian_kl prior", "rsample_kl", "linear_bernoulli", "IWAELoss dreg",
)  # fmt: skip
FEW = ("ELBOLoss weight, mask, beta", "rsample_kl", "mixture coupled")
COMPILING = ("compiled_autograd", "export_strict", "linearize", "twice_in_one_graph")
# These take ten seconds and more. The modes that are left show each kind of compilation once.
SLOW = (
    "compile dynamic", "jvp, compile", "forward_mode, compile", "hessian, compile", "jacrev_of_jacrev, compile", *COMPILING
)  # fmt: skip


def operations_of(mode):
    few = "dynamic" in mode.name or mode.name in COMPILING
    names = FEW if few else COMPILED if "compile" in mode.name else [each.name for each in OPERATIONS]
    operations = [each for each in OPERATIONS if each.name in names]
    assert len(operations) == len(names)
    return operations


def with_marks(mode):
    slow = any(part in mode.name for part in SLOW)
    return pytest.param(mode, id=mode.name, marks=[pytest.mark.slow] * slow)


@pytest.fixture(scope="module", autouse=True)
def _one_process():
    matrix.one_process()
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("mode", [with_marks(mode) for mode in MODES])
@pytest.mark.filterwarnings("ignore")
def test_matrix(mode):
    wrong = {}
    for operation in operations_of(mode):
        kind, said = matrix.outcome(mode, operation)
        if kind == "wrong":
            wrong[operation.name] = said
    assert not wrong


def test_the_page_counts_the_cells():
    cells = len(MODES) * len(OPERATIONS)
    assert f"**{cells} cells: " in (ROOT / "docs" / "pytorch.md").read_text()


def test_the_matrix_sees_what_is_wrong():
    """A gradient that ignores what comes from above, and an operation that detaches its input."""
    (elbo, *_) = OPERATIONS

    class Unscaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value.clone()

        @staticmethod
        def backward(ctx, grad):
            return torch.ones_like(grad)

    def broken(function):
        return Operation("broken", function, elbo.composite, elbo.inputs)

    (backward,) = (mode for mode in MODES if mode.name == "backward, eager")
    assert matrix.outcome(backward, broken(elbo.function)) == ("right", "")
    assert matrix.outcome(backward, broken(lambda *a: Unscaled.apply(elbo.function(*a))))[0] == "wrong"
    assert matrix.outcome(backward, broken(lambda r, *a: elbo.function(0.99 * r.detach() + 0.01 * r, *a)))[0] == "wrong"
    assert matrix.outcome(backward, broken(lambda *a: elbo.function(*a).no_such_method()))[0] == "wrong"


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
@pytest.mark.parametrize("dynamic", [None, pytest.param(True, marks=pytest.mark.slow)])
def test_two_graphs_serve_every_batch(criterion, dynamic):
    """Compiled to machine code, cold: no graph break, eager's value and gradients, one graph for 1 and one for the rest."""
    torch._dynamo.reset()

    def total(*args):
        return criterion(*args).sum()

    compiled = torch.compile(total, fullgraph=True, dynamic=dynamic)
    for batch in (1, 7, 128, 129):
        args = inputs(batch, torch.float32)
        value, grads = eager_grads(compiled, args)
        expected, expected_grads = eager_grads(total, args)
        torch.testing.assert_close(value, expected)
        for g, e in zip(grads, expected_grads, strict=True):
            torch.testing.assert_close(g, e)
    assert len(torch._dynamo.eval_frame._debug_get_cache_entry_list(total.__code__)) <= 2


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
    """For its first and second value, and for 1, and for no other. AOTAutograd must not take it for a constant either."""
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    criterion = torch.compile(lambda beta, *args: ELBOLoss()(*args, beta=beta), fullgraph=True, backend=counter)
    compiled = []
    for beta in (0.1, 0.2, 1.0, 0.3, 0.4, 1.0, 0.5):
        args = [t.requires_grad_() if k != 1 else t for k, t in enumerate(inputs())]
        loss = criterion(beta, *args)
        torch.testing.assert_close(loss, ELBOLoss(beta=beta)(*inputs()), rtol=1e-12, atol=0)
        loss.backward()
        compiled.append(counter.frame_count)
    assert compiled[0] == 1 and compiled[2:] == compiled[2:3] * 5


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


def test_an_exported_program_runs_where_nothing_is_recorded():
    """Exported with gradients, run without: the operators have kernels below autograd."""

    class Step(nn.Module):
        def forward(self, recon_x, x, mu, logvar):
            z, kl = VF.rsample_kl(mu, logvar)
            loss, parts = ELBOLoss()(recon_x, x, mu, logvar, return_parts=True)
            return z.sum() * 0 + kl.sum(), loss, parts.kl

    args = [t.requires_grad_() for t in inputs(dtype=torch.float32)]
    program = torch.export.export(Step(), tuple(args), strict=False).module()
    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad):
        with mode():
            for got, expected in zip(program(*args), Step()(*args), strict=True):
                torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("dynamic", [None, True])
def test_a_compiled_sample_is_eagers(dynamic):
    """The same noise, value and gradients, whichever of z and the KL is used; and no second derivative without a word."""
    uses = (lambda z, kl: z.square().sum(), lambda z, kl: kl.sum(), lambda z, kl: z.square().sum() + 2 * kl.sum())
    for use in uses:
        for priors in (0, 2):
            torch._dynamo.reset()

            def total(*latent, use=use):
                return use(*VF.rsample_kl(*latent))

            compiled = torch.compile(total, fullgraph=True, backend="aot_eager", dynamic=dynamic)
            for batch in (4, 7):
                torch.manual_seed(batch)
                latent = torch.randn(2 + priors, batch, 3, dtype=torch.float64).unbind(0)
                results = []
                for function in (total, compiled):
                    torch.manual_seed(5)
                    results.append(eager_grads(lambda *a, f=function: f(*a) + sum(0 * t.sum() for t in a), latent))
                torch.testing.assert_close(*results)
    leaves = [t.clone().requires_grad_() for t in latent]
    with pytest.raises(RuntimeError, match="create_graph=False|double backward"):
        first = torch.autograd.grad(compiled(*leaves), leaves[0], create_graph=True)[0]
        first.square().sum().backward()


def test_samples_under_func():
    """torch.func rules the randomness: vmap raises unless it is told what to do; grad is right."""
    mu, logvar = torch.randn(4, 3), torch.zeros(4, 3)
    with pytest.raises(RuntimeError, match="randomness"):
        torch.func.vmap(VF.reparameterize)(mu, logvar)
    z = torch.func.vmap(VF.reparameterize, randomness="different")(torch.zeros(2, 1000), torch.zeros(2, 1000))
    assert not torch.equal(z[0], z[1])
    same = torch.func.vmap(VF.reparameterize, randomness="same")(torch.zeros(2, 1000), torch.zeros(2, 1000))
    assert torch.equal(same[0], same[1]) and 0.8 < same.std() < 1.2
    z, kl = torch.func.vmap(VF.rsample_kl, randomness="different")(torch.zeros(2, 5, 9), torch.zeros(2, 5, 9))
    assert not torch.equal(z[0], z[1]) and kl.shape == (2, 5)
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


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint_refuses_a_generator(use_reentrant):
    """It would be silently wrong: checkpoint restores the default generators only."""
    mu, logvar = torch.randn(4, 30, requires_grad=True), torch.randn(4, 30, requires_grad=True)
    generator = torch.Generator().manual_seed(1)

    def block(mu, logvar):
        return VF.reparameterize(mu, logvar, generator=generator).square()

    z = checkpoint(block, mu, logvar, use_reentrant=use_reentrant)
    with pytest.raises(RuntimeError, match="cannot draw the same noise from generator"):
        z.sum().backward()


def test_fork_rng():
    mu = logvar = torch.zeros(100)
    torch.manual_seed(5)
    first = VF.reparameterize(mu, logvar)
    torch.manual_seed(5)
    with torch.random.fork_rng():
        assert torch.equal(VF.reparameterize(mu, logvar), first)
        VF.reparameterize(mu, logvar)
    assert torch.equal(VF.reparameterize(mu, logvar), first)
    assert not torch.equal(VF.reparameterize(mu, logvar), first)


def test_a_compiled_loss_sweeps_once_each_way():
    """Forward without gradients, and backward each term once: no work for outputs that nobody asked for."""
    torch._dynamo.reset()
    counts = []

    def count(graph, example_inputs):
        from functorch.compile import make_boxed_func
        from torch._dynamo.backends.common import aot_autograd

        def record(module, _):
            counts.append(sorted(str(n.target) for n in module.graph.nodes if "vaefast" in str(n.target)))
            return make_boxed_func(module.forward)

        return aot_autograd(fw_compiler=record, bw_compiler=record)(graph, example_inputs)

    args = [t.requires_grad_() for t in inputs(dtype=torch.float32)]
    torch.compile(ELBOLoss(), fullgraph=True, backend=count)(*args).backward()
    assert counts == [["vaefast.elbo.default"], ["vaefast.row_sum.default"] * 2]


@pytest.mark.slow
def test_ahead_of_time():
    """Exported, compiled and packaged for a program without Python, and loaded again, for another batch. All operators
    are in it, and every form of a spread: a packaged program would lose an argument that is an empty list."""

    class Step(nn.Module):
        def forward(self, logits, x, mu, logvar):
            prior, sigma = {"prior_mu": mu + 1, "prior_logvar": 0.5 * logvar}, (0.5 * logvar).exp()
            z, kl = VF.rsample_kl(mu, log_scale=logvar)
            return (
                ELBOLoss()(logits, x, mu, logvar),
                ELBOLoss()(logits, x, mu, logvar, beta=0.5, **prior),
                ELBOLoss()(logits, x, mu, scale=sigma),
                ELBOLoss(likelihood="gaussian", reduction="sum")(logits, x, mu, log_scale=logvar),
                ELBOLoss()(logits, x, mu, logvar, mask=x > 0.5, weight=x[:, 0], return_parts=True)[1].log_likelihood,
                VF.bernoulli_log_likelihood(logits, x),
                VF.gaussian_kl(mu, logvar, **prior),
                VF.gaussian_kl(mu, scale=sigma),
                kl + 0 * (z + VF.reparameterize(mu, logvar)).sum(),  # not the noise, which differs
            )

    args = inputs(dtype=torch.float32)
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(Step(), args, dynamic_shapes=({0: batch},) * 4)
    compiled = torch._inductor.aoti_load_package(torch._inductor.aoti_compile_and_package(program))
    for case in (args, inputs(33, torch.float32)):
        torch.testing.assert_close(compiled(*case), Step()(*case))


@pytest.mark.parametrize("gradient", ["standard", "stl", "dreg"])
def test_iwae_compiled_and_under_torch_func(gradient):
    """With a weight and a prior of its own."""
    prior = torch.distributions.Independent(torch.distributions.Normal(torch.ones(2), 2.0), 1)
    criterion, x = IWAELoss(gradient=gradient, prior=prior), torch.rand(4, 5).round()
    eps, head, weight = torch.randn(3, 4, 2), torch.randn(2, 5), torch.rand(4)

    def loss(mu, logvar):
        z = VF.reparameterize(mu, logvar, num_samples=3, eps=eps)
        return criterion(z @ head, x, z, mu, logvar, weight=weight)

    mu, logvar = (torch.randn(4, 2).requires_grad_() for _ in range(2))
    expected = torch.autograd.grad(loss(mu, logvar), (mu, logvar))
    compiled = torch.compile(loss, fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(mu, logvar), (mu, logvar)), expected, rtol=1e-4, atol=1e-6)
    if gradient == "dreg":
        return
    functional = torch.func.grad(loss, (0, 1))(mu.detach(), logvar.detach())
    torch.testing.assert_close(functional, expected, rtol=1e-4, atol=1e-6)
