"""The noise: known answers, statistics, and what it may depend on."""

import math

import numpy as np
import pytest
import torch

from tests.support import native
from vaefast import functional as VF
from vaefast.ops import library
from vaefast.ops.sample import _noise


def normals(n, seed=0, offset=0):
    return _noise(torch.empty(n), -1, torch.tensor([seed, offset]))


def sample(shape, **options):
    return VF.reparameterize(torch.zeros(shape), torch.zeros(shape), **options)


def test_philox_known_answers():
    """Vectors published with Random123: a counter of (block, offset) and a key."""
    ones = 2**64 - 1
    assert native.philox(0, 0, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert native.philox(ones, ones, ones) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    pi = native.philox(seed=0x299F31D0A4093822, offset=0x0370734413198A2E, block=0x85A308D3243F6A88)
    assert pi == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


def test_normals_are_box_muller_of_philox(isa):
    """Element 4b + j of the kernel's stream against a float64 Box-Muller on the same words, within 4 ULP of |z| ~ 1."""
    got = normals(4000, seed=1234, offset=7).double()
    words = np.array([native.philox(1234, 7, b) for b in range(1000)], dtype=np.float64).reshape(-1, 2)
    uniform = words[:, 0].astype(np.float32) * np.float32(2**-32) + np.float32(2**-32)
    radius = np.sqrt(-2 * np.log(uniform.astype(np.float64)))
    angle = 2 * np.pi * words[:, 1] / 2**32
    true = torch.from_numpy(np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).flatten())
    assert ((got - true).abs() <= 4 * 2.0**-23 * true.abs().clamp(min=0.05)).all()


def test_cos_and_sin_of_turns(isa):
    k = np.concatenate([np.arange(2**32, step=9973, dtype=np.uint64), 2**30 * np.arange(4), [2**32 - 1]]).astype(
        np.uint32
    )
    c, s = native.turns(isa, k)
    angle = k.astype(np.float64) * (2 * np.pi / 2**32)
    assert np.abs(c - np.cos(angle)).max() < 2**-23 and np.abs(s - np.sin(angle)).max() < 2**-23
    assert c[-5:-1].tolist() == [1, 0, -1, 0] and s[-5:-1].tolist() == [0, 1, 0, -1]


def test_depends_on_seed_and_index_alone():
    """Not on threads, shape, strides, dtype, number of samples, or instruction set (within 4 ULP)."""
    torch.manual_seed(5)
    expected = sample((40, 300))
    results = {}
    for threads in (1, 2, 7):
        torch.set_num_threads(threads)
        torch.manual_seed(5)
        results[f"{threads} threads"] = sample((40, 300))
    torch.manual_seed(5)
    results["flat"] = sample((12000,)).view(40, 300)
    torch.manual_seed(5)
    results["as samples"] = sample((300,), num_samples=40)
    torch.manual_seed(5)
    results["longer"] = sample((41, 300))[:40]
    torch.manual_seed(5)
    head = torch.zeros(40, 600)
    results["strided"] = VF.reparameterize(*head.chunk(2, 1))
    torch.manual_seed(5)
    results["with KL"] = VF.rsample_kl(torch.zeros(40, 300), torch.zeros(40, 300))[0]
    for name, got in results.items():
        assert torch.equal(got, expected), name
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        torch.manual_seed(5)
        zero = torch.zeros(40, 300, dtype=dtype)
        assert torch.equal(VF.reparameterize(zero, zero), expected.to(dtype)), dtype
    for isa in library.build_info()["cpu_isas"]:
        library.set_cpu_isa(isa)
        torch.manual_seed(5)
        torch.testing.assert_close(sample((40, 300)), expected, rtol=4 * 2**-23, atol=1e-8)


def test_generators():
    a, b = (torch.Generator().manual_seed(3) for _ in range(2))
    first = sample((5,), generator=a)
    assert torch.equal(first, sample((5,), generator=b))
    assert not torch.equal(first, sample((5,), generator=a)), "each call has its own noise"
    state = torch.get_rng_state()
    sample((5,), generator=a)
    assert torch.equal(state, torch.get_rng_state()), "a given generator leaves the default one alone"
    torch.manual_seed(1)
    sample((100_000,))
    many = torch.rand(1)
    torch.manual_seed(1)
    sample((1,))
    assert torch.equal(many, torch.rand(1)), "a call of any size advances the generator alike"


def test_backward_sees_the_same_noise():
    """d z / d mu = 1 and d z / d logvar = sigma * eps / 2, the noise regenerated, against the composite with that noise."""
    for num_samples in (None, 3):
        mu, logvar = torch.randn(7, 50, requires_grad=True), torch.randn(7, 50, requires_grad=True)
        z = VF.reparameterize(mu, logvar, num_samples=num_samples)
        eps = (z - mu).detach() / (0.5 * logvar.detach()).exp()
        upstream = torch.randn_like(z)
        got = torch.autograd.grad(z, (mu, logvar), upstream)
        composite = VF.reparameterize(mu, logvar, num_samples=num_samples, eps=eps)
        torch.testing.assert_close(composite, z)
        expected = torch.autograd.grad(composite, (mu, logvar), upstream)
        for g, e in zip(got, expected, strict=True):
            torch.testing.assert_close(g, e, rtol=1e-4, atol=1e-5)


def test_rsample_kl_gradients():
    """The fused pass against its two parts, with a standard and with a given prior, any subset of upstream gradients."""
    for prior_shape in (None, (6, 40), (40,)):
        latent = [torch.randn(6, 40, dtype=torch.float64, requires_grad=True) for _ in range(2)]
        if prior_shape:
            latent += [torch.randn(prior_shape, dtype=torch.float64, requires_grad=True) for _ in range(2)]
        torch.manual_seed(2)
        z, kl = VF.rsample_kl(*latent)
        torch.manual_seed(2)
        other_z, other_kl = VF.reparameterize(*latent[:2]), VF.gaussian_kl(*latent)
        assert torch.equal(z, other_z)
        torch.testing.assert_close(kl, other_kl, rtol=1e-14, atol=0)
        gz, gkl = torch.randn_like(z), torch.randn_like(kl)
        for a, b in (((z * gz).sum() + (kl * gkl).sum(), (other_z * gz).sum() + (other_kl * gkl).sum()),
                     ((z * gz).sum(), (other_z * gz).sum()), ((kl * gkl).sum(), (other_kl * gkl).sum())):  # fmt: skip
            got = torch.autograd.grad(a, latent, retain_graph=True, materialize_grads=True)
            expected = torch.autograd.grad(b, latent, retain_graph=True, materialize_grads=True)
            for g, e in zip(got, expected, strict=True):
                torch.testing.assert_close(g, e, rtol=1e-12, atol=1e-12)


def test_opcheck():
    latent = [torch.randn(3, 4, requires_grad=True) for _ in range(2)]
    for num_samples, kl in ((-1, True), (-1, False), (5, False)):
        torch.library.opcheck(
            library.rsample, (latent, None, num_samples, kl, 1, None), test_utils=("test_schema", "test_faketensor")
        )
    key = torch.tensor([1, 0])
    args = ([t.detach() for t in latent], key, torch.randn(3, 4), torch.randn(3), -1, 1, 3)
    torch.library.opcheck(library.rsample_backward, args)


N = 20_000_000


@pytest.fixture(scope="module")
def draws():
    return normals(N, seed=42)


def test_moments(draws):
    """Mean, variance, skewness and kurtosis within 5 standard errors of a normal's."""
    z = draws.double()
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10395 - 225)):
        assert abs(z.pow(power).mean().item() - expected) < 5 * math.sqrt(variance / N), power


def test_distribution(draws):
    """Kolmogorov-Smirnov distance of 20 million draws below its 1 - 1e-6 quantile; chi-square over 1024 equal bins."""
    ordered = torch.sort(draws.double())[0]
    cdf = torch.special.ndtr(ordered)
    index = torch.arange(1, N + 1, dtype=torch.float64) / N
    distance = torch.maximum((index - cdf).abs(), (cdf - index + 1 / N).abs()).max().item()
    assert distance < math.sqrt(-0.5 * math.log(0.5e-6)) / math.sqrt(N)
    counts = torch.histc(cdf.float(), 1024, 0, 1).double()
    chi2 = ((counts - N / 1024) ** 2 / (N / 1024)).sum().item()
    assert abs(chi2 - 1023) < 5 * math.sqrt(2 * 1023)


def test_tails(draws):
    for limit in (3, 4, 5):
        expected = N * math.erfc(limit / math.sqrt(2))
        assert abs((draws.abs() > limit).sum().item() - expected) < 5 * math.sqrt(expected) + 1
    assert draws.abs().max() < 6.67


def test_independence(draws):
    """No correlation of z or z^2 at the lags of the generator's structure, nor between seeds, offsets or blocks."""
    bound = 5 / math.sqrt(N)
    z = draws.double()
    square = z * z - 1
    for lag in (1, 2, 3, 4, 8, 64, 1024):
        assert abs((z[:-lag] * z[lag:]).mean().item()) < bound
        assert abs((square[:-lag] * square[lag:]).mean().item()) < 2 * bound
    n = 2_000_000
    streams = [normals(n, seed, offset).double() for seed, offset in ((42, 1), (43, 0), (42 + 2**32, 0), (0, 42))]
    streams.append(z[:n])
    for i, a in enumerate(streams):
        for b in streams[:i]:
            assert abs((a * b).mean().item()) < 5 / math.sqrt(n)


def test_a_sample_does_not_depend_on_its_prior():
    """Nothing flows back to a prior from z, also where the prior alone needs a gradient."""
    mu, logvar, prior = torch.randn(8, 4), torch.randn(8, 4), torch.randn(8, 4, requires_grad=True)
    z, kl = VF.rsample_kl(mu, logvar, prior, torch.zeros(8, 4))
    (z.sum() + 0 * kl.sum()).backward()
    assert torch.equal(prior.grad, torch.zeros(8, 4))
    z, _ = VF.rsample_kl(mu, logvar, prior, torch.zeros(8, 4))
    assert torch.autograd.grad(z.sum(), prior, allow_unused=True)[0] is None
    latent, key = [mu, logvar], torch.tensor([1, 2])
    assert library.rsample_backward(latent, key, torch.randn(8, 4), None, -1, 1, 0) == []


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3)])
@pytest.mark.parametrize("expanded", ["no", "row", "whole"])
def test_without_elements(shape, expanded):
    """Nothing is read or written, also where every stride is 0 and every address null."""
    least = {"no": shape, "row": (*shape[:-1], 1), "whole": ()}[expanded]
    mu, logvar = (torch.randn(least).expand(shape).requires_grad_() for _ in range(2))
    z, kl = VF.rsample_kl(mu, logvar)
    assert z.shape == shape and torch.equal(kl, torch.zeros(shape[:1]))
    values = [z.sum() + kl.sum(), VF.gaussian_kl(mu, logvar).sum(), VF.bernoulli_log_likelihood(mu, logvar).sum()]
    values += [VF.reparameterize(mu, logvar, num_samples=k).sum() for k in (None, 0, 4)]
    for value in values:
        assert value == 0
        assert all(g.shape == shape for g in torch.autograd.grad(value, (mu, logvar)))


@pytest.mark.parametrize("shape", [(1, 7), (1, 2000), ()])
def test_gradients_of_one_row(shape):
    mu, logvar = torch.randn(shape, requires_grad=True), torch.randn(shape, requires_grad=True)
    z, kl = VF.rsample_kl(mu, logvar, batch_dims=min(1, len(shape)))
    got = torch.autograd.grad(z.sum() + kl.sum(), (mu, logvar))
    expected = 1 + mu, 0.5 * (z - mu) + 0.5 * torch.expm1(logvar)
    torch.testing.assert_close(got, tuple(t.detach() for t in expected), rtol=1e-4, atol=1e-5)
