"""What only a GPU can show. The tables of the other files run there, too: `python -m pytest --device cuda tests/ops/test_term.py
tests/losses/test_{elbo,options,inplace}.py tests/ops/test_fast_path.py`. Without a GPU these are skipped; VAEFAST_REQUIRE_CUDA=1 makes that a failure."""

import math

import pytest
import torch

import vaefast
from tests.support import accuracy
from vaefast import functional as VF
from vaefast.ops import library
from vaefast.ops.sample import _noise

pytestmark = pytest.mark.usefixtures("gpu")


def inputs(batch=64, pixels=784, latents=20, dtype=torch.float32):
    logits, mu, logvar = (torch.randn(batch, n, dtype=dtype).requires_grad_() for n in (pixels, latents, latents))
    return logits, torch.rand(batch, pixels).round().to(dtype), mu, logvar


@pytest.mark.parametrize("quantity", accuracy.QUANTITIES, ids=lambda q: f"{q.term}-{q.output}-{q.unit}")
def test_errors_stay_within_the_published_bounds(quantity):
    with torch.device("cpu"):
        error, where, outside = accuracy.worst(quantity, 400_000, device="cuda")
    assert outside == 0, f"{error:.2f} {quantity.unit} at {where}"


@pytest.mark.parametrize("sizes", [(7, 33, 5), (128, 784, 20), (9, 5000, 64), (2, 40001, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_the_loss_is_the_cpus(sizes, dtype):
    args = inputs(*sizes, dtype=dtype)
    there = [t.detach().cpu().requires_grad_(t.requires_grad) for t in args]
    for options in ({}, {"reduction": "sum", "beta": 0.5}, {"reduction": "none"}):
        criterion = vaefast.ELBOLoss(**options)
        got, expected = criterion(*args), criterion(*there)
        torch.testing.assert_close(got.cpu(), expected, rtol=2e-6 if dtype != torch.float64 else 1e-13, atol=0)
        leaves = [[t for t in a if t.requires_grad] for a in (args, there)]
        grads = [torch.autograd.grad(loss.sum(), a) for loss, a in zip((got, expected), leaves, strict=True)]
        tolerance = {torch.float64: 1e-12, torch.float32: 3e-6, torch.bfloat16: 2**-7, torch.float16: 2**-9}[dtype]
        for g, e in zip(*grads, strict=True):
            torch.testing.assert_close(g.cpu(), e, rtol=tolerance, atol=tolerance * e.abs().max().item())


@pytest.mark.parametrize("shape", [(1000, 20), (7, 33), (3, 5, 7), (1_000_003,)], ids=str)
def test_the_noise_is_the_cpus(shape):
    for key in ((0, 0), (1234, 7), (-1, -1)):
        with torch.device("cpu"):
            expected = _noise(torch.empty(shape), 2, torch.tensor(key))
        got = _noise(torch.empty(shape), 2, torch.tensor(key)).cpu()
        assert ((got - expected).abs() <= 4 * 2.0**-23 * expected.abs().clamp(min=0.05)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize("shape", [(64, 20), (64, 784), (5, 33)], ids=str)
def test_samples_and_their_gradients_are_the_cpus(shape, prior, dtype):
    """Alone and beside the KL, in the vector kernel and in the general one."""
    there = [torch.randn(shape, device="cpu").to(dtype) for _ in range(4 if prior else 2)]
    here = [t.cuda() for t in there]
    upstream, kl_upstream = torch.randn(3, *shape, device="cpu").to(dtype), torch.randn(shape[0], device="cpu")
    key = torch.tensor([5, 9], device="cpu")
    tolerance = {torch.float32: 3e-6, torch.bfloat16: 2**-7}[dtype]
    for kl in (False, True) if not prior else (True,):
        expected = library.rsample(there, key, 3, kl, 1, None)[:2]
        got = library.rsample(here, key.cuda(), 3, kl, 1, None)[:2]
        wanted, grad_kl = (1 << len(there)) - 1, kl_upstream if kl else None
        expected += tuple(library.rsample_backward(there, key, upstream, grad_kl, 3, 1, wanted))
        on_gpu = None if grad_kl is None else grad_kl.cuda()
        got += tuple(library.rsample_backward(here, key.cuda(), upstream.cuda(), on_gpu, 3, 1, wanted))
        for g, e in zip(got, expected, strict=True):
            torch.testing.assert_close(g.cpu(), e, rtol=tolerance, atol=tolerance * 4)


def test_the_generator_rules_the_noise():
    mu = torch.zeros(1000)
    generator = torch.Generator("cuda")
    draws = [VF.reparameterize(mu, mu, generator=generator.manual_seed(5)) for _ in range(2)]
    assert torch.equal(*draws)
    torch.manual_seed(5)
    assert torch.equal(VF.reparameterize(mu, mu), draws[0]) and not torch.equal(VF.reparameterize(mu, mu), draws[0])
    with pytest.raises(ValueError, match="generator is on cpu but the tensors are on cuda"):
        VF.reparameterize(mu, mu, generator=torch.Generator("cpu"))


def test_nothing_waits_for_the_device():
    args = inputs()
    criterion = vaefast.ELBOLoss()
    criterion(*args).backward()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        criterion(*args).backward()
        criterion(*args, beta=torch.ones((), device="cuda"), weight=torch.ones(64, device="cuda")).backward()
        z, kl = VF.rsample_kl(*args[2:])
        (z.sum() + kl.sum()).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_at_most_three_kernels():
    """A forward and a backward pass of the loss; the upstream gradient is given, because torch makes it with a kernel."""
    args, one = inputs(128), torch.ones((), device="cuda")
    leaves = [args[0], *args[2:]]
    criterion = vaefast.ELBOLoss()
    torch.autograd.grad(criterion(*args), leaves, one)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        torch.autograd.grad(criterion(*args), leaves, one)
        torch.cuda.synchronize()
    kernels = [
        e.name for e in profile.events() if e.device_type == torch.profiler.DeviceType.CUDA and "Mem" not in e.name
    ]
    assert 0 < len(kernels) <= 3 and all("vaefast" in name for name in kernels), kernels


def test_an_upstream_gradient_is_applied_on_the_device():
    args = inputs()
    leaves = [args[0], *args[2:]]
    once, thrice = (
        torch.autograd.grad(vaefast.ELBOLoss()(*args), leaves, torch.tensor(factor, device="cuda"))
        for factor in (1.0, 3.0)
    )
    for a, b in zip(once, thrice, strict=True):
        torch.testing.assert_close(3 * a, b, rtol=1e-6, atol=0)


def test_a_side_stream():
    args = inputs(4096)
    expected = vaefast.ELBOLoss()(*args)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # what the loss must wait for
        slow = args[0] + torch.zeros(4096, 784).cumsum(1)
        got = vaefast.ELBOLoss()(slow, *args[1:])
        got.backward()
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(got, expected) and args[0].grad.isfinite().all()


def test_graph_replays_draw_what_eager_calls_draw():
    args = inputs()
    leaves = [args[0], *args[2:]]

    def step():
        z, kl = VF.rsample_kl(*args[2:])
        loss = vaefast.ELBOLoss()(*args) + kl.mean() + z.square().mean()
        return [z, loss, *torch.autograd.grad(loss, leaves)]

    torch.manual_seed(3)
    eager = [[t.clone() for t in step()] for _ in range(2)]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = step()
    torch.manual_seed(3)
    for expected in eager:
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))
    assert not torch.equal(eager[0][0], eager[1][0])


def test_same_bits_on_every_run():
    args = inputs(33, 5000)
    leaves = [args[0], *args[2:]]

    def run():
        loss, parts = vaefast.ELBOLoss()(*args, return_parts=True)
        return [loss, *parts, *torch.autograd.grad(loss, leaves)]

    first = run()
    for _ in range(100):
        assert all(torch.equal(a, b) for a, b in zip(first, run(), strict=True))


@pytest.mark.parametrize("batch", [65535, 65536, 65537])
def test_large_batches(batch):
    mu = torch.randn(batch, 3)
    torch.testing.assert_close(VF.gaussian_kl(mu, mu), 0.5 * (mu**2 + mu.exp() - 1 - mu).sum(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows, dense", [(1, False), (5, False), (1, True), (4, True)])
def test_more_than_2_to_the_31_elements(rows, dense):
    """An odd number of columns in the general kernel, a multiple of 8 in the vector kernel."""
    columns = (2**31 + 17 + rows - 1) // rows
    columns = (columns + 7) // 8 * 8 if dense else columns
    logits = torch.zeros(rows, columns, dtype=torch.bfloat16)
    x = torch.zeros(1, 1, dtype=torch.bool).expand(rows, columns)
    x = torch.zeros(rows, columns, dtype=torch.uint8) if dense else x
    logits[-1, -1] = 100.0
    got = VF.bernoulli_log_likelihood(logits, x)
    assert got[-1].item() == pytest.approx(-columns * math.log(2.0) - 100 + math.log(2.0), rel=2**-22)
    (grad,) = library.row_sum("bernoulli", [logits, x], None, None, "sum", 1, 1.0, 1, False)[1]
    assert grad[-1, -1] == -1 and grad[0, 0] == -0.5 and grad[-1, -2] == -0.5


def test_devices_must_agree():
    logits, x, mu, logvar = inputs(4)
    with pytest.raises(ValueError, match="x is on cpu but"):
        vaefast.ELBOLoss()(logits, x.cpu(), mu, logvar)
    with pytest.raises(ValueError, match="is on cpu but|is on cuda:0 but"):
        vaefast.ELBOLoss()(logits, x, mu.cpu(), logvar.cpu())


def test_compiled():
    torch.compiler.reset()
    args = inputs()
    criterion = torch.compile(vaefast.ELBOLoss(), fullgraph=True)
    torch.testing.assert_close(criterion(*args), vaefast.ELBOLoss()(*args), rtol=1e-6, atol=0)
    criterion(*args).backward()
    assert args[0].grad.isfinite().all()
