"""q's spread, and the prior's, as log sigma^2, log sigma or sigma."""

import itertools

import pytest
import torch

from vaefast import ELBOLoss
from vaefast import functional as VF

B, L = 6, 3
MU, LOGVAR = torch.zeros(B, L), torch.zeros(B, L)
FORMS = {"logvar": lambda v: v, "log_scale": lambda v: v / 2, "scale": lambda v: torch.exp(v / 2)}


@pytest.mark.parametrize(("own", "other"), list(itertools.product(FORMS, [None, *FORMS])))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_form_is_the_same_loss(own, other, dtype):
    torch.manual_seed(0)
    recon_x, x = torch.randn(B, 5, dtype=dtype, requires_grad=True), torch.rand(B, 5, dtype=dtype)
    mu, logvar, prior_mu, prior_logvar = (0.5 * torch.randn(4, B, L, dtype=torch.float64)).to(dtype)
    given = {own: FORMS[own](logvar)}
    if other:
        given |= {"prior_mu": prior_mu, f"prior_{other}": FORMS[other](prior_logvar)}
    leaves = {k: t.detach().clone().requires_grad_() for k, t in given.items()}
    wide = {k: t.detach().double().requires_grad_() for k, t in leaves.items()}
    logvars = {"logvar": to_logvar(own, wide[own])}
    if other:
        logvars |= {"prior_mu": wide["prior_mu"], "prior_logvar": to_logvar(other, wide[f"prior_{other}"])}
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]
    calls = {
        "ELBOLoss": lambda m, *args, **k: ELBOLoss(reduction="sum")(*args, m, **k),
        "ELBOLoss none": lambda m, *args, **k: ELBOLoss(reduction="none")(*args, m, **k),
        "ELBOLoss free bits": lambda m, *args, **k: ELBOLoss(free_bits=0.01)(*args, m, **k),
        "gaussian_kl": lambda m, *_, **k: VF.gaussian_kl(m, **k),
        "rsample_kl": lambda m, *_, **k: VF.rsample_kl(m, **k)[1],
    }
    for name, call in calls.items():
        got = call(mu, recon_x, x, **leaves)
        expected = call(mu.double(), recon_x.double(), x.double(), **logvars)
        torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance, msg=name)
        grads = torch.autograd.grad(got.double().sum(), leaves.values())
        for k, g, e in zip(
            leaves, grads, torch.autograd.grad(expected.sum(), wide.values(), retain_graph=True), strict=True
        ):
            assert g.dtype == leaves[k].dtype
            torch.testing.assert_close(
                g.double(), e, rtol=tolerance, atol=tolerance * (1 + e.abs().max().item()), msg=f"{name}, {k}"
            )


def to_logvar(form, t):
    return {"logvar": t, "log_scale": 2 * t}.get(form, 2 * t.log() if form == "scale" else None)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("samples", [None, 3])
@pytest.mark.parametrize("size", [L, 3000])
def test_samples(form, samples, size):
    mu, logvar = torch.randn(2, B, size, dtype=torch.float64).requires_grad_()
    spread = FORMS[form](logvar)
    eps = VF.reparameterize(
        torch.zeros(B, size), torch.zeros(B, size), num_samples=samples, generator=torch.Generator().manual_seed(1)
    )
    expected = mu + torch.exp(logvar / 2) * eps
    for options in ({"generator": torch.Generator().manual_seed(1)}, {"eps": eps}):
        z = VF.reparameterize(mu, **{form: spread}, num_samples=samples, **options)
        torch.testing.assert_close(z, expected, rtol=1e-12, atol=1e-12)
        up = torch.randn_like(z)
        for a, b in zip(
            *(torch.autograd.grad(t, (mu, logvar), up, retain_graph=True) for t in (z, expected)), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_a_sample_of_sigma_0_is_the_mean():
    """exp(log(0)) and the derivative of a logarithm would be NaN there."""
    mu, scale = torch.randn(B, L), torch.zeros(B, L, requires_grad=True)
    z = VF.reparameterize(mu, scale=scale, generator=torch.Generator().manual_seed(2))
    assert torch.equal(z, mu)
    z.sum().backward()
    assert torch.equal(scale.grad, VF.reparameterize(MU, LOGVAR, generator=torch.Generator().manual_seed(2)))


def test_near_equal_sigmas_keep_their_digits():
    """Their logarithms differ by less than rounding takes from each."""
    prior = torch.full((1, 1000), 1e-3)
    scale = prior * (1 + torch.linspace(-1e-3, 1e-3, 1000))
    zero = torch.zeros(1, 1000)
    got = VF.gaussian_kl(zero, scale=scale, prior_mu=zero, prior_scale=prior, reduction="elementwise").double()
    ratio = scale.double() / prior.double()
    torch.testing.assert_close(got, (ratio**2 - 1) / 2 - ratio.log(), rtol=1e-4, atol=1e-20)


def test_the_estimate_at_a_sample():
    mu, logvar, pm, plv, z = torch.randn(5, B, L, dtype=torch.float64)
    criterion, data = ELBOLoss(estimator="mc"), (torch.zeros(B, 2), torch.ones(B, 2), mu)
    expected = criterion(*data, logvar, z=z, prior_mu=pm, prior_logvar=plv)
    got = criterion(*data, scale=torch.exp(logvar / 2), z=z, prior_mu=pm, prior_log_scale=plv / 2)
    torch.testing.assert_close(got, expected)


def test_wrong_calls():
    data = torch.zeros(B, 2), torch.ones(B, 2), MU
    for call in (ELBOLoss(), ELBOLoss(reduction="none")):
        with pytest.raises(TypeError, match="vaefast.ELBOLoss: one of logvar, log_scale and scale must be given"):
            call(*data)
        with pytest.raises(ValueError, match="logvar and scale exclude each other; they are forms of one spread"):
            call(*data, LOGVAR, scale=LOGVAR)
        with pytest.raises(ValueError, match="prior_logvar and prior_log_scale exclude each other"):
            call(*data, LOGVAR, prior_logvar=LOGVAR, prior_log_scale=LOGVAR)
        with pytest.raises(ValueError, match=r"scale must have the shape of mu, \(6, 3\), got \(6, 1\)"):
            call(*data, scale=LOGVAR[:, :1])
    with pytest.raises(
        TypeError, match="balanced_kl: one of prior_logvar, prior_log_scale and prior_scale must be given"
    ):
        VF.balanced_kl(MU, LOGVAR, MU)
    with pytest.raises(ValueError, match="balanced_kl: balance and the weights exclude each other"):
        VF.balanced_kl(MU, LOGVAR, MU, LOGVAR, balance=0.5, prior_weight=1.0)
    with pytest.raises(TypeError, match="balanced_kl: posterior_weight must be a number, got NoneType"):
        VF.balanced_kl(MU, LOGVAR, MU, LOGVAR, prior_weight=1.0)


def test_weights_of_both_sides():
    mu, prior_mu = torch.randn(2, B, L, dtype=torch.float64).requires_grad_()
    scale, prior_scale = (torch.rand(2, B, L, dtype=torch.float64) + 0.5).requires_grad_()
    whole = VF.gaussian_kl(mu, prior_mu=prior_mu, scale=scale, prior_scale=prior_scale)
    got = VF.balanced_kl(
        mu, prior_mu=prior_mu, scale=scale, prior_scale=prior_scale, posterior_weight=0.1, prior_weight=0.5
    )
    torch.testing.assert_close(got, 0.6 * whole)
    leaves = mu, scale, prior_mu, prior_scale
    each = zip(*(torch.autograd.grad(t.sum(), leaves) for t in (got, whole)), (0.1, 0.1, 0.5, 0.5), strict=True)
    for a, b, factor in each:
        torch.testing.assert_close(a, factor * b)


@pytest.mark.parametrize(
    ("difference", "scale", "prior_scale"), [(0, 1e30, 1e10), (0, 3e38, 1e15), (1e25, 1, 1e5), (0, 1e20, 1e5)]
)
def test_gradients_whose_squares_overflow(difference, scale, prior_scale):
    """The KL is infinite in float32, and its gradients are not."""
    narrow = [torch.tensor([[v]], requires_grad=True) for v in (float(difference), float(scale), 0.0, prior_scale)]
    wide = [t.detach().double().requires_grad_() for t in narrow]

    def gradients(leaves):
        mu, s, prior_mu, prior = leaves
        return torch.autograd.grad(VF.gaussian_kl(mu, prior_mu=prior_mu, scale=s, prior_scale=prior).sum(), leaves)

    for got, true in zip(gradients(narrow), gradients(wide), strict=True):
        torch.testing.assert_close(got.double(), true, rtol=1e-6, atol=0)
