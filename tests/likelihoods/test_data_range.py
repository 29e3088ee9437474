"""Data of another range than [0, 1] on a grid: the likelihood of the same data moved there, in the same units."""

import math

import pytest
import torch

import vaefast
from vaefast.likelihoods import DiscretizedLogistic, DiscretizedLogisticMixture

RANGES = [(-1.0, 1.0), (0.0, 255.0), (-3, -1)]
each_range = pytest.mark.parametrize("data_range", RANGES, ids=str)
KINDS = [
    (DiscretizedLogistic, {}, None),
    (DiscretizedLogisticMixture, {}, 0),
    (DiscretizedLogisticMixture, {"channels": "coupled"}, 1),
]
each_kind = pytest.mark.parametrize("kind, options, channels_at", KINDS, ids=["single", "independent", "coupled"])


def drawn(channels_at, levels=16, dtype=torch.float64):
    """Parameters for data in [0, 1], and the data, some of it at the ends of the range."""
    g = torch.Generator().manual_seed(3)
    x = torch.randint(0, levels, (3, 3, 4, 5), generator=g) / torch.tensor(levels - 1, dtype=dtype)
    shape = (3, 3, 4, 5) if channels_at is None else (3, 2, 3, 4, 5)
    mean, width = (torch.rand(shape, generator=g, dtype=dtype) for _ in range(2))
    if channels_at is None:
        return (mean, width - 3), x
    logits = torch.randn(shape[:2] + shape[2 + channels_at :], generator=g, dtype=dtype)
    coef = (torch.randn(3, 2, 3, 4, 5, generator=g, dtype=dtype),) * channels_at
    return (logits, mean, width - 3, *coef), x


def moved(parameters, x, data_range, single):
    low, width = data_range[0], data_range[1] - data_range[0]
    *logits, mean, log_scale = parameters[: 2 if single else 3]
    return (
        *logits,
        low + width * mean,
        log_scale + math.log(width),
        *parameters[2 if single else 3 :],
    ), low + width * x


@each_range
@each_kind
@pytest.mark.parametrize("transformed", [False, True])
def test_it_is_the_likelihood_of_the_moved_data(kind, options, channels_at, data_range, transformed, isa):
    """Value and gradients, by the kernel and by the formula; masked, too."""
    parameters, x = drawn(channels_at)
    there, y = moved(parameters, x, data_range, channels_at is None)
    mask = torch.rand(3, 1, 4, 5) > 0.3
    results = []
    for given, data, width, likelihood in (
        (parameters, x, 1.0, kind(levels=16, **options)),
        (there, y, data_range[1] - data_range[0], kind(levels=16, data_range=data_range, **options)),
    ):

        def total(*given, likelihood=likelihood, data=data):
            return likelihood.log_prob(given, data, mask=mask, reduction="sum")  # fmt: skip

        leaves = [t.clone().requires_grad_() for t in given]
        value = total(*leaves)
        grads = torch.func.grad(total, tuple(range(len(given))))(*given) if transformed else torch.autograd.grad(value, leaves)  # fmt: skip
        at = 0 if channels_at is None else 1
        results.append((value.detach(), *(g.detach() * (width if k == at else 1) for k, g in enumerate(grads))))
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


@each_kind
def test_all_values_have_probability_1(kind, options, channels_at):
    """The probabilities of a pixel's values add up to 1: the outer bins are those of the range's ends."""
    parameters, _ = drawn(channels_at, levels=4)
    (there, grid) = moved(parameters, torch.arange(4, dtype=torch.float64) / 3, (-1.0, 1.0), channels_at is None)
    likelihood = kind(levels=4, data_range=(-1, 1), **options)
    total = torch.zeros((), dtype=torch.float64)
    for values in torch.cartesian_prod(grid, grid, grid):
        x = values[:, None, None].expand(3, 3, 4, 5)
        each = likelihood.log_prob(there, x, reduction="elementwise")
        total = total + each.sum(1).exp()
    torch.testing.assert_close(total, torch.ones(3, 4, 5, dtype=torch.float64))


@each_range
@each_kind
def test_means_and_samples_lie_in_the_range(kind, options, channels_at, data_range):
    parameters, x = drawn(channels_at)
    there, _ = moved(parameters, x, data_range, channels_at is None)
    unit, likelihood = kind(levels=16, **options), kind(levels=16, data_range=data_range, **options)
    low, width = data_range[0], data_range[1] - data_range[0]
    torch.testing.assert_close(likelihood.mean(there), low + width * unit.mean(parameters))
    samples = [each.sample(p, generator=torch.Generator().manual_seed(0)) for each, p in ((likelihood, there), (unit, parameters))]  # fmt: skip
    torch.testing.assert_close(samples[0], low + width * samples[1])
    assert likelihood.log_prob(there, samples[0]).isfinite().all()


@each_kind
def test_in_a_loss(kind, options, channels_at):
    """Float32: the loss of the moved data is that of the data, and data outside of the range is refused."""
    parameters, x = drawn(channels_at, dtype=torch.float32)
    there, y = moved(parameters, x, (-1.0, 1.0), channels_at is None)
    mu = torch.zeros(3, 2)
    plain = vaefast.ELBOLoss(kind(levels=16, **options))(parameters, x, mu, mu)
    criterion = vaefast.ELBOLoss(kind(levels=16, data_range=(-1, 1), **options))
    torch.testing.assert_close(criterion(there, y, mu, mu), plain, rtol=1e-5, atol=0)
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(there, y, mu, mu), plain, rtol=1e-5, atol=0)
    strict = vaefast.ELBOLoss(kind(levels=16, data_range=(-1, 1), **options), validate=True)
    strict(there, y, mu, mu)
    with pytest.raises(ValueError, match=r"targets must lie in \[-1, 1\]"):
        strict(there, 2 * y, mu, mu)


def test_scaled_bytes():
    """target_scale comes first, and then the range."""
    bytes_, mean = torch.arange(256, dtype=torch.uint8).view(1, 256), torch.zeros(1, 256)
    likelihood = DiscretizedLogistic(target_scale=2 / 255, data_range=(0, 2))
    expected = DiscretizedLogistic().log_prob((mean, mean), bytes_ / 255)
    torch.testing.assert_close(likelihood.log_prob((2 * mean, mean + math.log(2)), bytes_), expected)


@each_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("data", [torch.uint8, torch.bool, torch.float32, None])
def test_any_type(kind, options, channels_at, dtype, data):
    """What the parameters and the data hold is not rounded before it is moved; None: the parameters' type."""
    parameters, x = drawn(channels_at, levels=2, dtype=dtype)
    there, _ = moved(parameters, x, (-1.0, 1.0), channels_at is None)
    y = x.to(data or dtype)
    likelihood = kind(levels=3, data_range=(-1, 1), **options)
    got = likelihood.log_prob(there, y)
    assert got.dtype is torch.promote_types(dtype, torch.float32)
    expected = likelihood.log_prob(tuple(t.double() for t in there), y.double())
    rtol = 1e-13 if dtype is torch.float64 else 2e-5
    torch.testing.assert_close(got.double(), expected, rtol=rtol, atol=rtol)


def test_channels_last_and_scaled_bytes():
    """Each of them leads to other loops."""
    parameters, _ = drawn(1, dtype=torch.float32)
    there, _ = moved(parameters, torch.zeros(1), (-1.0, 1.0), False)
    last = tuple(t.movedim(2, -1).contiguous().movedim(-1, 2) for t in there)
    bytes_ = torch.randint(-127, 128, (3, 3, 4, 5), dtype=torch.int8).float()
    likelihood = DiscretizedLogisticMixture(255, "coupled", 1 / 127, (-1, 1))
    expected = DiscretizedLogisticMixture(255, "coupled", data_range=(-1, 1)).log_prob(there, bytes_ / 127)
    torch.testing.assert_close(likelihood.log_prob(last, bytes_), expected)


@pytest.mark.parametrize("kind", [DiscretizedLogistic, DiscretizedLogisticMixture])
def test_a_wrong_range_is_refused(kind):
    for wrong, error in (((1, -1), ValueError), ((0, 0), ValueError), ((0, math.inf), ValueError), (2, TypeError), ((0, 1, 2), TypeError), (("a", 1), TypeError)):  # fmt: skip
        with pytest.raises(error, match="data_range"):
            kind(data_range=wrong)
    assert repr(kind(data_range=(-1, 1))) == f"{kind.__name__}(data_range=(-1.0, 1.0))"
