"""Counts: exact values far out, how counts and parameters may be given, and the two ways in which a CPU computes zeros."""

import itertools
import math

import mpmath
import pytest
import torch

import vaefast
from vaefast import likelihoods as L
from vaefast import ops
from vaefast.ops import library

F64 = torch.float64
# log_mean, log_theta, gate, x: usual ones, and where a mean or a dispersion is far beyond the range of its type
FAR = [
    (-2.82, -4.19, -4.06, 5000),
    (1.32, 4.92, -0.82, 37),
    (-3.39, 8.24, 2.57, 1),
    (4.48, 21.16, 0.3, 37),
    (6.19, 23.87, -1.0, 1),
    (-6.5, -2.76, 2.31, 0),
    (720.0, 9.0, 0.0, 10),
    (720.0, 9.0, 0.0, 0),
    (0.0, -1000.0, 0.0, 1),
    (-10000.0, -10000.0, 0.0, 1),
    (90.0, 0.0, 30.0, 3),
    (90.0, 0.0, -90.0, 0),
    (1.25, 30.0, 0.0, 5),
    (3.5, 120.0, 0.0, 41),
    (2.0, 3.0, 0.5, 10**9),
]


def _mp_negative_binomial(log_mean, log_theta, x):
    m, r = mpmath.exp(log_mean), mpmath.exp(log_theta)
    by_factors = x < 10**4
    rising = sum(mpmath.log(r + k) for k in range(x)) if by_factors else mpmath.loggamma(x + r) - mpmath.loggamma(r)
    return rising - mpmath.loggamma(x + 1) - r * mpmath.log1p(m / r) - x * mpmath.log1p(r / m)


def _mp_zero_inflated(log_mean, log_theta, gate, x):
    log_open, log_closed = -mpmath.log1p(mpmath.exp(-gate)), -mpmath.log1p(mpmath.exp(gate))
    counted = log_closed + _mp_negative_binomial(log_mean, log_theta, x)
    return counted if x else mpmath.log(mpmath.exp(log_open) + mpmath.exp(counted))


def _mp_poisson(log_mean, log_theta, x):
    return x * log_mean - mpmath.exp(log_mean) - mpmath.loggamma(x + 1)


@pytest.mark.parametrize("row", FAR, ids=str)
@pytest.mark.parametrize("name", ["poisson", "negative_binomial", "zero_inflated_negative_binomial"])
def test_values_and_gradients_against_mpmath(name, row, isa):
    """To 1e-10 of the value, or of the gradient by a logarithm, in float64."""
    log_mean, log_theta, gate, x = row
    given, function = {
        "poisson": ((log_mean,), lambda a: _mp_poisson(a, None, x)),
        "negative_binomial": ((log_mean, log_theta), lambda a, b: _mp_negative_binomial(a, b, x)),
        "zero_inflated_negative_binomial": (row[:3], lambda a, b, g: _mp_zero_inflated(a, b, g, x)),
    }[name]
    if name == "poisson" and log_mean > 700:
        pytest.skip("exp(720) is no float64")
    leaves = [torch.tensor([[t]], dtype=F64, requires_grad=True) for t in given]
    recon_x = tuple(leaves) if len(leaves) > 1 else leaves[0]
    value = L.by_name(name).log_prob(recon_x, torch.tensor([[x]], dtype=F64))
    grads = torch.autograd.grad(value.sum(), leaves)
    with mpmath.workdps(80):
        exact = [mpmath.mpf(t) for t in given]
        assert abs(value.item() - function(*exact)) <= 1e-10 * abs(function(*exact))
        for k, g in enumerate(grads):
            h = mpmath.mpf(10) ** -25
            moved = [[t + (sign * h if j == k else 0) for j, t in enumerate(exact)] for sign in (1, -1)]
            slope = (function(*moved[0]) - function(*moved[1])) / (2 * h)
            assert abs(g.item() - slope) <= 1e-10 * max(abs(slope), mpmath.mpf(10) ** -8 * (1 + abs(given[k]))), (
                k,
                g.item(),
            )


@pytest.mark.parametrize("kind", [L.Poisson, L.NegativeBinomial, L.ZeroInflatedNegativeBinomial])
def test_the_parameters_themselves(kind):
    given = [torch.randn(6, 50, dtype=F64, requires_grad=True) for _ in kind().parameters_expected]
    x = torch.poisson(torch.full((6, 50), 1.5))
    positive = [t.exp() if k < len(kind.positive) else t for k, t in enumerate(given)]
    values = []
    for recon_x, likelihood in ((given, kind()), (positive, kind(log_parameters=False))):
        value = likelihood.log_prob(tuple(recon_x) if len(recon_x) > 1 else recon_x[0], x)
        values.append((value, *torch.autograd.grad(value.sum(), given)))
        mean = likelihood.mean(tuple(recon_x) if len(recon_x) > 1 else recon_x[0])
        values[-1] += (mean,)
    torch.testing.assert_close(values[0], values[1])
    names = [name.removeprefix("log_") for name in kind().parameters_expected]
    assert list(kind(log_parameters=False).parameters_expected) == names


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64, torch.bool])  # fmt: skip
def test_counts_of_any_type(dtype):
    given = tuple(torch.randn(4, 30) for _ in range(3))
    x = torch.randint(0, 2 if dtype is torch.bool else 100, (4, 30))
    for name, recon_x in (
        ("poisson", given[0]),
        ("negative_binomial", given[:2]),
        ("zero_inflated_negative_binomial", given),
    ):
        likelihood = L.by_name(name)
        assert torch.equal(likelihood.log_prob(recon_x, x.to(dtype)), likelihood.log_prob(recon_x, x.float())), name
        mu, criterion = torch.zeros(4, 2), vaefast.ELBOLoss(name)
        assert torch.equal(criterion(recon_x, x.to(dtype), mu, mu), criterion(recon_x, x.float(), mu, mu)), name


def test_only_16_32_and_64_bits_are_read_as_they_are():
    x = torch.ones(2, 3, dtype=torch.int16)
    operands = L.NegativeBinomial().operands((torch.zeros(2, 3), torch.zeros(3)), x)
    assert operands[1] is x and operands[2].shape == (3,)
    with pytest.raises(TypeError, match="x must be float32, .*, bool or uint8, got torch.int16"):
        L.Bernoulli().log_prob(torch.zeros(2, 3), x)


@pytest.mark.parametrize("name", ["poisson", "negative_binomial", "zero_inflated_negative_binomial"])
@pytest.mark.parametrize("transformed", [False, True])
def test_below_0_is_no_count(name, transformed):
    """The value is -inf and the gradients are 0, by the kernel and by the formula. A fraction continues the formula."""
    count = {"poisson": 1, "negative_binomial": 2}.get(name, 3)
    given = [torch.randn(1, 4, requires_grad=True) for _ in range(count)]
    x = torch.tensor([[-1.0, -0.5, 2.5, -0.0]])

    def total(*given):
        value = L.by_name(name).log_prob(given if count > 1 else given[0], x, reduction="elementwise")
        return value[:, 2:].sum() + value[:, :2].clamp(min=-1e30).sum(), value

    if transformed:
        grads, value = torch.func.grad(total, tuple(range(count)), has_aux=True)(*given)
    else:
        loss, value = total(*given)
        grads = torch.autograd.grad(loss, given)
    assert value.tolist()[0][:2] == [-math.inf, -math.inf] and value[0, 2:].isfinite().all()
    assert all(g[0, :2].tolist() == [0, 0] and g[0, 2:].isfinite().all() and g[0, 2] != 0 for g in grads)


@pytest.mark.parametrize("transformed", [False, True])
@pytest.mark.parametrize("count", [0.0, 3.0])
def test_no_rate_mean_or_dispersion_is_below_0(count, transformed, isa):
    """The value of an element whose parameter is below 0 or NaN is NaN, and no other is."""
    good = torch.tensor([0.5, 1.0, 2.0, 1e-3, 1e4, 1e-12])
    x, gate = torch.full((1, 36), count), torch.zeros(1, 36)
    bad = torch.tensor([-1.0, -1e-3, -math.nan, math.nan, -math.inf, 3.0])  # a NaN has a sign, too
    for kind, at in ((L.Poisson, 0), *itertools.product((L.NegativeBinomial, L.ZeroInflatedNegativeBinomial), (0, 1))):
        likelihood = kind(log_parameters=False)
        given = [good.repeat(6)[None] for _ in range(1 if kind is L.Poisson else 2)]
        given[at] = bad.repeat_interleave(6)[None]
        recon_x = (*given, gate) if kind is L.ZeroInflatedNegativeBinomial else given

        def value(*recon_x, likelihood=likelihood):
            return likelihood.log_prob(recon_x if len(recon_x) > 1 else recon_x[0], x, reduction="elementwise")

        got = torch.func.jvp(value, tuple(recon_x), tuple(recon_x))[0] if transformed else value(*recon_x)
        assert torch.equal(got.isnan(), given[at] != 3.0), (kind, at, got)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("count", [0, 1, 40])
def test_a_mean_far_from_its_dispersion(count, dtype, isa):
    """Also where their ratio is not normal in the type, or 0."""
    least, most = (1e-37, 1e37) if dtype is torch.float32 else (1e-300, 1e300)
    sizes = torch.tensor([least, 1e-20, 1e-6, 0.3, 1.0, 5.0, 1e5, 1e20, most], dtype=dtype)
    mean, theta = (t.reshape(1, -1).contiguous().requires_grad_() for t in torch.meshgrid(sizes, sizes, indexing="ij"))
    value = L.NegativeBinomial(log_parameters=False).log_prob((mean, theta), torch.full_like(mean, count), reduction="elementwise")  # fmt: skip
    grads = torch.autograd.grad(value.sum(), (mean, theta))
    for k, (m, r) in enumerate(zip(mean[0].tolist(), theta[0].tolist(), strict=True)):
        m, r = mpmath.mpf(m), mpmath.mpf(r)
        with mpmath.workdps(60 if count else 700):
            psi = mpmath.psi(0, count + r) - mpmath.psi(0, r) if count else 0
            by_mean = (count - m) * r / (m + r) / m
            by_theta = mpmath.log(r / (m + r)) + (m - count) / (m + r) + psi
            exact = _mp_negative_binomial(mpmath.log(m), mpmath.log(r), count)
            parts = (1, 0, (abs(count - m) / (m + r) + min(1, m / r)))  # what may cancel in a result
        for got, e, part in zip((value, *grads), (exact, by_mean, by_theta), parts, strict=True):
            e, bound = float(e), (2e-5 if dtype is torch.float32 else 1e-11) * float(abs(e) + part) + 3e-45
            assert abs(got[0, k].item() - e) <= bound or abs(e) > most, (float(m), float(r), got[0, k].item(), e)


@pytest.mark.parametrize("shape", [(), (1,), (2000,), (1, 2000), (33, 1), (33, 2000)])
@pytest.mark.parametrize("share", [0.0, 0.95])
def test_a_dispersion_of_any_shape(shape, share, isa):
    """Its gradient is that of one expanded, summed; with and without many zeros."""
    torch.manual_seed(0)
    log_mean, gate = torch.randn(33, 2000), torch.randn(33, 2000)
    x = torch.poisson(log_mean.exp()) * (torch.rand(33, 2000) >= share)
    small = torch.randn(shape).requires_grad_()
    mu = torch.zeros(33, 2)
    for name, rest in (("negative_binomial", ()), ("zero_inflated_negative_binomial", (gate,))):
        grads = []
        for full in (False, True):
            theta = small.expand(33, 2000) if full else small
            loss = vaefast.ELBOLoss(name, reduction="sum")((log_mean, theta, *rest), x, mu, mu)
            (grad,) = torch.autograd.grad(loss, small)
            assert grad.shape == shape
            grads.append((loss, grad))
        torch.testing.assert_close(*grads, rtol=2e-5, atol=2e-4)


def test_a_number_is_a_parameter():
    log_mean, x = torch.randn(3, 5), torch.ones(3, 5)
    got = L.NegativeBinomial().log_prob((log_mean, 0.5), x)
    torch.testing.assert_close(got, L.NegativeBinomial().log_prob((log_mean, torch.full((3, 5), 0.5)), x))


@pytest.mark.parametrize("shape", [(300, 1500), (2000, 30), (5, 3, 700), (1, 4000), (40, 1)])
@pytest.mark.parametrize("name", ["gaussian", "negative_binomial"])
def test_sums_over_columns_are_the_same_for_any_number_of_threads(name, shape):
    torch.manual_seed(1)
    first, x = torch.randn(shape), torch.poisson(torch.ones(shape))
    threads = torch.get_num_threads()
    found = []
    for small in (torch.randn(shape[1:]), torch.randn(shape[0], *(1,) * (len(shape) - 1))):
        for n in (1, 2, 3, 7):
            torch.set_num_threads(n)
            found.append(library.row_sum(name, [first, x, small], None, None, "sum", 1, 1.0, 4, True)[1][0])
        torch.set_num_threads(threads)
        assert found[-1].shape == small.shape and all(torch.equal(found[-1], each) for each in found[-4:])
        wide = [t.double().requires_grad_() for t in (first, x, small)]
        (exact,) = torch.autograd.grad(ops.row_sum(name, [wide[0], wide[1], wide[2].expand(shape)]).sum(), wide[2])
        torch.testing.assert_close(found[-1].double(), exact, rtol=1e-4, atol=1e-3)


def test_nothing_is_expanded():
    """One gradient for each operand, of its own size, and a few row sums."""
    log_mean, log_theta, x = torch.randn(64, 5000), torch.randn(5000), torch.ones(64, 5000, dtype=torch.int16)
    operands = [log_mean, x, log_theta]
    library.row_sum("negative_binomial", operands, None, None, "sum", 1, 1.0, 5, True)
    vaefast.ops.empty_cache()
    with torch.profiler.profile(profile_memory=True) as profile:
        library.row_sum("negative_binomial", operands, None, None, "sum", 1, 1.0, 5, True)
    allocated = sum(max(0, e.self_cpu_memory_usage) for e in profile.events())
    assert allocated <= 4 * (log_mean.numel() + log_theta.numel()) + 2**16


def test_zeros_apart_are_the_same_as_zeros_among_counts(isa):
    """A tile of few counts computes all elements as zeros first; what a count gets does not depend on its tile."""
    torch.manual_seed(2)
    given = [torch.randn(1, 1024) for _ in range(3)]
    few = torch.zeros(1, 1024)
    few[:, ::7] = torch.poisson(torch.full((1, 147), 3.0))
    many = few.clone()
    many[:, 1::7] = many[:, 2::7] = many[:, 3::7] = 5.0
    where = torch.ones(1, 1024, dtype=torch.bool)
    where[:, 1::7] = where[:, 2::7] = where[:, 3::7] = False
    for term, operands in (
        ("negative_binomial", given[:2]),
        ("negative_binomial_mean", [t.exp() for t in given[:2]]),
        ("zero_inflated_negative_binomial", given),
    ):
        results = []
        for x in (few, many):
            first, *rest = (t.clone().requires_grad_() for t in operands)
            value = ops.row_sum(term, [first, x, *rest], reduction="elementwise")
            results.append([value.detach(), *torch.autograd.grad(value.sum(), [first, *rest])])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a[where], b[where], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("batch", [(5,), (1,), (1, 5), (5, 1), (2, 3)])
@pytest.mark.parametrize("event", [(40,), (1,), (3, 4)])
def test_every_shape_of_a_shared_parameter(batch, event):
    """Of a batch of one or two dimensions, with sizes of 1, left out or not, contiguous or expanded: value and gradient."""
    shape, dims = (*batch, *event), len(batch)
    log_mean, x = torch.randn(shape), torch.poisson(torch.ones(shape))
    ones = (1,) * dims
    shapes = {(), (1,), event, (*ones, *event), (*batch, *(1,) * len(event)), (*batch[1:], *(1,) * len(event)), shape}
    for small in shapes:
        for view in (lambda t: t, lambda t: t[..., :1].expand(t.shape) if t.dim() else t):
            own = torch.randn(small, requires_grad=True)
            total = ops.row_sum("negative_binomial", [log_mean, x, view(own)], batch_dims=dims)
            full = ops.row_sum(
                "negative_binomial", [log_mean, x, view(own).expand(shape).contiguous()], batch_dims=dims
            )
            torch.testing.assert_close(total, full)
            got, expected = (torch.autograd.grad(each.sum(), own)[0] for each in (total, full))
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_a_scale_for_one_sample_of_importance_weights():
    mu, x, theta = torch.zeros(3, 2), torch.ones(3, 5), torch.zeros(3, 1)
    for k in (1, 2):
        z = torch.randn(k, 3, 2)
        loss = vaefast.IWAELoss("negative_binomial")((torch.zeros(k, 3, 5), theta), x, z, mu, mu)
        assert loss.isfinite()


def test_builders_have_no_decoder_of_positive_numbers():
    with pytest.raises(ValueError, match="log_parameters=False needs a decoder of positive numbers"):
        vaefast.mlp_vae((5,), 2, (4,), likelihood=L.NegativeBinomial(False))


def test_the_values_of_counts_are_checked():
    mu, criterion = torch.zeros(2, 2), vaefast.ELBOLoss("poisson", validate=True)
    criterion(torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.uint16), mu, mu)
    with pytest.raises(ValueError, match="whole numbers"):
        criterion(torch.zeros(2, 3), torch.full((2, 3), 0.5), mu, mu)
    criterion = vaefast.ELBOLoss(L.Poisson(log_parameters=False), validate=True)
    with pytest.raises(ValueError, match=r"Poisson recon_x must lie in \[0, inf\], got values from -1 to -1"):
        criterion(-torch.ones(2, 3), torch.ones(2, 3), mu, mu)
    with pytest.raises(ValueError, match="LogNormal targets must lie in"):
        vaefast.ELBOLoss("log_normal", validate=True)(torch.zeros(2, 3), torch.zeros(2, 3), mu, mu)
