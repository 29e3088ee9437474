"""Free bits and capacity of sequences, DIP-VAE's penalty, and other forms of sigma, against loops in double precision."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch

import vaefast
from vaefast import functional as VF

F64 = torch.float64


class TestFreeBits:
    @pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 2), (2, 3)], ids=str)
    @pytest.mark.parametrize("per", ["dimension", "element", "total", "sample"])
    def test_states_of_sequences(self, per, shape):
        """Element by element, over both leading dimensions; a KL of the batch's shape has one latent dimension."""
        kl = 2 * torch.rand(shape, dtype=F64)
        free = {"dimension": 1.0, "element": 1.0, "total": 5.0, "sample": 4.0}[per] if len(shape) > 2 else 1.0
        each = kl.reshape(2, 3, -1).tolist()
        rows = [each[b][t] for b, t in itertools.product(range(2), range(3))]
        if per == "dimension":
            expected = sum(max(free, sum(column) / 6) for column in zip(*rows, strict=True))
        elif per == "total":
            expected = max(free, sum(map(sum, rows)) / 6)
        elif per == "element":
            expected = [[sum(max(free, v) for v in each[b][t]) for t in range(3)] for b in range(2)]
        else:
            expected = [[max(free, sum(each[b][t])) for t in range(3)] for b in range(2)]
        got = VF.free_bits_kl(kl, free, per, batch_dims=2)
        torch.testing.assert_close(got, torch.tensor(expected, dtype=F64))

    def test_of_each_sample(self):
        kl = torch.tensor([[0.0, 0.0], [1.0, 3.0]], requires_grad=True)
        got = VF.free_bits_kl(kl, 2.0, "sample")
        assert got.tolist() == [2.0, 4.0] and got.mean() == 3
        assert torch.autograd.grad(got.sum(), kl)[0].tolist() == [[0.0, 0.0], [1.0, 1.0]]
        assert torch.equal(VF.free_bits_kl(kl.sum(1), 2.0, "sample"), got)

    def test_of_the_loss(self):
        logits, x, mu, logvar = torch.randn(6, 9), torch.rand(6, 9), torch.randn(6, 3), torch.randn(6, 3)
        free = VF.gaussian_kl(mu, logvar).median().item()
        for reduction in ("mean", "none"):
            criterion = vaefast.ELBOLoss(free_bits=free, free_bits_per="sample", reduction=reduction)
            loss = VF.gaussian_kl(mu, logvar).clamp(min=free) - VF.bernoulli_log_likelihood(logits, x)
            expected = loss.mean() if reduction == "mean" else loss
            torch.testing.assert_close(criterion(logits, x, mu, logvar), expected)

    def test_no_batch_dimension(self):
        kl = torch.tensor([0.5, 2.0])
        assert VF.free_bits_kl(kl, 1.0, batch_dims=0) == 3
        assert VF.free_bits_kl(kl, 4.0, "sample", batch_dims=0) == 4


class TestCapacity:
    @pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
    def test_one_element(self, shape):
        capacity = torch.full(shape, 2.0, requires_grad=True)
        kl = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
        loss = VF.capacity_kl(kl, capacity, gamma=8.0)
        assert loss.shape == () and loss == 8 * 0.5
        by_kl, by_capacity = torch.autograd.grad(loss, (kl, capacity))
        assert by_capacity.shape == shape and by_capacity.sum() == -8
        assert torch.equal(by_kl, torch.full((2, 2), 2.0))

    def test_a_capacity_on_the_cpu(self, gpu):
        kl = torch.ones(3, device=gpu)
        for capacity in (torch.tensor(2.0), torch.tensor([2.0])):
            assert VF.capacity_kl(kl, capacity, gamma=1.0) == 1


def dip(mu, logvar, off_diagonal, diagonal):
    """The penalty by loops over numbers."""
    batch, dims = len(mu), len(mu[0])
    means = [math.fsum(row[i] for row in mu) / batch for i in range(dims)]
    value = 0.0
    for i, j in itertools.product(range(dims), repeat=2):
        c = math.fsum((row[i] - means[i]) * (row[j] - means[j]) for row in mu) / batch
        if i == j and logvar is not None:
            c += math.fsum(math.exp(row[i]) for row in logvar) / batch
        value += diagonal * (c - 1) ** 2 if i == j else off_diagonal * c**2
    return value


class TestDip:
    @pytest.mark.parametrize("of_z", [False, True], ids=["I", "II"])
    @pytest.mark.parametrize("batch", [1, 2, 7])
    def test_dip_penalty(self, batch, of_z):
        """Type I and type II; float32 is as good as its arithmetic, also for means far from 0."""
        mu = torch.randn(batch, 4, dtype=F64) + torch.tensor([100.0, 0.0, -5.0, 3.0], dtype=F64)
        mu = mu.float().double()
        logvar = torch.randn(batch, 4).double() if of_z else None
        expected = dip(mu.tolist(), None if logvar is None else logvar.tolist(), 3.0, 0.7)
        weights = {"off_diagonal": 3.0, "diagonal": 0.7}
        assert VF.dip_penalty(mu, logvar, **weights).item() == pytest.approx(expected, rel=1e-12)
        single = VF.dip_penalty(mu.float(), None if logvar is None else logvar.float(), **weights)
        # A mean near 100 is off by up to 4e-6, and so is the difference from it; the penalty is of fourth order.
        assert single.dtype is torch.float32 and single.item() == pytest.approx(expected, rel=1e-4)

    @pytest.mark.parametrize("of_z", [False, True], ids=["I", "II"])
    def test_gradients(self, of_z):
        mu, logvar = torch.randn(2, 5, 3, dtype=F64)
        inputs = [t.requires_grad_() for t in ((mu.clone(), logvar.clone()) if of_z else (mu.clone(),))]
        assert torch.autograd.gradcheck(lambda *t: VF.dip_penalty(*t, off_diagonal=2.0, diagonal=0.5), inputs)

    def test_against_numpy(self):
        """numpy's covariance with ddof=0."""
        mu = np.random.default_rng(0).normal(size=(9, 3))
        c = np.cov(mu, rowvar=False, ddof=0)
        expected = (c**2).sum() - (np.diag(c) ** 2).sum()
        assert VF.dip_penalty(torch.from_numpy(mu), off_diagonal=1, diagonal=0).item() == pytest.approx(expected)

    def test_small_covariances_are_kept(self):
        """Variances of 5000 beside a covariance of 1e-3: a difference of sums of squares would be 0 in float32."""
        mu = torch.tensor([[100.0, 0.0], [-100.0, 0.0], [0.0, 100.0], [0.0, -100.0]])
        mu[0, 1] = 5e-5
        got = VF.dip_penalty(mu, off_diagonal=1.0, diagonal=0.0)
        assert got.item() == pytest.approx(dip(mu.double().tolist(), None, 1.0, 0.0), rel=1e-5) and got > 0

    def test_half_precision_and_autocast(self):
        mu = torch.randn(64, 3)
        weights = {"off_diagonal": 1.0, "diagonal": 1.0}
        expected = VF.dip_penalty(mu, **weights)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(VF.dip_penalty(mu, **weights), expected)
        low = mu.bfloat16()
        assert torch.equal(VF.dip_penalty(low, low, **weights), VF.dip_penalty(low.float(), low.float(), **weights))
        assert VF.dip_penalty(mu, mu.double(), **weights).dtype is F64

    def test_compiled(self):
        torch._dynamo.reset()
        mu, logvar = (t.requires_grad_() for t in torch.randn(2, 6, 3).unbind())

        def penalty(mu, logvar):
            return VF.dip_penalty(mu, logvar, off_diagonal=1.0, diagonal=2.0)

        results = []
        for f in (penalty, torch.compile(penalty, backend="aot_eager", fullgraph=True)):
            value = f(mu, logvar)
            results.append((value, *torch.autograd.grad(value, (mu, logvar))))
        torch.testing.assert_close(*results)


class TestScales:
    @pytest.mark.parametrize("floor", [1e-60, 1e-6, 0.1, 3])
    def test_a_floor_of_sigma(self, floor):
        raw = torch.tensor([-1000.0, -80.0, -10.1, -9.9, -1.0, 0.0, 3.0, 200.0], dtype=F64)
        with mpmath.workdps(40):
            exact = [float(2 * mpmath.log(mpmath.log1p(mpmath.exp(r)) + floor)) for r in raw.tolist()]
        exact = torch.tensor(exact, dtype=F64)
        torch.testing.assert_close(VF.logvar_from_softplus(raw, floor), exact, rtol=1e-9, atol=1e-9)
        single = VF.logvar_from_softplus(raw.float(), floor)
        torch.testing.assert_close(single.double(), exact, rtol=3e-6, atol=1e-6)
        assert torch.autograd.gradcheck(lambda r: VF.logvar_from_softplus(r, floor), raw.clone().requires_grad_())

    def test_gradients_at_the_ends(self):
        raw = torch.tensor([-math.inf, -1e30, 1e30, math.inf], requires_grad=True)
        value = VF.logvar_from_softplus(raw, 0.1)
        torch.testing.assert_close(value[:2], torch.full((2,), 2 * math.log(0.1)))
        (grad,) = torch.autograd.grad(value.sum(), raw)
        assert grad.isfinite().all() and grad[:2].tolist() == [0, 0]

    def test_a_log_scale(self):
        log_scale = torch.randn(4, dtype=F64)
        torch.testing.assert_close(VF.logvar_from_log_scale(log_scale), VF.logvar_from_scale(log_scale.exp()))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda w: VF.free_bits_kl(w, 1.0, batch_dims=3), ValueError, "batch_dims must be between 0 and 2, the dimensions of kl"),
        (lambda w: VF.free_bits_kl(w.sum(), 1.0), ValueError, r"free_bits_kl: kl must have shape \(B, L\), got \(\)"),
        (lambda w: VF.capacity_kl(w, w[0]), ValueError, r"capacity must be a number or a tensor of one element, got shape \(4,\)"),
        (lambda w: VF.capacity_kl(w, "2"), TypeError, "capacity_kl: capacity must be a number, got str"),
        (lambda w: VF.dip_penalty(w[0], off_diagonal=1, diagonal=1), ValueError, r"mu must have shape \(B, L\) with B of at least 1, got \(4,\)"),
        (lambda w: VF.dip_penalty(w[:0], off_diagonal=1, diagonal=1), ValueError, r"with B of at least 1, got \(0, 4\)"),
        (lambda w: VF.dip_penalty(w, w[:2], off_diagonal=1, diagonal=1), ValueError, "dip_penalty: logvar must have the shape of mu"),
        (lambda w: VF.dip_penalty(w, off_diagonal=-1, diagonal=1), ValueError, "off_diagonal must be a finite number of at least 0, got -1"),
        (lambda w: VF.dip_penalty(w, off_diagonal=1, diagonal="1"), TypeError, "dip_penalty: diagonal must be a number, got str"),
        (lambda w: VF.dip_penalty(None, off_diagonal=1, diagonal=1), TypeError, "dip_penalty: mu must be a torch.Tensor, got NoneType"),
        (lambda w: VF.logvar_from_softplus(w, -0.1), ValueError, "logvar_from_softplus: floor must be a finite number of at least 0"),
        (lambda w: VF.logvar_from_softplus(w, w), TypeError, "logvar_from_softplus: floor must be a number, got torch.Tensor"),
        (lambda w: VF.logvar_from_log_scale(1.0), TypeError, "logvar_from_log_scale: log_scale must be a torch.Tensor, got float"),
        (lambda w: VF.gaussian_kl(w, w, reduction="batchmean"), ValueError, r"got 'batchmean'; write 'mean', which is the mean over samples of per-sample sums$"),
        (lambda w: VF.gaussian_kl(w, w, reduction="token_mean"), ValueError, r"got 'token_mean'; a mean over pixels or tokens does not exist here: write 'mean'"),
        (lambda w: vaefast.ELBOLoss(reduction="average"), ValueError, "ELBOLoss: reduction must be one of 'none', 'sum', 'mean', got 'average'; write 'mean'"),
        (lambda w: vaefast.likelihoods.Poisson().log_prob(w, w, reduction="elementwise_mean"), ValueError, "got 'elementwise_mean'; a mean over pixels"),
        (lambda w: VF.gaussian_kl(w, w, reduction="total"), ValueError, "got 'total'$"),
    ],
)  # fmt: skip
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message) as raised:
        call(torch.randn(3, 4))
    assert "\n" not in str(raised.value)
