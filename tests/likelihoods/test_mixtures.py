"""Mixtures of discretized logistics: exact values, both memory formats, masks, one pass, and what is refused."""

import math
import random

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn import functional as F

import vaefast
from vaefast import functional as VF
from vaefast import reference
from vaefast.likelihoods import DiscretizedLogistic, DiscretizedLogisticMixture

F64, HALF = torch.float64, 0.5 / 255
COUPLED, INDEPENDENT = DiscretizedLogisticMixture(channels="coupled"), DiscretizedLogisticMixture()


def drawn(M, C, pixels=(4, 7), batch=(3,), dtype=F64, channels_last=False, low=-7.0, high=5.0):
    """A decoder's output for coupled channels, and data on the grid with both of its ends."""
    counts = (M, M * C, M * C, M * C * (C - 1) // 2)
    output = torch.rand(*batch, sum(counts), *pixels, dtype=F64).to(dtype)
    if channels_last:
        output = output.movedim(len(batch), -1).contiguous().movedim(-1, len(batch))
    logits, *rest = output.split(counts, len(batch))
    mean, log_scale, coef = (t.unflatten(len(batch), (M, -1)) if t.shape[len(batch)] else None for t in rest)
    x = torch.rand(*batch, C, *pixels, dtype=F64).mul(1.2).sub(0.1).clamp(0, 1).mul(255).round().div(255).to(dtype)
    parameters = (
        6 * logits - 3,
        1.4 * mean - 0.2,
        low + (high - low) * log_scale,
        *([] if coef is None else [4 * coef - 2]),
    )
    return tuple(t.detach().requires_grad_() for t in parameters), x


def paper(parameters, x, half=HALF):
    """Each pixel's log p in float64, as Salimans et al. 2017 have it, in the unit of x in [0, 1]."""
    logits, mean, log_scale, *coef = parameters
    total = logits.log_softmax(1)
    row = 0
    for c in range(x.shape[1]):
        center = mean[:, :, c]
        for b in range(c):
            center = center + torch.tanh(coef[0][:, :, row]) * (x[:, None, b] - 0.5)
            row += 1
        value, scale = x[:, None, c], log_scale[:, :, c].exp()
        below, above = (value - half - center) / scale, (value + half - center) / scale
        inside = F.logsigmoid(above) + F.logsigmoid(-below) + torch.log(-torch.expm1(-2 * half / scale))
        open_below = torch.where(value <= half, F.logsigmoid(above), inside)
        total = total + torch.where(value >= 1 - half, F.logsigmoid(-below), open_below)
    return total.logsumexp(1)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("C", [1, 2, 3, 4])
@pytest.mark.parametrize("M", [1, 10])
def test_coupled_channels_are_the_papers(M, C, channels_last, isa):
    parameters, x = drawn(M, C, pixels=(9, 11), channels_last=channels_last)
    value = COUPLED.log_prob(parameters, x, reduction="elementwise")
    expected = paper(parameters, x).unsqueeze(1)
    assert value.shape == (3, 1, 9, 11)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
    upstream = torch.rand_like(value)
    found, true = (torch.autograd.grad(v, parameters, upstream) for v in (value, expected))
    for a, b, t in zip(found, true, parameters, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
        assert channels_last == (a.stride(-1) != 1) or 1 in t.shape[1:3]


@pytest.mark.parametrize("channels", ["independent", "coupled"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision(dtype, channels, isa):
    """Arithmetic is float32; the parameters' rounding is not counted. A mean of 1 is rounded by 6e-8, which the precision of
    the narrowest logistic, 150, makes 1e-5 of a log-density's slope."""
    C = 1 if channels == "independent" else 3
    parameters, x = drawn(10, C, dtype=dtype, low=-5.0)
    wide = tuple(t.detach().double().requires_grad_() for t in parameters)
    expected = paper(wide, x.double())
    if channels == "independent":
        given = parameters[0], *(t.squeeze(2) for t in parameters[1:])
        value = INDEPENDENT.log_prob(given, x.squeeze(1), reduction="elementwise")
    else:
        value = COUPLED.log_prob(parameters, x, reduction="elementwise").squeeze(1)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), expected, rtol=2e-6, atol=2e-5)
    found, true = torch.autograd.grad(value.sum(), parameters), torch.autograd.grad(expected.sum(), wide)
    eps = torch.finfo(dtype).eps
    for a, b in zip(found, true, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.double(), b, rtol=max(eps, 2e-4), atol=max(eps, 2e-4))


def test_all_elements_are_independent_where_they_are_not_coupled():
    (logits, mean, log_scale), x = drawn(4, 1)
    single = tuple(t.squeeze(2) for t in (mean, log_scale))
    each = INDEPENDENT.log_prob((logits, *single), x.squeeze(1), reduction="elementwise")
    torch.testing.assert_close(each, COUPLED.log_prob((logits, mean, log_scale), x, reduction="elementwise").squeeze(1))
    rows = INDEPENDENT.log_prob((logits, *single), x.squeeze(1))
    torch.testing.assert_close(rows, each.flatten(1).sum(1))


@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "elementwise"])
def test_reductions_batch_dims_and_bytes(reduction):
    parameters, x = drawn(3, 3, batch=(2, 5))
    each = torch.stack([paper([t[k] for t in parameters], x[k]) for k in range(2)])
    rows = each.flatten(2).sum(2)
    expected = {"none": rows, "sum": rows.sum(), "mean": rows.mean(), "elementwise": each.unsqueeze(2)}[reduction]
    byte = DiscretizedLogisticMixture(channels="coupled", target_scale=1 / 255)
    for dtype in (torch.uint8, torch.int16, torch.int64, torch.uint16):
        counts = (x * 255).round().to(dtype)
        value = byte.log_prob(parameters, counts, batch_dims=2, reduction=reduction)
        torch.testing.assert_close(value, expected)
    upstream = torch.rand_like(value)
    for a, b in zip(*(torch.autograd.grad(v, parameters, upstream) for v in (value, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("C", [1, 3])
def test_a_masked_pixel_reaches_nothing(C, isa):
    parameters, x = drawn(3, C)
    mask = torch.rand(3, 1, 4, 7) < 0.6
    expected = (paper(parameters, x) * mask.squeeze(1)).flatten(1).sum(1)
    true = torch.autograd.grad(expected.sum(), parameters)
    spoiled = tuple(t.detach().clone() for t in parameters)
    for t in (*spoiled, x):
        kept = mask.view(3, *(1,) * (t.dim() - 3), 4, 7)
        t[~kept.expand(t.shape)] = math.nan
    spoiled = tuple(t.requires_grad_() for t in spoiled)
    value = COUPLED.log_prob(spoiled, x, mask=mask)
    torch.testing.assert_close(value, expected)
    for a, b in zip(torch.autograd.grad(value.sum(), spoiled), true, strict=True):
        torch.testing.assert_close(a, b)
    for m in (mask[0, 0], torch.tensor(False)):
        masked = COUPLED.log_prob(spoiled if m.dim() == 0 else parameters, x.nan_to_num(), mask=m)
        assert masked.isfinite().all()
    assert (masked == 0).all()


def test_a_mask_of_pixels_everywhere(isa):
    """(B, 1, ...), as a mask for all channels, through the losses, and with validate=True although what is masked is NaN."""
    parameters, x = drawn(2, 3)
    mask = torch.rand(3, 1, 4, 7) < 0.6
    x[~mask.expand(x.shape)] = math.nan
    mu, logvar = torch.randn(2, 3, 5, dtype=F64)
    fit, kl = COUPLED.log_prob(parameters, x, mask=mask), VF.gaussian_kl(mu, logvar)
    for options in ({}, {"validate": True}, {"reduction": "sum"}, {"free_bits": 0.0}):
        loss = vaefast.ELBOLoss(COUPLED, **options)(parameters, x, mu, logvar, mask=mask)
        expected = (kl - fit).sum() if options.get("reduction") else (kl - fit).mean()
        torch.testing.assert_close(loss, expected)
    assert VF.elbo(parameters, x, mu, logvar, likelihood=COUPLED, mask=mask).log_likelihood.equal(fit)
    z = torch.randn(2, 3, 5, dtype=F64)
    samples = tuple(torch.stack([t, t]) for t in parameters)
    log_w = VF.log_weights(samples, x, z, mu, logvar, likelihood=COUPLED, mask=mask)
    ratio = VF.gaussian_log_prob(z, batch_dims=2) - VF.gaussian_log_prob(z, mu, logvar, batch_dims=2)
    torch.testing.assert_close(log_w, fit + ratio)
    with pytest.raises(ValueError, match="holds NaN"):
        vaefast.ELBOLoss(COUPLED, validate=True)(parameters, x, mu, logvar)
    steps, data = drawn(2, 1, batch=(3, 2))
    given, data = (steps[0], *(t.squeeze(3) for t in steps[1:])), data.squeeze(2)
    q = torch.zeros(3, 2, 5, dtype=F64)
    all_of = torch.ones(3, 2, 4, 7, dtype=torch.bool)
    losses = [
        vaefast.ELBOLoss(INDEPENDENT, batch_dims=2, validate=v)(given, data, q, q, mask=all_of) for v in (False, True)
    ]
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("channels", ["independent", "coupled"])
def test_any_layout_and_any_shape(channels, isa):
    """Transposed, sliced and expanded parameters, data and masks, of one to three batch dimensions; also few pixels, and none."""
    likelihood, rng = DiscretizedLogisticMixture(channels=channels), random.Random(0)

    def relaid(t):
        order = rng.sample(range(t.dim()), t.dim())
        t = t.permute(order).contiguous().permute([order.index(k) for k in range(t.dim())])
        k = rng.randrange(t.dim())
        if rng.random() < 0.3:
            t = torch.cat([t, t], k).narrow(k, 0, t.shape[k])
        if rng.random() < 0.3:
            t = t.narrow(k, 0, 1).expand(t.shape)
        return t

    for _ in range(60):
        batch, pixels = ([rng.choice([1, 2, 3]) for _ in range(rng.randint(1, 3))] for _ in range(2))
        pixels = pixels[: rng.randint(0, len(pixels))] + rng.choice([[], [], [40]])
        parameters, x = drawn(
            rng.choice([1, 3]), 1 if channels == "independent" else 3, batch=tuple(batch), pixels=tuple(pixels)
        )
        if channels == "independent":
            parameters = parameters[0], *(t.squeeze(len(batch) + 1) for t in parameters[1:])
            x = x.squeeze(len(batch))
        parameters = [relaid(t.detach()) for t in parameters]
        of_pixels = x.shape if channels == "independent" else (*batch, 1, *pixels)
        mask = relaid(torch.rand(of_pixels) < 0.7)
        results = []
        for function in (likelihood.log_prob, composite(likelihood)):
            leaves = [t.clone(memory_format=torch.preserve_format).requires_grad_() for t in parameters]
            value = function(
                leaves, relaid(x) if function is likelihood.log_prob else x, mask=mask, batch_dims=len(batch)
            )
            results.append([value, *torch.autograd.grad(value.sin().sum(), leaves)])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def composite(likelihood):
    """log_prob where no kernel applies."""

    def function(*args, **options):
        with forward_ad.dual_level():
            return likelihood.log_prob(*args, **options)

    return function


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_nan_and_infinities_are_the_formulas(dtype, isa):
    """One at a time in each parameter, in one component or in all: NaN reaches what it reaches in the formula, and an
    infinity makes no NaN where the formula makes none."""
    base, x = drawn(3, 2, pixels=(5,), batch=(1,), dtype=dtype, low=-3.0, high=0.0)
    least = torch.finfo(dtype).min
    for k in range(4):
        for special in (math.nan, math.inf, -math.inf, least, -least):
            for some in (slice(1, 2), slice(None)):
                results = []
                for function in (COUPLED.log_prob, composite(COUPLED)):
                    leaves = [t.detach().clone() for t in base]
                    leaves[k][:, some, ..., 2] = special
                    leaves = [t.requires_grad_() for t in leaves]
                    value = function(leaves, x, reduction="elementwise")
                    results.append([value.detach(), *torch.autograd.grad(value.sum(), leaves)])
                assert results[0][0][..., [0, 1, 3, 4]].isfinite().all()
                for place, (a, b) in enumerate(zip(*results, strict=True)):
                    said = f"parameter {k}, {special}, {some}: {place}"
                    assert not (a.isnan() & ~b.isnan()).any(), said
                    assert not math.isnan(special) or torch.equal(a.isnan(), b.isnan()), said


def test_a_closed_component_and_extreme_scales(isa):
    parameters, x = drawn(3, 3)
    with torch.no_grad():
        parameters[0][:, 1] = -math.inf
        parameters[2][:, 0, 0] = -1000.0
        parameters[2][:, 0, 1] = 1000.0
    value = COUPLED.log_prob(parameters, x)
    gradients = torch.autograd.grad(value.sum(), parameters)
    assert value.isfinite().all()
    assert all(g.isfinite().all() for g in gradients)
    assert all((g[:, 1] == 0).all() for g in gradients)
    open_ = [torch.cat([t[:, :1], t[:, 2:]], 1) for t in parameters]
    torch.testing.assert_close(value, COUPLED.log_prob(open_, x))


@pytest.mark.parametrize("channels", ["independent", "coupled"])
def test_a_loss_takes_one_pass_and_no_more_memory_than_its_gradients(channels):
    parameters, x = drawn(10, 3, pixels=(32, 32), dtype=torch.float32)
    if channels == "independent":
        logits, mean, log_scale = parameters[0].unsqueeze(2).expand(3, 10, 3, 32, 32), *parameters[1:3]
        parameters = tuple(t.detach().contiguous().requires_grad_() for t in (logits, mean, log_scale))
    mu, logvar = torch.randn(2, 3, 5, requires_grad=True)
    criterion = vaefast.ELBOLoss(DiscretizedLogisticMixture(channels=channels))
    criterion(parameters, x, mu, logvar).backward()
    vaefast.ops.empty_cache()
    for t in parameters:
        t.grad = None
    with torch.profiler.profile(profile_memory=True) as profile:
        loss = criterion(parameters, x, mu, logvar)
        loss.backward()
    names = [e.name for e in profile.events()]
    assert names.count("vaefast::row_sum") == 2  # the mixture and the KL, with their gradients
    allocated = sum(max(0, e.self_cpu_memory_usage) for e in profile.events())
    assert allocated <= 4 * (sum(t.numel() for t in parameters) + 2 * x.numel()) + 2**16
    value = DiscretizedLogisticMixture(channels=channels).log_prob([t.detach() for t in parameters], x)
    kl = vaefast.functional.gaussian_kl(mu, logvar)
    torch.testing.assert_close(loss, (kl - value).mean())


def test_a_retained_graph_compiled_code_and_second_derivatives():
    parameters, x = drawn(2, 3, pixels=(3,), batch=(2,), low=-2.0)
    value = COUPLED.log_prob(parameters, x, reduction="sum")
    first, second = (torch.autograd.grad(value, parameters, retain_graph=True) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
    assert torch.autograd.gradcheck(lambda *p: COUPLED.log_prob(p, x), parameters)
    assert torch.autograd.gradgradcheck(lambda *p: COUPLED.log_prob(p, x), parameters)

    def loss(*p):
        return COUPLED.log_prob(p, x).square().sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for a, b in zip(*(torch.autograd.grad(f(*parameters), parameters) for f in (loss, compiled)), strict=True):
        torch.testing.assert_close(a, b)
    by_sample = torch.func.vmap(lambda *p: COUPLED.log_prob(tuple(t[None] for t in p[:-1]), p[-1][None])[0])
    torch.testing.assert_close(by_sample(*parameters, x), COUPLED.log_prob(parameters, x))
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda t: COUPLED.log_prob(parameters, t), (x,))


def test_samples_follow_the_channels_before_them():
    """With narrow bins, x1 is mean1 + tanh(coef) (x0 - 1/2), and the mean is that of the samples."""
    n = 4000
    logits = torch.tensor([0.0, 1.0]).view(1, 2, 1).expand(n, 2, 1)
    mean = torch.tensor([[0.3, 0.4], [0.6, 0.5]]).view(1, 2, 2, 1).expand(n, 2, 2, 1)
    log_scale = torch.full((n, 2, 2, 1), -4.0)
    coef = torch.tensor([0.8, -0.9]).view(1, 2, 1, 1).expand(n, 2, 1, 1)
    parameters = logits, mean, log_scale, coef
    x = COUPLED.sample(parameters, generator=torch.Generator().manual_seed(0))
    assert x.shape == (n, 2, 1)
    assert ((x * 255).round() / 255 == x).all()
    second = x[:, 0] > 0.45  # the components' scales are 0.018
    for k, which in ((0, ~second), (1, second)):
        center = mean[0, k, 1] + torch.tanh(coef[0, k, 0]) * (x[:, 0] - 0.5)
        assert (x[:, 1] - center)[which].mean().abs() < 5 * 0.0333 / math.sqrt(n / 4)
    torch.testing.assert_close(x.mean(0), COUPLED.mean(parameters)[0], rtol=0, atol=5 * 0.15 / math.sqrt(n))
    one = tuple(t[:, :1] for t in parameters)
    alone = DiscretizedLogistic().mean((one[1][:, 0, 0], one[2][:, 0, 0]))
    torch.testing.assert_close(COUPLED.mean(one)[:, 0], alone)


def test_wrong_inputs_are_refused():
    parameters, x = drawn(2, 3)
    wrong = {
        "recon_x must be \\(logits, mean, log_scale, coef\\) for 3 channels, got 3": (parameters[:3], x),
        "recon_x must be \\(logits, mean, log_scale, coef\\), got 2": (parameters[:2], x),
        "mean must have shape \\(B, M, C, ...\\)": ((parameters[0], parameters[0], *parameters[2:]), x),
        "coef must have shape \\(3, 2, 3, 4, 7\\)": ((*parameters[:3], parameters[3][:, :, :2]), x),
        "recon_x is for data of shape \\(3, 3, 4, 7\\)": (parameters, x[:, :2]),
        "log_scale must be broadcastable": ((*parameters[:2], parameters[2][..., :2], parameters[3]), x),
    }
    for message, (recon_x, data) in wrong.items():
        with pytest.raises(ValueError, match=message):
            COUPLED.log_prob(recon_x, data)
    of_one, one = drawn(2, 1)
    with pytest.raises(ValueError, match="recon_x must be \\(logits, mean, log_scale\\) for 1 channel, got 4"):
        COUPLED.log_prob((*of_one, of_one[1]), one)
    with pytest.raises(
        ValueError, match="one for all channels of a pixel, of shape \\(3, 1, 4, 7\\), got \\(3, 3, 4, 7\\)"
    ):
        COUPLED.log_prob(parameters, x, mask=torch.ones(3, 3, 4, 7, dtype=torch.bool))
    for likelihood, given in (
        (INDEPENDENT, (torch.zeros(3, 0, 4),) * 3),
        (COUPLED, (torch.zeros(3, 0, 4), *(torch.zeros(3, 0, 1, 4),) * 2)),
    ):
        with pytest.raises(ValueError, match="there must be a component"):
            likelihood.log_prob(given, torch.zeros(3, 4) if likelihood is INDEPENDENT else torch.zeros(3, 1, 4))
    with pytest.raises(ValueError, match="channels must be"):
        DiscretizedLogisticMixture(channels="joint")
    with pytest.raises(TypeError, match="x must be"):
        COUPLED.log_prob(parameters, x.to(torch.complex64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "components, channels, pixels", [(1, 1, 1100), (10, 3, 520), (10, 3, 300), (30, 2, 300), (3, 3, 7)]
)
def test_many_rows(components, channels, pixels, dtype):
    """As many as make blocks of the size that the caches hold; the last block of a row is shorter. One of three is masked."""
    g = torch.Generator().manual_seed(pixels)
    rows, pairs = 70, channels * (channels - 1) // 2
    shapes = (), (channels,), (channels,), (pairs,)
    logits, mean, width, *coef = (torch.randn(rows, components, *s, pixels, generator=g, dtype=dtype) for s in shapes[: 3 + (pairs > 0)])  # fmt: skip
    given = [logits, 0.5 + 0.3 * mean, width - 2, *coef]
    x = torch.randint(0, 256, (rows, channels, pixels), generator=g).to(dtype) / 255
    mask = torch.rand(rows, 1, pixels, generator=g) > 0.3
    likelihood = DiscretizedLogisticMixture(channels="coupled")
    weights = torch.linspace(0.5, 2, rows, dtype=dtype)
    leaves = [t.clone().requires_grad_() for t in given]
    value = likelihood.log_prob(leaves, x, mask=mask)
    grads = torch.autograd.grad((value * weights).sum(), leaves)
    half = torch.tensor(0.5 / 255, dtype=torch.float64)
    exact = [t.double().requires_grad_() for t in given]
    expected = reference.row_sum(
        reference.MIXTURE, (exact[0], x.double(), *exact[1:3], half, *exact[3:]), mask.squeeze(1)
    )
    torch.testing.assert_close(value.double(), expected, rtol=1e-5 if dtype is torch.float32 else 1e-11, atol=0)
    for got, e in zip(grads, torch.autograd.grad((expected * weights).sum(), exact), strict=True):
        close = {"rtol": 1e-4, "atol": 2e-4} if dtype is torch.float32 else {"rtol": 1e-9, "atol": 1e-10}
        torch.testing.assert_close(got.double(), e, **close)
