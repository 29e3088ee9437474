"""The multinomial: exact values far out, how counts may be given, masks, every way of calling it, and its draws."""

import math
import re

import mpmath
import pytest
import torch

import vaefast
from tests import matrix
from tests.matrix.operations import BATCH, D, Operation
from tests.matrix.test_compose import SLOW
from vaefast import functional as VF
from vaefast.likelihoods import Multinomial

F64 = torch.float64
INF, NAN = math.inf, math.nan
# logits, counts: usual ones, many draws near their means and far from them, one item, fractions, logits far apart
FAR = [
    ((0.3, -1.2, 0.0, 2.0), (1, 0, 2, 5)),
    ((0.0, 1.0, 2.0), (90_030_573, 244_728_471, 665_240_956)),
    ((0.0, 1.0, 2.0), (3_000_000_000, 1_000_000_000, 0)),
    ((5.0,), (7,)),
    ((0.0, 0.1, -0.1), (0.5, 1.25, 0.0)),
    ((800.0, -20.0, 3.0), (4, 1, 0)),
    ((1e6, -1e6, 0.0), (0, 1, 2)),
    ((-3e4, -3e4, -3e4 + 2), (10**6, 10**6, 7 * 10**6)),
    ((0.0, 0.0), (0, 1)),
]


def plain(logits, x):
    """Written out, of the last dimension."""
    return torch.lgamma(x.sum(-1) + 1) - torch.lgamma(x + 1).sum(-1) + (x * logits.log_softmax(-1)).sum(-1)


def _mp_log_prob(logits, x):
    log_z = mpmath.log(mpmath.fsum(mpmath.exp(t) for t in logits))
    each = (n * (t - log_z) - mpmath.loggamma(n + 1) for t, n in zip(logits, x, strict=True))
    return mpmath.loggamma(mpmath.fsum(x) + 1) + mpmath.fsum(each)


@pytest.mark.parametrize("by_node", [True, False])
@pytest.mark.parametrize("row", FAR, ids=str)
def test_values_and_gradients_against_mpmath(row, by_node):
    """To 1e-10 in float64: of the value, of n for the gradient. By the node, and by the composite, which the gradient of x
    asks for."""
    logits = torch.tensor([row[0]], dtype=F64, requires_grad=True)
    x = torch.tensor([row[1]], dtype=F64, requires_grad=not by_node)
    value = Multinomial().log_prob(logits, x)
    grads = torch.autograd.grad(value, (logits,) if by_node else (logits, x))
    with mpmath.workdps(60):
        l, c = ([mpmath.mpf(t) for t in given] for given in row)
        exact, n, z = _mp_log_prob(l, c), mpmath.fsum(c), mpmath.fsum(mpmath.exp(t) for t in l)
        assert abs(value.item() - exact) <= 1e-10 * abs(exact) + 1e-14
        for d, g in enumerate(grads[0][0].tolist()):
            assert abs(g - (c[d] - n * mpmath.exp(l[d]) / z)) <= 1e-10 * n
        for d, g in enumerate([] if by_node else grads[1][0].tolist()):
            slope = l[d] - mpmath.log(z) + mpmath.digamma(n + 1) - mpmath.digamma(c[d] + 1)
            assert abs(g - slope) <= 1e-10 * (abs(slope) + mpmath.digamma(n + 2))


def drawn(*shape, dtype=F64, most=20.0):
    torch.manual_seed(0)
    return (2 * torch.randn(shape, dtype=dtype)).requires_grad_(), torch.poisson(most * torch.rand(shape) ** 4)


@pytest.mark.parametrize(
    ("shape", "batch_dims"), [((5, 30), 1), ((5, 3, 4), 1), ((5, 3, 4), 2), ((6, 2, 3, 2), 2), ((7,), 0)]
)
def test_against_torch(shape, batch_dims):
    """Values and gradients, of each shape and reduction. All dimensions after the batch are one distribution's."""
    logits, x = drawn(*shape)
    items = math.prod(shape[batch_dims:])
    rows = list(zip(logits.reshape(-1, items), x.double().reshape(-1, items), strict=True))
    exact = torch.stack([torch.distributions.Multinomial(int(n.sum()), logits=row).log_prob(n) for row, n in rows])
    exact = exact.view(shape[:batch_dims])
    for reduction, expected in (("none", exact), ("sum", exact.sum()), ("mean", exact.mean())):
        got = Multinomial().log_prob(logits, x, batch_dims=batch_dims, reduction=reduction)
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
        upstream = torch.linspace(-1, 2, expected.numel(), dtype=F64).view(expected.shape)
        ours, theirs = (torch.autograd.grad(v, logits, upstream, retain_graph=True)[0] for v in (got, expected))
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("most", [3.0, 3e3, 3e6])
@pytest.mark.parametrize("fitted", [False, True])
def test_float32(most, fitted, isa):
    """With u = 2^-24: a logarithm of a share or of a rate is off by at most 4 u of its size and one common offset, which
    cancels as counts and rates have one sum; the other parts by 8 u of their sizes. Near the means that is next to nothing
    of what the formula loses, written out in float32."""
    logits, x = drawn(20, 50, dtype=torch.float32, most=most)
    logits = (x + 0.5).log() if fitted else logits.detach()
    logits.requires_grad_()
    wide, n = logits.detach().double(), x.double().sum(1, keepdim=True)
    rate, log_rate = n * wide.softmax(1), n.log() + wide.log_softmax(1)
    exact = Multinomial().log_prob(wide, x)
    parts = torch.distributions.Poisson(rate).log_prob(x.double()).abs().sum(1) + exact.abs() + 10
    size = ((x - rate).abs() * (1 + log_rate.abs() + wide.log_softmax(1).abs())).sum(1)
    bound = 2.0**-24 * (4 * size + 8 * parts)
    value = Multinomial().log_prob(logits, x)
    assert ((value.double() - exact).abs() <= bound).all()
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert ((gradient.double() - (x - rate)).abs() <= 2.0**-24 * rate * (40 + 4 * log_rate.abs()) + 2.0**-24 * x).all()
    if fitted and most > 1e6:
        assert 100 * (value.double() - exact).abs().max() < (plain(logits, x).double() - exact).abs().max()


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.float16, F64])  # fmt: skip
def test_counts_of_any_type(dtype):
    logits, x = drawn(4, 30, dtype=torch.float32)
    x = x.clamp(max=1) if dtype is torch.bool else x
    results = []
    for counts in (x, x.to(dtype)):
        value = Multinomial().log_prob(logits, counts)
        results.append((value, *torch.autograd.grad(value.sum(), logits)))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast(dtype):
    """Arithmetic and values are float32, and the gradient is rounded once."""
    logits, x = drawn(4, 30, dtype=torch.float32)
    half = logits.detach().to(dtype).requires_grad_()
    single = half.detach().float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, expected = Multinomial().log_prob(half, x), Multinomial().log_prob(single, x)
    assert value.dtype is torch.float32 and torch.equal(value, expected)
    assert torch.equal(value, Multinomial().log_prob(single, x))
    (got,), (wide,) = torch.autograd.grad(value.sum(), half), torch.autograd.grad(expected.sum(), single)
    assert got.dtype is dtype and torch.equal(got, wide.to(dtype))


# logits, counts, value, gradient (None: all NaN)
EDGES = {
    "no counts": ((0.0, 1.0, 2.0), (0, 0, 0), 0.0, (0, 0, 0)),
    "no share, no count": ((0.0, 0.0, -INF), (1, 1, 0), math.log(0.5), (0, 0, 0)),
    "no share, a count": ((0.0, 1.0, -INF), (1, 2, 1), -INF, (0, 0, 0)),
    "no count and share of many": ((0.0, -INF, -INF), (9, 0, 0), 0.0, (0, 0, 0)),
    "below 0": ((0.0, 1.0, 2.0), (1, 2, -1), -INF, (0, 0, 0)),
    "only below 0": ((0.0, 1.0, 2.0), (0, 0, -1), -INF, (0, 0, 0)),
    "a fraction below 0": ((0.0, 1.0, 2.0), (1, 2, -0.5), -INF, (0, 0, 0)),
    "minus 0": ((0.0, 0.0), (-0.0, 1), math.log(0.5), (-0.5, 0.5)),
    "huge logits": ((1e30, -3e38, 0.0), (3, 0, 0), 0.0, (0, 0, 0)),
    "a huge deficit": ((1e20, 0.0), (0, 1), -1e20, (-1, 1)),
    "NaN for a count": ((0.0, 1.0, 2.0), (1, NAN, 1), NAN, None),
    "NaN for a logit": ((0.0, NAN, 2.0), (1, 1, 1), NAN, None),
    "NaN for a logit, no counts": ((0.0, NAN, 2.0), (0, 0, 0), NAN, None),
    "no share at all": ((-INF, -INF), (1, 1), NAN, None),
}


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("way", ["node", "gradient of x", "torch.func"])
@pytest.mark.parametrize("edge", EDGES)
def test_edges(edge, way, dtype):
    """The second row is an ordinary one, which the first must not touch."""
    given, counts, exact, slopes = EDGES[edge]
    logits = torch.stack([torch.tensor(given, dtype=dtype), torch.zeros(len(given), dtype=dtype)])
    x = torch.stack([torch.tensor(counts, dtype=dtype), torch.ones(len(given), dtype=dtype)])

    def total(logits):
        value = Multinomial().log_prob(logits, x)
        return value.sum(), value

    if way == "torch.func":
        gradient, value = torch.func.grad(total, has_aux=True)(logits)
    else:
        logits.requires_grad_()
        x.requires_grad_(way == "gradient of x")
        loss, value = total(logits)
        gradient = torch.autograd.grad(loss, logits)[0]
    expected = torch.tensor(slopes or (NAN,) * len(given), dtype=dtype)
    torch.testing.assert_close(value[0].item(), exact, rtol=1e-6, atol=1e-6, equal_nan=True)
    torch.testing.assert_close(gradient[0], expected, rtol=1e-6, atol=2e-6, equal_nan=True)
    if slopes == (0, 0, 0) and exact in (0.0, -INF) and not any(c > 0 for c in counts if exact == 0.0):
        assert not gradient[0].any()  # exactly
    torch.testing.assert_close(value[1].item(), math.lgamma(len(given) + 1) - len(given) * math.log(len(given)))


def test_the_gradient_of_x_where_there_are_no_counts():
    logits, _ = drawn(3, 4)
    x = torch.zeros(3, 4, dtype=F64, requires_grad=True)
    (gradient,) = torch.autograd.grad(Multinomial().log_prob(logits, x).sum(), x)
    torch.testing.assert_close(gradient, logits.log_softmax(1), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(6, 20), (6, 1), (20,), (1, 1), ()])
def test_a_masked_item_is_left_out_of_the_distribution(shape):
    logits, x = drawn(6, 20)
    mask = torch.rand(shape) < 0.6
    kept = mask.expand(6, 20)
    hidden = logits.detach().masked_fill(~kept, NAN).requires_grad_()
    value = Multinomial().log_prob(hidden, x.masked_fill(~kept, NAN), mask=mask)
    (gradient,) = torch.autograd.grad(value.sum(), hidden)
    for row in range(6):
        some = logits[row, kept[row]]
        expected = plain(some, x[row, kept[row]].double()) if some.numel() else torch.zeros((), dtype=F64)
        torch.testing.assert_close(value[row], expected, rtol=1e-10, atol=1e-10)
        slope = torch.autograd.grad(expected, logits)[0][row] if some.numel() else torch.zeros(20, dtype=F64)
        torch.testing.assert_close(gradient[row], slope, rtol=1e-10, atol=1e-10)
    assert not gradient[~kept].any()


def test_target_scale():
    logits, x = drawn(4, 30)
    got = Multinomial(target_scale=3.0).log_prob(logits, x.to(torch.uint8))
    torch.testing.assert_close(got, Multinomial().log_prob(logits, 3 * x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(*(torch.autograd.grad(v.sum(), logits) for v in (got, plain(logits, 3 * x.double()))))


COUNTS = torch.arange(BATCH * D).remainder(4).view(BATCH, D).double()
OPERATIONS = (
    Operation("node", lambda t: Multinomial().log_prob(t, COUNTS), lambda t: plain(t, COUNTS), ("logits",)),
    Operation("gradient of x", Multinomial().log_prob, plain, ("logits", "rate")),
    Operation(
        "ELBOLoss multinomial", vaefast.ELBOLoss("multinomial"),
        lambda r, x, m, v: (vaefast.reference.gaussian_kl(m, v).sum(1) - plain(r, x)).mean(), ("logits", "rate", "mu", "logvar"),
    ),
)  # fmt: skip
# torch.compile and export see no node, so one operation shows them. The node's counts are a constant of the function, of one
# device and one kind of tensor.
COMPILED, OTHER_TENSORS = "compile|export", "sharded|meta|fake"
WAYS = [
    pytest.param(
        mode,
        operation,
        id=f"{mode.name}-{operation.name}",
        marks=[pytest.mark.slow] * any(p in mode.name for p in SLOW),
    )
    for mode in matrix.modes()
    for operation in OPERATIONS
    if operation is OPERATIONS[-1] or not re.search(COMPILED, mode.name)
    if operation is not OPERATIONS[0] or not re.search(OTHER_TENSORS, mode.name)
]


@pytest.fixture(scope="module")
def _one_process():
    matrix.one_process()
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("mode", "operation"), WAYS)
@pytest.mark.filterwarnings("ignore")
def test_every_way_of_calling_it(mode, operation, _one_process):
    kind, said = matrix.outcome(mode, operation)
    raises = re.match("double_backward, compile|vmap, compile dynamic|jvp_over_autograd", mode.name)
    assert kind == "right" or (kind == "raises" and raises), said


def test_the_node_is_used_where_it_may_be():
    logits, x = drawn(4, 6)
    node = "PoissonOfSharesBackward"

    def names(fn):
        return {type(fn).__name__}.union(*(names(f) for f, _ in fn.next_functions if f is not None))

    assert node in names(Multinomial().log_prob(logits, x).grad_fn)
    assert node not in names(Multinomial().log_prob(logits, x.requires_grad_()).grad_fn)
    assert Multinomial().log_prob(logits.detach(), x.detach()).grad_fn is None


def test_second_derivatives_and_batches_of_gradients():
    logits, x = drawn(3, 4)
    x[0] = 0  # no counts
    assert torch.autograd.gradcheck(lambda t: Multinomial().log_prob(t, x), logits, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(lambda t: Multinomial().log_prob(t, x), logits, check_batched_grad=True)
    some = (x[1:].double() + 0.5).requires_grad_()
    assert torch.autograd.gradgradcheck(Multinomial().log_prob, (logits[1:].detach().requires_grad_(), some))


def test_a_second_backward_pass_has_the_first_ones_gradient():
    logits, x = drawn(4, 6)
    value = Multinomial().log_prob(logits, x)
    (first,) = torch.autograd.grad(value.sum(), logits, retain_graph=True)
    (second,) = torch.autograd.grad(3 * value.sum(), logits)
    torch.testing.assert_close(second, 3 * first)


def test_every_loss_takes_it():
    logits, x = drawn(5, 8)
    mu, logvar = torch.randn(5, 2, dtype=F64), torch.randn(5, 2, dtype=F64)
    mask = torch.rand(5, 8) < 0.7
    fit, kl = plain(logits, x.double()), VF.gaussian_kl(mu, logvar)
    same = {"rtol": 1e-10, "atol": 1e-10}
    for reduction, expected in (("mean", (kl - fit).mean()), ("sum", (kl - fit).sum()), ("none", kl - fit)):
        criterion = vaefast.ELBOLoss("multinomial", reduction=reduction, validate=True)
        loss, parts = criterion(logits, x, mu, logvar, return_parts=True)
        torch.testing.assert_close(loss, expected, **same)
        torch.testing.assert_close(parts.log_likelihood, fit, **same)
    parts = VF.elbo(logits, x, mu, logvar, likelihood="multinomial", mask=mask)
    torch.testing.assert_close(parts.log_likelihood, Multinomial().log_prob(logits, x, mask=mask), **same)
    z, many = torch.randn(3, 5, 2, dtype=F64), torch.randn(3, 5, 8, dtype=F64)
    weights = VF.log_weights(many, x, z, mu, logvar, likelihood="multinomial", mask=mask)
    each = torch.stack([Multinomial().log_prob(row, x, mask=mask) for row in many])
    torch.testing.assert_close(
        weights,
        each + VF.gaussian_log_prob(z, batch_dims=2) - VF.gaussian_log_prob(z, mu, logvar, batch_dims=2),
        **same,
    )
    loss = vaefast.IWAELoss("multinomial", samples_dim=1)(
        many.transpose(0, 1), x, z.transpose(0, 1), mu, logvar, mask=mask
    )
    torch.testing.assert_close(loss, -VF.iwae_bound(weights).mean(), **same)
    with pytest.raises(ValueError, match="Multinomial targets must be whole numbers"):
        vaefast.ELBOLoss("multinomial", validate=True)(logits, x + 0.5, mu, logvar)


def test_a_model():
    vae = vaefast.mlp_vae((9,), 2, (8,), likelihood=Multinomial(total_count=30))
    x = torch.poisson(torch.ones(6, 9))
    vae.loss(x).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.parameters())
    torch.testing.assert_close(vae.reconstruct(x).sum(1), torch.full((6,), 30.0))
    assert torch.equal(vae.sample(5, draw=True).sum(1), torch.full((5,), 30.0))


def test_mean_and_samples():
    """By default the shares and one draw; all items after the batch are one distribution's."""
    logits = torch.randn(1, 2, 3)
    shares = logits.double().flatten(1).softmax(1).view(1, 2, 3)
    torch.testing.assert_close(Multinomial().mean(logits), shares.float())
    torch.testing.assert_close(Multinomial(7).mean(logits.half()), (7 * shares).half(), rtol=2e-3, atol=1e-3)
    n, most = 20_000, 7
    g = torch.Generator().manual_seed(0)
    drawn = Multinomial(total_count=most).sample(logits.half().expand(n, 2, 3), generator=g)
    assert drawn.dtype is torch.float32 and drawn.shape == (n, 2, 3) and (drawn.flatten(1).sum(1) == most).all()
    error = (drawn.double().mean(0) - most * shares[0]).abs() / (most * shares[0] * (1 - shares[0]) / n).sqrt()
    assert error.max() < 5
    covariance = torch.cov(drawn.double().flatten(1).T)
    p = shares.flatten()
    torch.testing.assert_close(covariance, most * (p.diag() - p[:, None] * p), rtol=0, atol=0.06)
    assert Multinomial().sample(torch.zeros(0, 4)).shape == (0, 4)
    assert repr(Multinomial(total_count=3)) == "Multinomial(total_count=3)"


def test_probabilities_add_up_to_1():
    """Of all ways to divide 6 draws among 3 items."""
    x = torch.tensor([(a, b, 6 - a - b) for a in range(7) for b in range(7 - a)])
    log_p = Multinomial().log_prob(torch.randn(3, dtype=F64).expand(len(x), 3), x)
    assert abs(log_p.exp().sum().item() - 1) < 1e-12


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_empty(shape):
    logits = torch.zeros(shape, requires_grad=True)
    value = Multinomial().log_prob(logits, torch.zeros(shape, dtype=torch.int64))
    assert value.shape == shape[:1] and not value.any()
    assert torch.autograd.grad(value.sum(), logits)[0].shape == shape


ZERO, X = torch.zeros(2, 3), torch.ones(2, 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Multinomial(0), ValueError, "Multinomial: total_count must be an int of at least 1, got 0"),
        (lambda: Multinomial(2.0), TypeError, "Multinomial: total_count must be an int, got float"),
        (lambda: Multinomial().log_prob(ZERO, X, reduction="elementwise"), ValueError, "elements of one sample are not independent"),
        (lambda: Multinomial().log_prob(ZERO, X, reduction="batchmean"), ValueError, "reduction must be one of 'none', 'sum', 'mean', got 'batchmean'; write"),
        (lambda: Multinomial().log_prob(ZERO, X[:1]), ValueError, r"x must have the shape of logits, \(2, 3\), got \(1, 3\)"),
        (lambda: Multinomial().log_prob(ZERO[0], X[0]), ValueError, r"recon_x must have dimensions after the batch, got shape \(3,\) with batch_dims=1"),
        (lambda: Multinomial().log_prob(ZERO.sum(), X.sum()), ValueError, r"recon_x must have dimensions after the batch, got shape \(\)"),
        (lambda: Multinomial().log_prob(ZERO, X, batch_dims=3), ValueError, "batch_dims must be between 0 and 2"),
        (lambda: Multinomial().log_prob((ZERO, ZERO), X), ValueError, r"recon_x must be \(logits\), got 2 tensors"),
        (lambda: Multinomial().log_prob(ZERO, X, mask=X), TypeError, "mask must be a bool tensor"),
        (lambda: Multinomial().log_prob(ZERO.long(), X), TypeError, "logits must be float32"),
        (lambda: Multinomial().log_prob(ZERO, None), TypeError, "x must be a torch.Tensor, got NoneType"),
        (lambda: Multinomial().log_prob(ZERO, X.to_sparse()), NotImplementedError, "x is not a dense strided tensor"),
        (lambda: Multinomial().mean(ZERO[0]), ValueError, "recon_x must have dimensions after the batch"),
        (lambda: Multinomial().sample(ZERO[0]), ValueError, "recon_x must have dimensions after the batch"),
    ],
)  # fmt: skip
def test_bad_input(call, error, message):
    with pytest.raises(error, match=f"^vaefast.likelihoods.Multinomial: .*{message.removeprefix('Multinomial: ')}"):
        call()
