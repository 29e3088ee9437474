"""Calls as scripts have them: images beside a decoder's flat output, the errors that people sum, names of other libraries, a beta
for each sample, sequences."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import vaefast
from vaefast import ELBOLoss, IWAELoss, likelihoods
from vaefast import functional as VF

B, L = 6, 3
MU, LOGVAR = torch.zeros(B, L), torch.zeros(B, L)
PAIRS = [
    ((B, 12), (B, 1, 3, 4)),
    ((B, 3, 2, 2), (B, 12)),
    ((B, 1, 12), (B, 12)),
    ((B, 12, 1, 1), (B, 1, 12)),
    ((B, 3, 4, 1), (B, 1, 3, 4)),
    ((B,), (B, 1)),
]
REFUSED = {  # shapes of recon_x and x, and what the error says to do
    ((B, 4, 5, 3), (B, 3, 4, 5)): "permute one to the order of the other",
    ((B, 5, 4), (B, 4, 5)): "permute one to the order of the other",
    ((B, 2, 6), (B, 3, 4)): r"if their elements have one order, flatten both: recon_x.flatten\(1\) and x.flatten\(1\)",
    ((B, 12), (B, 1, 3, 5)): "a decoder must return one number for each element of x",
    ((B, 3, 4), (2 * B, 3, 2)): "their first dimension is the batch",
    ((B, 1), (B, 12)): "a decoder must return one number for each element of x",
}


def latent(*batch):
    return [torch.randn(*batch, L, dtype=torch.float64, requires_grad=True) for _ in range(2)]


class TestShapes:
    @pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=str)
    @pytest.mark.parametrize("likelihood", ["bernoulli", "mse", "gaussian", "poisson", "pair"])
    @pytest.mark.parametrize("masked", [False, True])
    def test_what_goes_together(self, ours, theirs, likelihood, masked):
        if likelihood == "pair" and len(ours) == 1:
            pytest.skip("one number per sample")
        recon_x, x = (
            torch.randn(ours, dtype=torch.float64, requires_grad=True),
            torch.rand(theirs, dtype=torch.float64).round(),
        )
        mu, logvar = latent(B)
        mask = torch.rand(theirs) < 0.7 if masked else None
        if masked:
            x[~mask] = torch.nan
        output = recon_x if likelihood != "pair" else (recon_x, 0.1 * recon_x)
        name = "gaussian" if likelihood == "pair" else likelihood
        for criterion in (ELBOLoss(name), ELBOLoss(name, reduction="none"), ELBOLoss(name, validate=True)):
            got = criterion(output, x, mu, logvar, mask=mask)
            kept = None if mask is None else mask.reshape(ours)
            expected = criterion(output, x.reshape(ours), mu, logvar, mask=kept)
            assert torch.equal(got, expected)
            assert torch.equal(
                *(torch.autograd.grad(each.sum(), recon_x, retain_graph=True)[0] for each in (got, expected))
            )
        elbo = VF.elbo(output, x, mu, logvar, likelihood=name, mask=mask)
        assert torch.equal(
            elbo.elbo.mean(), -ELBOLoss(name)(output, x.reshape(ours), mu, logvar, mask=kept)
        ) or torch.allclose(
            elbo.elbo.mean(), -ELBOLoss(name)(output, x.reshape(ours), mu, logvar, mask=kept), rtol=1e-12
        )

    @pytest.mark.parametrize("shapes", REFUSED, ids=str)
    @pytest.mark.parametrize("likelihood", ["bernoulli", "mse", "poisson"])
    def test_what_does_not(self, shapes, likelihood):
        ours, theirs = (torch.rand(shape).round() for shape in shapes)
        counts = rf"recon_x has shape .*, {ours.numel()} elements, and x has shape .*, {theirs.numel()} elements; "
        for call in (ELBOLoss(likelihood), ELBOLoss(likelihood, reduction="none")):
            with pytest.raises(ValueError, match=f"vaefast.ELBOLoss: {counts}{REFUSED[shapes]}"):
                call(ours, theirs, MU, LOGVAR)
        with pytest.raises(ValueError, match=f"vaefast.functional.elbo: {counts}{REFUSED[shapes]}"):
            VF.elbo(ours, theirs, MU, LOGVAR, likelihood=likelihood)

    def test_an_importance_weighted_loss(self):
        recon_x, x, z = torch.randn(4, B, 12), torch.rand(B, 1, 3, 4).round(), torch.randn(4, B, L)
        mask = torch.rand(B, 1, 3, 4) < 0.7
        got = IWAELoss()(recon_x, x, z, MU, LOGVAR, mask=mask)
        assert torch.equal(got, IWAELoss()(recon_x, x.flatten(1), z, MU, LOGVAR, mask=mask.flatten(1)))
        assert not torch.equal(got, IWAELoss()(recon_x, x, z, MU, LOGVAR))
        with pytest.raises(
            ValueError,
            match=r"IWAELoss: recon_x has shape \(4, 6, 3, 4, 2\), 144 elements for each sample of z, .*; permute one",
        ):
            IWAELoss()(torch.zeros(4, B, 3, 4, 2), torch.zeros(B, 2, 3, 4), z, MU, LOGVAR)

    def test_a_likelihood_whose_elements_are_not_independent(self):
        """Its shapes have a meaning, so none is changed."""
        logits, x = torch.zeros(B, 4, 3), torch.zeros(B, 12).long()
        with pytest.raises(ValueError, match="Categorical: recon_x is for data of shape"):
            ELBOLoss("categorical")(logits, x, MU, LOGVAR)

    def test_a_vae(self):
        vae = vaefast.VAE(nn.Sequential(nn.Flatten(), nn.Linear(12, 2 * L)), nn.Linear(L, 12))
        x = torch.rand(B, 1, 3, 4).round()
        assert vae.loss(x).shape == () and vae.elbo(x).elbo.shape == (B,)
        assert vae.log_likelihood(x, num_samples=5).shape == (B,)

    def test_under_compile(self):
        criterion = ELBOLoss("bernoulli_probs", reduction="sum")
        x = torch.rand(B, 1, 3, 4)
        recon_x = torch.rand(B, 12, requires_grad=True)
        compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(recon_x, x, MU, LOGVAR), criterion(recon_x, x, MU, LOGVAR))


class TestErrors:
    """What people sum: squared and absolute errors."""

    @pytest.mark.parametrize(("name", "function"), [("mse", F.mse_loss), ("l1", F.l1_loss)])
    def test_they_are_torchs_sums(self, name, function):
        recon_x, x = torch.randn(B, 50, requires_grad=True), torch.randn(B, 50)
        got, expected = ELBOLoss(name, reduction="sum")(recon_x, x, MU, LOGVAR), function(recon_x, x, reduction="sum")
        torch.testing.assert_close(got, expected, rtol=2e-7, atol=0)
        torch.testing.assert_close(*(torch.autograd.grad(t, recon_x)[0] for t in (got, expected)), rtol=2e-7, atol=0)

    def test_small_errors_keep_their_digits(self):
        """A constant of 784 log(2 pi) / 2 that is subtracted again would leave none of them."""
        recon_x = torch.rand(4, 784)
        x = recon_x + 1e-4
        for name, each in (("mse", (x - recon_x).double().square()), ("l1", (x - recon_x).double().abs())):
            got = likelihoods.by_name(name).log_prob(recon_x, x)
            torch.testing.assert_close(got.double(), -each.sum(1), rtol=2e-7, atol=0)

    @pytest.mark.parametrize("kind", [likelihoods.Gaussian, likelihoods.Laplace])
    @pytest.mark.parametrize("scale", [1.0, 0.3])
    def test_densities_without_their_constant(self, kind, scale):
        m, x = torch.randn(2, B, 8, dtype=torch.float64)
        whole, bare = kind(scale), kind(scale, constant=False)
        constant = -likelihoods.by_name(bare).log_prob(m[:, :1], m[:, :1]) - torch.tensor(scale).double().log()
        assert constant.abs().max() < 1e-7  # at the mean only the logarithm of the scale is left
        each = torch.log(torch.tensor(2 * torch.pi if kind is likelihoods.Gaussian else 4.0, dtype=torch.float64)) / 2
        torch.testing.assert_close(bare.log_prob(m, x), whole.log_prob(m, x) + 8 * each, rtol=1e-12, atol=0)
        pair = (m, 0.1 * x)
        for mask in (None, torch.rand(B, 8) < 0.5):
            kept = 8 if mask is None else mask.sum(1)
            got = kind(constant=False).log_prob(pair, x, mask=mask)
            torch.testing.assert_close(got, kind().log_prob(pair, x, mask=mask) + kept * each, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize(
        "likelihood", ["mse", "l1", likelihoods.Gaussian(constant=False), likelihoods.Laplace(constant=False)], ids=str
    )
    def test_they_are_no_densities(self, likelihood):
        vae = vaefast.VAE(nn.Linear(4, 2 * L), nn.Linear(L, 4), likelihood=likelihood)
        x, z = torch.rand(B, 4), torch.randn(2, B, L)
        assert vae.loss(x).isfinite() and vae.sample(2, draw=True).shape == vae.sample(2).shape == (2, 4)
        for call in (
            lambda: vae.elbo(x),
            lambda: vae.log_likelihood(x, num_samples=2),
            lambda: vae.bounds(x, num_samples=2),
            lambda: IWAELoss(likelihood)(torch.rand(2, B, 4), x, z, MU, LOGVAR),
            lambda: VF.log_weights(torch.rand(2, B, 4), x, z, MU, LOGVAR, likelihood=likelihood),
        ):
            with pytest.raises(ValueError, match="leaves out the constant of a density, so there is no log p"):
                call()

    def test_their_samples(self):
        zero = torch.zeros(1, 200_000)
        assert likelihoods.by_name("mse").sample(zero).var().item() == pytest.approx(0.5, rel=0.02)
        assert likelihoods.by_name("l1").sample(zero).abs().mean().item() == pytest.approx(1.0, rel=0.02)
        assert torch.equal(likelihoods.by_name("mse").mean(zero), zero)

    def test_a_constant_is_shown(self):
        assert repr(likelihoods.by_name("l1")) == "Laplace(constant=False)"
        assert repr(likelihoods.by_name("mse")) == "SquaredError()"


class TestBeta:
    def test_of_each_sample(self):
        recon_x, x = torch.randn(B, 5, dtype=torch.float64), torch.rand(B, 5, dtype=torch.float64)
        mu, logvar = latent(B)
        beta, weight = torch.rand(2, B, dtype=torch.float64).requires_grad_()
        parts = VF.elbo(recon_x, x, mu, logvar)
        for w in (None, weight):
            rows = (beta * parts.kl - parts.log_likelihood) * (1 if w is None else w)
            for reduction, expected in (("none", rows), ("sum", rows.sum()), ("mean", rows.mean())):
                got = ELBOLoss(reduction=reduction)(recon_x, x, mu, logvar, beta=beta, weight=w)
                torch.testing.assert_close(got, expected)
                leaves = (mu, logvar, beta) if w is None else (mu, logvar, beta, weight)
                for a, b in zip(
                    *(torch.autograd.grad(t.sum(), leaves, retain_graph=True) for t in (got, expected)), strict=True
                ):
                    torch.testing.assert_close(a, b)
        torch.testing.assert_close(
            VF.elbo(recon_x, x, mu, logvar, beta=beta).elbo, parts.log_likelihood - beta * parts.kl
        )
        with pytest.raises(
            ValueError, match=r"beta must be a number or a tensor of one element, or have the losses' shape \(6,\)"
        ):
            ELBOLoss()(recon_x, x, mu, logvar, beta=torch.ones(B + 1))
        with pytest.raises(ValueError, match="beta must be at least 0, got -1"):
            ELBOLoss(validate=True)(recon_x, x, mu, logvar, beta=-torch.ones(B, dtype=torch.float64))

    def test_of_one_element(self):
        beta = nn.Parameter(torch.full((1,), 0.5))
        data = torch.zeros(B, 5), torch.ones(B, 5), torch.ones(B, L), LOGVAR
        criterion = ELBOLoss(beta=beta)
        assert torch.equal(criterion(*data), ELBOLoss(beta=0.5)(*data))
        for _ in range(2):  # a graph of the constructor's would be gone
            beta.grad = None
            criterion(*data).backward()
            assert beta.grad.item() == pytest.approx(L / 2)


class TestSequences:
    T = 4

    @pytest.mark.parametrize("likelihood", ["bernoulli", "mse", "poisson"])
    def test_every_state_is_a_sample(self, likelihood):
        recon_x = torch.randn(B, self.T, 2, 5, dtype=torch.float64, requires_grad=True)
        x = torch.rand(B, self.T, 10, dtype=torch.float64).round()
        mu, logvar = latent(B, self.T)
        beta, weight = torch.rand(2, B, self.T, dtype=torch.float64)
        flat = [t.flatten(0, 1) for t in (recon_x, x, mu, logvar)]
        for options in ({}, {"reduction": "sum"}, {"reduction": "none"}, {"free_bits": 0.3, "free_bits_per": "sample"}):
            for given in ({}, {"beta": beta}, {"weight": weight}, {"return_parts": True}):
                got = ELBOLoss(likelihood, batch_dims=2, **options)(recon_x, x, mu, logvar, **given)
                own = {k: v.flatten() if isinstance(v, torch.Tensor) else v for k, v in given.items()}
                expected = ELBOLoss(likelihood, **options)(*flat, **own)
                if "return_parts" in given:
                    assert all(each.shape == (B, self.T) for each in got[1])
                    torch.testing.assert_close(got[1].kl.flatten(), expected[1].kl)
                    got, expected = got[0], expected[0]
                if options.get("reduction") == "none":
                    assert got.shape == (B, self.T)
                torch.testing.assert_close(got.flatten(), expected.flatten())
                a, b = (torch.autograd.grad(t.sum(), (recon_x, mu, logvar), retain_graph=True) for t in (got, expected))
                for one, other in zip(a, b, strict=True):
                    torch.testing.assert_close(one, other)

    def test_a_prior_with_log_prob(self):
        class Prior:
            def log_prob(self, z):
                return VF.gaussian_log_prob(z)

        mu, logvar = latent(B, self.T)
        z, recon_x, x = torch.randn_like(mu), torch.randn(B, self.T, 5), torch.rand(B, self.T, 5)
        own = ELBOLoss(estimator="mc", batch_dims=2, prior=Prior())(recon_x, x, mu, logvar, z=z)
        torch.testing.assert_close(own, ELBOLoss(estimator="mc", batch_dims=2)(recon_x, x, mu, logvar, z=z))

    def test_wrong_calls(self):
        with pytest.raises(ValueError, match="the first 2 dimensions of both are the batch"):
            ELBOLoss(batch_dims=2)(
                torch.zeros(B, 4, 5), torch.zeros(B, 4, 5), torch.zeros(B, 3, L), torch.zeros(B, 3, L)
            )
        with pytest.raises(ValueError, match="ELBOLoss: batch_dims must be an int of at least 1, got 0"):
            ELBOLoss(batch_dims=0)
        assert "batch_dims=2" in repr(ELBOLoss(batch_dims=2)) and "batch_dims" not in repr(ELBOLoss())


@pytest.mark.parametrize(
    ("options", "given", "answer"),
    [
        ({"kl_weight": 0.5}, {}, "has no argument kl_weight; write beta=..."),
        ({"recon_loss": "mse"}, {}, "has no argument recon_loss; write likelihood=..."),
        (
            {"ignore_index": 0},
            {},
            r"has no argument ignore_index; write likelihood=vaefast.likelihoods.Categorical\(ignore_index=...\)",
        ),
        ({"nonsense": 1}, {}, "has no argument nonsense$"),
        ({}, {"kld_weight": 0.5}, "has no argument kld_weight; write beta=..."),
        ({}, {"log_sigma": LOGVAR}, "has no argument log_sigma; write log_scale=..."),
        ({}, {"std": LOGVAR}, "has no argument std; write scale=..."),
        ({}, {"log_var": LOGVAR}, "has no argument log_var; write logvar=..."),
    ],
)
def test_names_of_other_libraries(options, given, answer):
    with pytest.raises(TypeError, match=f"vaefast.ELBOLoss {answer}"):
        ELBOLoss(**options)(
            torch.zeros(B, 2), torch.zeros(B, 2), MU, **({"logvar": LOGVAR} if "log" not in str(given) else {}), **given
        )
