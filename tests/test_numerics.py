"""The published error bounds, exact values, and the elementary functions behind them."""

import math
import re
import shutil
import subprocess

import mpmath
import numpy as np
import pytest
import torch

from tests import accuracy, native
from tests.battery.exhaustive import WORST
from vaefast import ELBOLoss, _ops, autograd
from vaefast import functional as VF


@pytest.mark.parametrize("quantity", accuracy.QUANTITIES, ids=lambda q: f"{q.term}-{q.output}-{q.unit}")
def test_bounds_hold_on_random_cases(quantity, isa):
    """At least 100,000 cases a quantity, spread over its regimes; none outside the bound."""
    error, where, outside = accuracy.worst(quantity, 60_000, seed=1)
    assert outside == 0, f"worst {error:.2f} {quantity.unit} at {where}"


def test_a_broken_kernel_would_be_outside():
    """The measure itself: the textbook forms lie far outside the same bounds."""

    def ulps(got, quantity, operands):
        true = accuracy.exact(quantity.term, operands, None)
        return ((got.double() - true).abs() / accuracy.ulp(true)).max().item()

    bernoulli, kl = accuracy.QUANTITIES[0], accuracy.QUANTITIES[3]
    logits, x = torch.full((1000,), -20.0), torch.zeros(1000)
    eager = -torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none")
    assert ulps(eager, bernoulli, (logits, x)) > 1e6
    mu, logvar = torch.zeros(1000), torch.randn(1000) * 1e-3
    assert ulps(-0.5 * (1 + logvar - mu.pow(2) - logvar.exp()), kl, (mu, logvar)) > 1e4


def ulps(got: np.ndarray, true: np.ndarray) -> float:
    """The worst error in units of the spacing of what was got, floats or doubles."""
    kind = np.finfo(got.dtype)
    exponent = np.frexp(np.maximum(np.abs(true), kind.tiny))[1] - 1
    return float(np.max(np.abs(got.astype(true.dtype) - true) / np.ldexp(np.ones_like(true), exponent - kind.nmant)))


def floats(low: float, high: float, n: int = 400_000) -> np.ndarray:
    """Floats of [low, high], spread evenly over their bit patterns, of both signs where the range has both."""
    bits = [np.float32(max(abs(low), abs(high))).view(np.uint32)]
    positive = np.linspace(0, int(bits[0]), n).astype(np.uint32).view(np.float32)
    values = np.concatenate([positive, -positive])
    return values[(values >= low) & (values <= high)]


def doubles(low: float, high: float, n: int = 100_000) -> np.ndarray:
    """Doubles of [low, high], random by their bit patterns, by their values, and by their values in [-2, 2]; and the ends."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, np.float64(max(abs(low), abs(high))).view(np.uint64), n, np.uint64).view(np.float64)
    near = rng.uniform(max(low, -2), min(high, 2), 4 * n)
    values = np.concatenate([bits, -bits, rng.uniform(low, high, n), near, [low, high]])
    return values[(values >= low) & (values <= high)]


def phi(x: np.ndarray) -> np.ndarray:
    series = np.zeros_like(x)
    for n in range(25, 1, -1):
        series = (series * x + 1) / n
    return np.where(np.abs(x) < 1, series * x * x, np.expm1(x) - x)


# The bounds are of these floats; those of all floats, which may be wider, are tests/battery/exhaustive.py's.
FUNCTIONS = {
    "exp": (np.exp, -104, 88.7, 1.0),
    "log": (np.log, 1e-45, 3e38, 0.9),
    "log1p": (np.log1p, 0, 1, 1.3),
    "clamped_log": (np.log, 4e-44, 1, 0.9),
    "clamped_log1m": (lambda p: np.log1p(-p), 0, 0.9999999, 0.9),
    "phi": (phi, -1e4, 88.7, 2.8),
    "expm1": (np.expm1, -1e4, 88.7, 1.62),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_elementary_functions(name, isa):
    function, low, high, bound = FUNCTIONS[name]
    x = floats(low, high)
    x = x[x != 0] if name == "log" else x
    worst = ulps(native.unary(isa, f"f_{name}", x), function(x.astype(np.float64)))
    assert worst <= min(bound, WORST[name]), f"{worst:.3f} ULP"


# About what scalar.h says, but for exp, which is better: 0.847 is the worst that was found.
FUNCTIONS_OF_DOUBLES = {
    "exp": (np.exp, -746, 709.782712893384, 0.85),
    "exp_nonpositive": (np.exp, -746, 0, 0.85),
    "log": (np.log, 1e-320, 1e308, 1.1),
    "log1p": (np.log1p, 0, 1, 1.5),
    "clamped_log": (np.log, 3.8e-44, 1, 1.1),
    "clamped_log1m": (lambda p: np.log1p(-p), 0, 0.9999999, 1.1),
    "phi": (phi, -1e4, 709.7, 3.4),
    "expm1": (np.expm1, -1e4, 709.7, 1.7),
}


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="numpy has no numbers longer than double here")
@pytest.mark.parametrize("name", FUNCTIONS_OF_DOUBLES)
def test_elementary_functions_of_doubles(name, isa):
    function, low, high, bound = FUNCTIONS_OF_DOUBLES[name]
    x = doubles(low, high)
    x = x[x != 0] if name == "log" else x
    worst = ulps(native.unary(isa, f"d_{name}", x), function(x.astype(np.longdouble)))
    assert worst <= bound, f"{worst:.3f} ULP"


def test_elementary_functions_at_the_edges(isa):
    inf, nan = np.inf, np.nan
    edges = np.array([-inf, -200, -0.0, 0.0, 89, inf, nan], np.float32)
    beyond = np.array([-3.4028235e38, -1e4, np.nextafter(np.float32(89), inf), 1e4, 3.4028235e38, -nan], np.float32)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(native.unary(isa, "f_exp", beyond), [0, 0, inf, inf, inf, nan])
        np.testing.assert_array_equal(native.unary(isa, "f_exp", edges), [0, 0, 1, 1, inf, inf, nan])
        np.testing.assert_array_equal(
            native.unary(isa, "f_log", edges), [nan, nan, -inf, -inf, np.log(np.float32(89)), inf, nan]
        )
        probabilities = np.array([-inf, -1, -0.0, 0.0, 1e-45, 1, 1.5, inf, nan], np.float32)
        np.testing.assert_array_equal(
            native.unary(isa, "f_clamped_log", probabilities)[:6], [nan, nan, -100, -100, -100, 0]
        )
        np.testing.assert_array_equal(
            native.unary(isa, "f_clamped_log1m", probabilities)[2:], [0, 0, -probabilities[4], -100, nan, nan, nan]
        )
        np.testing.assert_array_equal(native.unary(isa, "f_phi", edges), [inf, 199, 0, 0, inf, inf, nan])
        np.testing.assert_array_equal(native.unary(isa, "f_expm1", edges), [-1, -1, 0, 0, inf, inf, nan])


def test_elementary_functions_of_doubles_at_the_edges(isa):
    inf, nan = np.inf, np.nan

    def call(name, *x):
        return native.unary(isa, name, np.array(x))

    with np.errstate(all="ignore"):
        least, normal = 5e-324, 2.0**-1022
        got = call("d_exp", -inf, -1.7e308, np.nextafter(-746, -inf), -746, -745.14, -745.13, -0.0, 0.0)
        np.testing.assert_array_equal(got, [0, 0, 0, 0, 0, least, 1, 1])
        got = call("d_exp", 709.782712893385, 710, np.nextafter(710, inf), 1.7e308, inf, nan, -nan)
        np.testing.assert_array_equal(got, [inf, inf, inf, inf, inf, nan, nan])
        got = call("d_exp_nonpositive", -inf, -1.7e308, -746, -745.14, -745.13, -0.0, 0.0, nan, -nan)
        np.testing.assert_array_equal(got, [0, 0, 0, 0, least, 1, 1, nan, nan])
        around = [np.nextafter(normal, 0), normal, np.nextafter(normal, 1)]
        np.testing.assert_allclose(call("d_log", *around), np.log(around), rtol=1e-15)
        got = call("d_log", -inf, -1, -0.0, 0.0, least, 1, inf, nan)
        np.testing.assert_array_equal(got, [nan, nan, -inf, -inf, np.log(least), 0, inf, nan])
        bound = np.exp(-100.0)
        got = call("d_clamped_log", -inf, -1, -0.0, 0.0, 1e-320, 0.999 * bound, bound, 1, nan)
        np.testing.assert_array_equal(got, [nan, nan, -100, -100, -100, -100, -100, 0, nan])
        assert -99.9991 < call("d_clamped_log", 1.001 * bound)[0] < -99.9989
        got = call("d_clamped_log1m", -0.0, 0.0, 1e-320, 1, 1.5, inf, nan)
        np.testing.assert_array_equal(got, [0, 0, -1e-320, -100, nan, nan, nan])
        np.testing.assert_array_equal(
            call("d_phi", -inf, -800, -0.0, 0.0, 710, inf, nan), [inf, 799, 0, 0, inf, inf, nan]
        )
        np.testing.assert_array_equal(
            call("d_expm1", -inf, -800, -0.0, 0.0, 710, inf, nan), [-1, -1, 0, 0, inf, inf, nan]
        )


def test_half_conversions_are_torchs(isa):
    """All 2^16 values in, and a spread of floats with every rounding case out."""
    patterns = torch.arange(2**16, dtype=torch.int32).to(torch.uint16)
    spread = np.concatenate([floats(-1e38, 1e38), floats(-7e4, 7e4), np.float32([np.inf, -np.inf, np.nan])])
    for name, dtype in (("f_through_float16", torch.float16), ("f_through_bfloat16", torch.bfloat16)):
        every = patterns.view(dtype).float().numpy()
        np.testing.assert_array_equal(native.unary(isa, name, every), every)
        halfway = np.nextafter(every, np.float32(np.inf)), (every[:-1] + every[1:]) / 2
        for x in (spread, *halfway):
            np.testing.assert_array_equal(native.unary(isa, name, x), torch.from_numpy(x).to(dtype).float().numpy())


@pytest.mark.parametrize("n", [1, 17, 1000, 4096, 1_000_003, 20_000_000])
def test_sums_keep_their_digits(n, isa):
    """A row's sum of non-negative terms is within 2^-23 of the exact sum of the same elements, at any length."""
    logits, x = torch.randn(1, n), torch.rand(1, n)
    elements = autograd.row_sum("bernoulli", (logits, x), reduction="elementwise")
    total = autograd.row_sum("bernoulli", (logits, x), reduction="sum")
    assert abs(total.item() / elements.double().sum().item() - 1) <= 2**-23


# KL(N(mu, exp(logvar)) || N(prior_mu, exp(prior_logvar))), by closed form with 50 digits where no value is given
KL_VALUES = [
    ((1.0, 0.0), 0.5),
    ((0.0, 1.0), 0.359140914229523),
    ((0.5, -1.0), 0.308939720585721),
    ((0.3, -2.0, -0.4, 0.5), 0.939642510941544),
    ((0.0, 1e-4), 2.50008333541654e-09),
    ((0.0, 20.0), 242582587.204895),
]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 2e-5)], ids=str)
class TestExactValues:
    """Values computed independently of vaefast, by quadrature or with many digits."""

    def check(self, got, value, tolerance):
        assert got.double().item() == pytest.approx(value, rel=tolerance)

    def test_kl(self, dtype, tolerance):
        for arguments, value in KL_VALUES:
            operands = [torch.tensor([[a]], dtype=dtype) for a in arguments]
            self.check(VF.gaussian_kl(*operands), value, tolerance)

    def test_linear_gaussian_model(self, dtype, tolerance):
        """Every quantity of the model z ~ N(0, I), x ~ N(Wz + b, 1/4 I) is known; E_q[log p(x|z)] by Gauss-Hermite."""
        exact = [
            [[1.0, 0.5], [-0.3, 0.8], [0.2, -1.1]],
            [0.1, -0.2, 0.3],
            [0.7, -1.0, 0.4],
            [[0.4, -0.6]],
            [[-1.0, -2.0]],
        ]
        W, b, x, mu, logvar = (torch.tensor(values, dtype=dtype) for values in exact)
        nodes, weights = np.polynomial.hermite_e.hermegauss(8)
        eps = torch.cartesian_prod(*[torch.tensor(nodes, dtype=dtype)] * 2)
        probability = torch.outer(*[torch.tensor(weights, dtype=dtype)] * 2).flatten() / (2 * math.pi)
        z = VF.reparameterize(mu[0], logvar[0], num_samples=len(eps), eps=eps)
        recon = z @ W.T + b
        log_likelihood = VF.gaussian_log_likelihood(recon, x.expand_as(recon), math.log(0.25))
        expected_log_likelihood = (probability * log_likelihood).sum()
        kl = VF.gaussian_kl(mu, logvar)
        self.check(expected_log_likelihood, -3.476389784575415, tolerance)
        self.check(kl, 1.0116073622040274, tolerance)
        self.check(expected_log_likelihood - kl, -4.487997146779442, tolerance)
        # log p(x) = ELBO + KL(q || p(z|x)), the posterior being N(m, S), S^-1 = I + 4 W'W
        W, b, x, mu, logvar = (torch.tensor(values, dtype=torch.float64) for values in exact)
        precision = torch.eye(2, dtype=torch.float64) + 4 * W.T @ W
        difference = torch.linalg.solve(precision, 4 * W.T @ (x - b)) - mu[0]
        gap = 0.5 * ((precision.diagonal() * logvar[0].exp()).sum() + difference @ precision @ difference - 2
                     - torch.logdet(precision) - logvar.sum())  # fmt: skip
        assert gap.item() == pytest.approx(1.0802675668607686, rel=1e-9)
        self.check(expected_log_likelihood - kl + gap, -3.4077295799186738, tolerance)

    def test_bernoulli_model(self, dtype, tolerance):
        """One latent dimension, quadrature over z: log p(x), and the ELBO of q = N(0.8, exp(-0.7))."""
        slope = torch.tensor([1.5, -2.0, 0.7, 3.0], dtype=dtype)
        bias = torch.tensor([0.2, -0.5, 1.0, -1.0], dtype=dtype)
        x = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=dtype)
        nodes, weights = np.polynomial.hermite_e.hermegauss(120)
        eps = torch.tensor(nodes, dtype=dtype)[:, None]
        probability = torch.tensor(weights / math.sqrt(2 * math.pi), dtype=dtype)

        def fit(z):
            return VF.bernoulli_log_likelihood(z * slope + bias, x.expand(len(z), 4))

        prior = torch.linspace(-12, 12, 20_001, dtype=dtype)[:, None]
        log_joint = VF.gaussian_log_prob(prior) + fit(prior)
        self.check(log_joint.logsumexp(0) + math.log(24 / 20_000), -1.5134779691271336, tolerance)
        mu, logvar = torch.tensor([[0.8]], dtype=dtype), torch.tensor([[-0.7]], dtype=dtype)
        z = VF.reparameterize(mu[0], logvar[0], num_samples=120, eps=eps)
        kl = VF.gaussian_kl(mu, logvar)
        self.check((probability * fit(z)).sum(), -1.282036275906548, tolerance)
        self.check(kl, 0.41829265189570475, tolerance)
        self.check((probability * fit(z)).sum() - kl, -1.7003289278022526, tolerance)


def test_values_against_mpmath():
    """Independent of torch's own functions: fifty digits."""
    mpmath.mp.dps = 50
    g = torch.Generator().manual_seed(5)
    for logit, x in zip(torch.randn(50, generator=g) * 8, torch.rand(50, generator=g), strict=True):
        true = mpmath.mpf(x.item()) * logit.item() - mpmath.log1p(mpmath.exp(logit.item()))
        got = VF.bernoulli_log_likelihood(logit.view(1, 1), x.view(1, 1)).item()
        assert abs(got / true - 1) < 2.5e-7
        mu, logvar = logit.item(), 4 * x.item() - 2
        true = (mpmath.mpf(mu) ** 2 + mpmath.exp(logvar) - 1 - logvar) / 2
        got = VF.gaussian_kl(torch.tensor([[mu]]).double(), torch.tensor([[logvar]]).double()).item()
        assert abs(got / true - 1) < 1e-14


def test_kl_is_never_negative_and_zero_only_at_the_prior(isa):
    mu, logvar = torch.zeros(100_000), torch.randn(100_000) * torch.logspace(-20, 1, 100_000)
    kl = autograd.row_sum("gaussian_kl", (mu, logvar), reduction="elementwise")
    assert (kl >= 0).all()
    assert (kl[logvar.abs() > 1e-18] > 0).all()
    assert autograd.row_sum("gaussian_kl", (mu, mu), reduction="sum") == 0


def test_half_inputs_are_summed_in_float32():
    logits = torch.full((1, 2_000_000), 3.0, dtype=torch.float16)
    loss = -VF.bernoulli_log_likelihood(logits, torch.zeros_like(logits))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(2_000_000 * math.log1p(math.exp(3.0)), rel=1e-6)  # above float16's range


def test_float16_gradients_survive_a_loss_scale():
    """A mean's gradient below float16's range comes out right when the loss is scaled up, as GradScaler does."""
    logits = torch.zeros(4096, 10, dtype=torch.float16, requires_grad=True)
    x = torch.full((4096, 10), 0.4999)
    z = torch.zeros(4096, 1)
    (ELBOLoss()(logits, x, z, z) * 2.0**16).backward()
    torch.testing.assert_close(logits.grad.float() / 2**16, torch.full((4096, 10), 1e-4 / 4096), rtol=2e-2, atol=0)


def test_build_has_threads():
    assert _ops.build_info()["openmp"], "without -fopenmp at::parallel_for is silently serial"


@pytest.mark.parametrize("T", ["float", "double"])
def test_the_loop_of_every_term_is_vectorized(T, tmp_path):
    """A selection that a compiler cannot turn into one of vectors makes a loop slower tenfold, and nothing else is seen of
    it."""
    if shutil.which("g++") is None:
        pytest.skip("reads what g++ says of its loops")
    structs = re.search(r"using Terms = TermList<(.*?)>;", (native.ROOT / "csrc/math/terms.h").read_text()).group(1)
    loops = {}
    source = ["#define VAEFAST_FMA", f'#include "{native.ROOT}/csrc/math/terms.h"', "using namespace vaefast;"]
    for struct in structs.split(", "):
        arity = _ops.build_info()["terms"][re.sub(r"(?<!^)([A-Z])", r"_\1", struct).lower()]
        operands = [f"x{k}" for k in range(arity)]
        source.append(f"void run_{struct}({', '.join(f'const {T}* {x}' for x in operands)}, long n, {T}* v, {T}* g) {{")
        source.append("#pragma GCC ivdep")
        loops[len(source) + 1] = struct  # the line of its loop
        each = ", ".join(f"{x}[i]" for x in operands)
        source.append("  for (long i = 0; i < n; ++i) {")
        source.append(f"    {T} x[] = {{{each}}}, d[{arity}]; v[i] = evaluate<{struct}>(x, d); g[i] = d[0];")
        source += ["  }", "}"]
    (tmp_path / "loops.cpp").write_text("\n".join(source))
    command = [
        "g++",
        "-std=c++17",
        *native.package_flags(),
        *native.ISA_FLAGS["avx2"],
        "-fopt-info-vec-optimized",
        "-c",
    ]
    said = subprocess.run([*command, "loops.cpp"], cwd=tmp_path, capture_output=True, text=True, check=True).stderr
    vectorized = {
        int(line) for line in re.findall(r"loops\.cpp:(\d+):\d+: optimized: .*loop vectorized using 32", said)
    }
    assert not [struct for line, struct in loops.items() if line not in vectorized], said
