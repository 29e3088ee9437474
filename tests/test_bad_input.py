"""Every wrong input gets one clear sentence, and odd but right input gets right results."""

import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch

import vaefast
from tests.battery.large import available
from vaefast import ELBOLoss, IWAELoss, likelihoods, ops
from vaefast import functional as VF
from vaefast.priors import VampPrior

LOGITS, X = torch.zeros(3, 4), torch.zeros(3, 4)
MU, LOGVAR = torch.zeros(3, 2), torch.zeros(3, 2)


def loss(recon_x=LOGITS, x=X, mu=MU, logvar=LOGVAR, likelihood="bernoulli", module=None, **options):
    return ELBOLoss(likelihood, **(module or {}))(recon_x, x, mu, logvar, **options)


class Own:
    def log_prob(self, recon_x, x, **options):
        return recon_x.sum(1)


def spoiled():
    likelihood = likelihoods.Gaussian(learn_scale=True)
    torch.nn.init.constant_(likelihood.logvar, math.nan)
    return likelihood


def vamp(width=4):
    return VampPrior(torch.nn.Linear(4, width), X)


WRONG = {
    "target shape": (lambda: loss(x=torch.zeros(4)), ValueError, r"ELBOLoss: recon_x has shape \(3, 4\), 12 elements, and x has shape \(4,\), 4 elements; a decoder must return one number"),
    "target shape, broadcastable": (lambda: loss(x=torch.zeros(3, 1)), ValueError, r"x has shape \(3, 1\), 3 elements"),
    "reduction": (lambda: loss(module={"reduction": "avg"}), ValueError, "reduction must be one of 'none', 'sum', 'mean', got 'avg'"),
    "functional reduction": (lambda: VF.gaussian_kl(MU, LOGVAR, reduction="avg"), ValueError, "gaussian_kl: reduction .* got 'avg'"),
    "integer logits": (lambda: loss(recon_x=LOGITS.long()), TypeError, "recon_x must be float32, float64, bfloat16 or float16, got torch.int64"),
    "complex logits": (lambda: loss(recon_x=LOGITS + 0j), TypeError, "got torch.complex64"),
    "numpy target": (lambda: loss(x=np.zeros((3, 4))), TypeError, "x must be a torch.Tensor, got numpy.ndarray"),
    "no target": (lambda: loss(x=None), TypeError, "x must be a torch.Tensor, got NoneType"),
    "integer target": (lambda: loss(x=X.long()), TypeError, "x must be float32, float64, bfloat16 or float16, bool or uint8, got torch.int64"),
    "devices": (lambda: loss(x=X.to("meta")), ValueError, "x is on meta but recon_x is on cpu"),
    "devices of the parts": (lambda: loss(mu=MU.to("meta"), logvar=LOGVAR.to("meta")), ValueError, "mu is on meta but x is on cpu"),
    "devices of elbo": (lambda: VF.elbo(LOGITS, X, MU.to("meta"), LOGVAR.to("meta")), ValueError, "elbo: mu is on meta but x is on cpu"),
    "no x beside an own likelihood": (lambda: VF.elbo(LOGITS, None, MU, LOGVAR, likelihood=Own()), TypeError, "elbo: x must be a torch.Tensor, got NoneType"),
    "devices of samples": (lambda: IWAELoss()(LOGITS[None], X, *(t.to("meta") for t in (MU[None], MU, LOGVAR))), ValueError, "IWAELoss: mu is on meta but x is on cpu"),
    "a capacity's device": (lambda: VF.capacity_kl(MU[:, 0], torch.ones((), device="meta")), ValueError, "capacity_kl: capacity is on meta but kl is on cpu"),
    "pixels of samples": (lambda: VF.log_weights(LOGITS[None], X[:, :2], MU[None], MU, LOGVAR), ValueError, r"log_weights: recon_x has shape \(1, 3, 4\), 12 elements for each sample of z, and x has shape \(3, 2\), 6 elements; a decoder must return"),
    "a word for a flag": (lambda: ELBOLoss(validate="no"), TypeError, "ELBOLoss: validate must be a bool, got str"),
    "a number for a flag": (lambda: ELBOLoss(inplace=1), TypeError, "ELBOLoss: inplace must be a bool, got int"),
    "a word for return_parts": (lambda: loss(return_parts="no"), TypeError, "ELBOLoss: return_parts must be a bool, got str"),
    "None for return_parts": (lambda: loss(return_parts=None), TypeError, "ELBOLoss: return_parts must be a bool, got NoneType"),
    "a word for learn_scale": (lambda: likelihoods.Laplace(learn_scale="no"), TypeError, "Laplace: learn_scale must be a bool, got str"),
    "a word for optimal_scale": (lambda: likelihoods.Gaussian(optimal_scale="no"), TypeError, "Gaussian: optimal_scale must be a bool, got str"),
    "a word for probs": (lambda: likelihoods.Bernoulli(probs="no"), TypeError, "Bernoulli: probs must be a bool, got str"),
    "sparse": (lambda: loss(recon_x=LOGITS.to_sparse()), NotImplementedError, "recon_x is not a dense strided tensor, got torch.sparse_coo"),
    "quantized": (lambda: loss(recon_x=torch.quantize_per_tensor(LOGITS, 0.1, 0, torch.quint8)), NotImplementedError, "got torch.quint8"),
    "nested": (lambda: loss(recon_x=torch.nested.nested_tensor([LOGITS, LOGITS])), NotImplementedError, "recon_x is a nested tensor; pad it"),
    "mkldnn": (lambda: loss(recon_x=LOGITS.to_mkldnn()), NotImplementedError, "got torch._mkldnn"),
    "mu and logvar": (lambda: loss(logvar=torch.zeros(3, 3)), ValueError, r"logvar must have the shape of mu, \(3, 2\), got \(3, 3\)"),
    "no logvar": (lambda: VF.gaussian_log_likelihood(LOGITS, X, None), TypeError, "gaussian_log_likelihood: logvar must be a number, got NoneType"),
    "logvar an int": (lambda: VF.gaussian_kl(MU, 0), TypeError, "gaussian_kl: logvar must be a torch.Tensor, got int"),
    "batches": (lambda: loss(mu=torch.zeros(5, 2), logvar=torch.zeros(5, 2)), ValueError, "the first dimension of both is the batch"),
    "beta NaN": (lambda: loss(module={"beta": math.nan}), ValueError, "beta must be a finite number of at least 0, got nan"),
    "beta negative": (lambda: loss(beta=-1.0), ValueError, "beta .* got -1"),
    "beta bool": (lambda: loss(beta=True), TypeError, "beta must be a number, got bool"),
    "beta shape": (lambda: loss(beta=torch.ones(4)), ValueError, r"got shape \(4,\)"),
    "beta device": (lambda: loss(beta=torch.tensor(1.0, device="meta")), ValueError, "beta is on meta but mu is on cpu"),
    "too many samples": (lambda: VF.reparameterize(torch.zeros(2**16), torch.zeros(2**16), num_samples=2**46 + 1), ValueError, "is too large"),
    "gaussian of three": (lambda: VF.elbo((LOGITS,) * 3, X, MU, LOGVAR, likelihood="gaussian"), ValueError, r"Gaussian: expected \(mean, logvar\), got 3 tensors"),
    "scale factor": (lambda: torch.ops.vaefast.scale_([torch.ones(2)], torch.empty(0)), ValueError, "a factor of one element, got 0"),
    "sample gradient": (lambda: torch.ops.vaefast.rsample_backward([MU, LOGVAR], torch.tensor([0, 0]), torch.ones(3, 2, dtype=torch.bool), None, -1, 1, 3), TypeError, "grad_z must be floating point"),
    "weights of elements": (lambda: torch.ops.vaefast.elbo("bernoulli", [LOGITS, X], [MU, LOGVAR], None, torch.ones(3, 4), None, 1.0, "sum", 1, 1.0, 0, 0), ValueError, "weights must have shape"),
    "spreads of a term": (lambda: torch.ops.vaefast.row_sum("bernoulli", [X, X], None, None, "sum", 1, 1.0, 0, True, 1), ValueError, "bernoulli does not take spreads 1"),
    "spreads of a prior": (lambda: torch.ops.vaefast.row_sum("gaussian_kl", [MU, LOGVAR], None, None, "sum", 1, 1.0, 0, True, 2), ValueError, "gaussian_kl does not take spreads 2"),
    "spreads of both kinds": (lambda: torch.ops.vaefast.rsample([MU, LOGVAR], None, -1, False, 1, None, 5), ValueError, "sampling does not take spreads 5"),
    "free bits": (lambda: loss(module={"free_bits": -0.5}), ValueError, "free_bits must be a finite number of at least 0, got -0.5"),
    "generator type": (lambda: VF.reparameterize(MU, LOGVAR, generator=5), TypeError, "generator must be a torch.Generator, got int"),
    "generator device": (lambda: VF.reparameterize(MU.to("meta"), LOGVAR.to("meta"), generator=torch.Generator()), ValueError, "generator is on cpu but the tensors are on meta"),
    "eps shape": (lambda: VF.reparameterize(MU, LOGVAR, eps=torch.zeros(5)), ValueError, r"eps must be broadcastable to shape \(3, 2\), got \(5,\)"),
    "num_samples": (lambda: VF.reparameterize(MU, LOGVAR, num_samples=-1), ValueError, "num_samples, if not None, must be an int of at least 0, got -1"),
    "num_samples type": (lambda: VF.reparameterize(MU, LOGVAR, num_samples=2.0), TypeError, "num_samples, if not None, must be an int, got float"),
    "batch_dims": (lambda: VF.gaussian_kl(MU, LOGVAR, batch_dims=3), ValueError, "batch_dims must be between 0 and 2, the dimensions of mu, got 3"),
    "likelihood name": (lambda: loss(likelihood="bernouli"), ValueError, "likelihood must be one of 'bernoulli', 'bernoulli_probs', 'gaussian', .*, got 'bernouli'"),
    "likelihood object": (lambda: loss(likelihood=3), TypeError, "likelihood must be a name or have log_prob, got int"),
    "a distribution": (lambda: loss(likelihood=torch.distributions.Bernoulli(logits=LOGITS)), TypeError, r"torch.distributions.Bernoulli has its parameters already"),
    "values, a negative beta": (lambda: loss(beta=torch.tensor(-1.0), module={"validate": True}), ValueError, "beta must be at least 0, got -1"),
    "likelihood class": (lambda: loss(likelihood=likelihoods.Gaussian), TypeError, r"likelihood must be an object, Gaussian\(\), not the class"),
    "two target scales": (lambda: VF.elbo(LOGITS, X, MU, LOGVAR, likelihood=likelihoods.Bernoulli(), target_scale=0.5), ValueError, r"for likelihoods given by name; write Bernoulli\(target_scale=0.5\)"),
    "no counts": (lambda: loss(x=None, likelihood="poisson"), TypeError, "x must be a torch.Tensor, got NoneType"),
    "labels": (lambda: likelihoods.Categorical().log_prob(torch.zeros(1, 4, 3), torch.full((1, 3), 4)), ValueError, "x must hold labels, whole numbers from 0 to 3"),
    "fractions for labels": (lambda: likelihoods.Categorical().log_prob(torch.zeros(1, 4, 3), torch.full((1, 3), 1.5)), ValueError, "whole numbers from 0 to 3"),
    "log p(x) of a fitted scale": (lambda: VF.log_weights(LOGITS[None], X, MU[None], MU, LOGVAR, likelihood=likelihoods.Gaussian(optimal_scale=True)), ValueError, "log_weights: optimal_scale fits the scale to x"),
    "a layer": (lambda: VF.hierarchical_kl([MU]), TypeError, r"layer 0 must be \(mu, logvar\) .*, got Tensor"),
    "a number for a layer": (lambda: VF.hierarchical_kl([3]), TypeError, r"layer 0 must be \(mu, logvar\) .*, got int"),
    "no layers": (lambda: VF.hierarchical_kl(None), TypeError, "layers must be a sequence of tuples of tensors, got NoneType"),
    "no mu": (lambda: IWAELoss(gradient="stl")(LOGITS[None], X, MU[None], None, LOGVAR), TypeError, "IWAELoss: mu must be a torch.Tensor, got NoneType"),
    "samples of sparse data": (lambda: VF.log_weights(LOGITS[None], X.to_sparse(), MU[None], MU, LOGVAR), NotImplementedError, "log_weights: x is not a dense strided tensor"),
    "mask of samples": (lambda: IWAELoss()(LOGITS[None], X, MU[None], MU, LOGVAR, mask=torch.ones(5, dtype=torch.bool)), ValueError, r"IWAELoss: mask must be broadcastable to the shape of x, \(3, 4\), got \(5,\)"),
    "mask of each sample": (lambda: IWAELoss()(LOGITS[None], X, MU[None], MU, LOGVAR, mask=X[None] == 0), ValueError, r"mask must be broadcastable to the shape of x, \(3, 4\), got \(1, 3, 4\)"),
    "batch of samples before its mask": (lambda: IWAELoss()(LOGITS[None], X[:2], MU[None], MU, LOGVAR, mask=X == 0), ValueError, r"IWAELoss: x has shape \(2, 4\) but mu has shape \(3, 2\)"),
    "no samples": (lambda: IWAELoss()(LOGITS[None][:0], X, MU[None][:0], MU, LOGVAR), ValueError, r"IWAELoss: z must hold at least one sample, got shape \(0, 3, 2\)"),
    "a prior's name": (lambda: VF.log_weights(LOGITS[None], X, MU[None], MU, LOGVAR, prior="x"), TypeError, "log_weights: prior must be an object with log_prob, got str"),
    "a number for a prior": (lambda: ELBOLoss(estimator="mc", prior=3), TypeError, "ELBOLoss: prior must be an object with log_prob, got int"),
    "a class for a prior": (lambda: ELBOLoss(estimator="mc", prior=VampPrior), TypeError, "prior must be an object with log_prob, got the class VampPrior"),
    "a prior without mc": (lambda: ELBOLoss(prior=vamp()), ValueError, "prior needs estimator='mc', got 'analytic'"),
    "VampPrior's encoder": (lambda: VampPrior(None, X), TypeError, "VampPrior: encoder must be a module or a function, got NoneType"),
    "VampPrior's latent": (lambda: vamp().log_prob(torch.zeros(5, 3)), ValueError, r"VampPrior.log_prob: z must have shape \(B, 2\), got \(5, 3\)"),
    "VampPrior's z": (lambda: vamp().log_prob(None), TypeError, "VampPrior.log_prob: z must be a torch.Tensor, got NoneType"),
    "VampPrior's width": (lambda: vamp(width=5).log_prob(MU), ValueError, r"an encoder's single output must split in two along dimension 1, got \(3, 5\)"),
    "VampPrior of three": (lambda: VampPrior(lambda u: (u, u, u), X).sample(2), ValueError, r"an encoder must return \(mu, logvar\), got 3 tensors"),
    "VampPrior of None": (lambda: VampPrior(lambda u: None, X).sample(2), TypeError, r"an encoder's output, if not \(mu, logvar\), must be a torch.Tensor, got NoneType"),
    "VampPrior's samples": (lambda: vamp().sample(-1), ValueError, "VampPrior.sample: n must be an int of at least 0, got -1"),
    "levels": (lambda: likelihoods.DiscretizedLogistic(2.5), TypeError, "DiscretizedLogistic: levels must be an int, got float"),
    "a data set's size": (lambda: VF.kl_decomposition(MU, MU, LOGVAR, 10.0), TypeError, "kl_decomposition: dataset_size must be an int, got float"),
    "a schedule": (lambda: vaefast.schedules.sigmoid(1, "a"), TypeError, "sigmoid: midpoint must be a number, got str"),
    "a schedule's width": (lambda: vaefast.schedules.sigmoid(1, 0), ValueError, "sigmoid: midpoint must be positive, got 0"),
    "layers' devices": (lambda: VF.hierarchical_kl([(MU, LOGVAR), (MU.to("meta"),) * 2]), ValueError, "mu of layer 1 is on meta but that of layer 0 is on cpu"),
    "sizes": (lambda: vaefast.mlp_vae((4,), hidden_dims=400), TypeError, "hidden_dims must be a sequence of ints, got int"),
    "an encoder of three": (lambda: vaefast.VAE(lambda x: (x, x, x), LOGITS).encode(X), ValueError, r"an encoder must return \(mu, logvar\), got 3 tensors"),
    "a number of samples": (lambda: vaefast.mlp_vae((4,)).sample(-1), ValueError, "n must be an int of at least 0, got -1"),
    "mask dtype": (lambda: loss(mask=torch.ones(3, 4)), TypeError, "mask must be a bool tensor, got torch.float32"),
    "mask shape": (lambda: loss(mask=torch.ones(5, dtype=torch.bool)), ValueError, r"mask must be broadcastable to the shape of x, \(3, 4\), got \(5,\)"),
    "weight shape": (lambda: loss(weight=torch.ones(3, 1)), ValueError, r"weight must have shape \(3,\), got \(3, 1\)"),
    "prior shape": (lambda: loss(prior_mu=torch.zeros(5)), ValueError, "prior_mu must be broadcastable"),
    "target scale": (lambda: VF.bernoulli_log_likelihood(LOGITS, X, target_scale=math.inf), ValueError, "target_scale must be a finite number, got inf"),
    "scale": (lambda: likelihoods.Gaussian(scale=0.0), ValueError, "scale must be positive, got 0.0"),
    "two scales": (lambda: likelihoods.Gaussian(learn_scale=True, optimal_scale=True), ValueError, "exclude each other"),
    "gaussian triple": (lambda: loss(recon_x=(LOGITS,) * 3, likelihood="gaussian"), ValueError, r"expected \(mean, logvar\), got 3 tensors"),
    "values, target": (lambda: loss(x=X + 2, module={"validate": True}), ValueError, r"targets must lie in \[0, 1\], got values from 2 to 2"),
    "values, NaN": (lambda: loss(mu=MU * math.nan, module={"validate": True}), ValueError, "ELBOLoss: mu holds NaN or infinite values"),
    "values, z": (lambda: loss(z=MU / 0, module={"validate": True, "estimator": "mc"}), ValueError, "ELBOLoss: z holds NaN or infinite values"),
    "values, a pair": (lambda: loss(recon_x=(LOGITS, LOGITS / 0), likelihood="gaussian", module={"validate": True}), ValueError, r"recon_x\[1\] holds NaN"),
    "values, a prior": (lambda: loss(prior_logvar=LOGVAR / 0, module={"validate": True}), ValueError, "prior_logvar holds NaN"),
    "values, a learned scale": (lambda: loss(likelihood=spoiled(), module={"validate": True}), ValueError, "likelihood.logvar holds NaN"),
    "values, probabilities": (lambda: loss(recon_x=LOGITS + 2, likelihood="bernoulli_probs", module={"validate": True}), ValueError, r"recon_x \(probabilities\) must lie in \[0, 1\]"),
    "validate, no prediction": (lambda: loss(recon_x=None, likelihood="poisson", module={"validate": True}), TypeError, "Poisson: log_rate must be a torch.Tensor, got NoneType"),
    "validate, shapes": (lambda: loss(recon_x=MU, likelihood="poisson", module={"validate": True}, mask=X == 0), ValueError, r"recon_x has shape \(3, 2\), 6 elements, and x has shape \(3, 4\), 12 elements"),
    "unknown term": (lambda: ops.row_sum("poison", (MU, LOGVAR)), ValueError, "no term is named 'poison'; there are gaussian_kl"),
    "operand count": (lambda: torch.ops.vaefast.row_sum("bernoulli", [X], None, None, "sum", 1, 1.0, 0, True), ValueError, "bernoulli takes 2 operands, got 1"),
    "operand shape": (lambda: torch.ops.vaefast.row_sum("bernoulli", [X, MU], None, None, "sum", 1, 1.0, 0, True), ValueError, "operand 1 has shape"),
    "noise key": (lambda: torch.ops.vaefast.rsample([MU, LOGVAR], torch.zeros(1), -1, False, 1, None), ValueError, "a noise key is two int64"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_clear_sentence(name):
    call, kind, message = WRONG[name]
    with pytest.raises(kind, match=message) as error:
        call()
    assert "\n" not in str(error.value).split("Exception raised")[0].strip()


def test_numbers_of_other_types():
    """A Fraction is a number, and does what the same float does."""
    half, mu = Fraction(1, 2), torch.randn(3, 2)
    for f in (
        lambda n: ELBOLoss(beta=n)(LOGITS, X, mu, mu),
        lambda n: ELBOLoss()(LOGITS, X, mu, mu, beta=n),
        lambda n: ELBOLoss(beta=n, free_bits=n)(LOGITS, X, mu, mu),
        lambda n: VF.elbo(LOGITS, X, mu, mu, beta=n).elbo,
        lambda n: IWAELoss(alpha=n)(LOGITS[None], X, MU[None], mu, mu),
        lambda n: VF.renyi_bound(mu, n),
        lambda n: VF.ciwae_bound(mu, n),
        lambda n: VF.free_bits_kl(mu, n),
        lambda n: VF.capacity_kl(mu[:, 0], n, gamma=n),
        lambda n: VF.balanced_kl(mu, mu, MU, MU, balance=n),
        lambda n: VF.gaussian_log_likelihood(mu, MU, n),
        lambda n: VF.active_units(mu, n),
        lambda n: likelihoods.Gaussian(scale=n, target_scale=n).log_prob(LOGITS, X),
        lambda n: vaefast.schedules.sigmoid(n, n, width=n, start=n, stop=n),
    ):
        assert torch.equal(f(half), f(0.5)) and torch.equal(f(np.float32(0.5)), f(0.5))


def test_an_input_changed_before_backward_raises():
    for criterion in (ELBOLoss(), ELBOLoss(reduction="none")):
        mu = torch.zeros(3, 2, requires_grad=True) * 1
        value = criterion(LOGITS, X, mu, LOGVAR).sum()
        mu.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            value.backward()


def test_backward_twice():
    mu = torch.randn(3, 2, requires_grad=True)
    value = loss(mu=mu)
    value.backward(retain_graph=True)
    first = mu.grad.clone()
    mu.grad.zero_()  # a user's own change of the gradient must not reach the next pass
    value.backward()
    torch.testing.assert_close(mu.grad, first, rtol=1e-6, atol=0)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        value.backward()


def test_odd_views_give_right_results():
    base = torch.randn(3, 8, 2, dtype=torch.float64)
    views = {
        "expanded": base[:, :1, :1].expand(3, 4, 2),
        "sliced": base[:, 1::2],
        "flipped": base.flip(1)[:, :4],
        "overlapping": base.as_strided((3, 4, 2), (2, 1, 1)),
        "conjugated": torch.view_as_complex(base.clone())[:, :4].conj().real.unsqueeze(-1).expand(3, 4, 2),
        "negated": torch.view_as_complex(base.clone())[:, :4].conj().imag.unsqueeze(-1).expand(3, 4, 2),
    }
    assert views["negated"].is_neg()
    for name, view in views.items():
        got = VF.gaussian_kl(view, view)
        expected = 0.5 * (view**2 + view.exp() - 1 - view).flatten(1).sum(1)
        torch.testing.assert_close(got, expected, msg=name)


def test_odd_upstream_gradients():
    """Expanded, strided, zero and missing."""
    mu, logvar = torch.randn(6, 3, requires_grad=True), torch.randn(6, 3)
    for upstream in (torch.ones(()).expand(6), torch.randn(12)[::2], torch.zeros(6)):
        (got,) = torch.autograd.grad(VF.gaussian_kl(mu, logvar), mu, upstream)
        torch.testing.assert_close(got, upstream[:, None] * mu.detach())
    z, kl = VF.rsample_kl(mu, logvar)
    (got,) = torch.autograd.grad(kl.sum(), mu)
    torch.testing.assert_close(got, mu.detach())


def test_empty_batch_and_no_dimensions():
    empty = torch.zeros(0, 4, requires_grad=True)
    z = torch.zeros(0, 2)
    assert ELBOLoss(reduction="sum")(empty, empty.detach(), z, z) == 0
    value = ELBOLoss()(empty, empty.detach(), z, z)
    assert value.isnan()
    value.backward()
    assert empty.grad.shape == (0, 4)
    assert VF.gaussian_kl(z, z).shape == (0,) and VF.gaussian_kl(z, z, reduction="mean").isnan()
    assert VF.reparameterize(z, z).shape == (0, 2) and VF.reparameterize(MU, LOGVAR, num_samples=0).shape == (0, 3, 2)
    mu = torch.ones(3, 2, requires_grad=True)
    VF.reparameterize(mu, LOGVAR, num_samples=0).sum().backward()
    assert torch.equal(mu.grad, torch.zeros(3, 2))
    point = torch.tensor(1.0, requires_grad=True)
    value = VF.gaussian_kl(point, torch.tensor(0.0))
    value.backward()
    assert value.shape == () and value.item() == 0.5 and point.grad == 1
    assert VF.reparameterize(point, point).shape == ()
    assert VF.gaussian_kl(torch.ones(3), torch.zeros(3)).tolist() == [0.5] * 3


def test_nan_stays_where_it_is():
    logits = torch.randn(4, 5)
    logits[2, 3] = math.nan
    logits.requires_grad_()
    values = VF.bernoulli_log_likelihood(logits, torch.rand(4, 5))
    assert values.isnan().tolist() == [False, False, True, False]
    (grad,) = torch.autograd.grad(values.sum(), logits)
    assert grad.isnan().sum() == 1 and grad[2, 3].isnan()


def test_settings_that_are_assigned_are_checked():
    criterion = ELBOLoss()
    for name, wrong, kind in (("beta", -1.0, ValueError), ("beta", "a", TypeError), ("reduction", "avg", ValueError)):
        right = getattr(criterion, name)
        setattr(criterion, name, wrong)
        with pytest.raises(kind, match=name):
            criterion(LOGITS, X, MU, LOGVAR)
        setattr(criterion, name, right)
    assert ELBOLoss(beta=np.float32(0.5))(LOGITS, X, MU, LOGVAR) == ELBOLoss(beta=0.5)(LOGITS, X, MU, LOGVAR)


@pytest.mark.parametrize("batch", [65535, 65536, 65537])
def test_large_batches(batch):
    mu = torch.randn(batch, 3)
    kl = VF.gaussian_kl(mu, mu)
    torch.testing.assert_close(kl, 0.5 * (mu**2 + mu.exp() - 1 - mu).sum(1), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 5])
def test_more_than_2_to_the_31_elements(rows):
    """64-bit indices: the last element, in bfloat16, beyond 2^31, counts like the first."""
    if available() < 6:
        pytest.skip("needs 6 GB")
    columns = (2**31 + 64) // rows
    logits = torch.zeros(rows, columns, dtype=torch.bfloat16)
    x = torch.zeros(1, 1, dtype=torch.bool).expand(rows, columns)
    logits[-1, -1] = 100.0
    got = VF.bernoulli_log_likelihood(logits, x)
    plain = -columns * math.log(2.0)
    assert got[-1].item() == pytest.approx(plain - 100 + math.log(2.0), rel=2**-22)
    row_sum = torch.ops.vaefast.row_sum
    (grad,) = row_sum("bernoulli", [logits, x], None, None, "sum", 1, 1.0, 1, False)[1]
    assert grad[-1, -1] == -1 and grad[0, 0] == -0.5 and grad[-1, -2] == -0.5


def test_an_import_without_the_library_or_with_another_torch(tmp_path):
    """One message, naming the versions of torch, or of Python, and what to do."""
    program = """
import sys, types
built = types.ModuleType("vaefast._built_for"); {setup}
sys.modules["vaefast._built_for"] = {module}
try:
    import vaefast
except ImportError as error:
    print(error)
"""
    for setup, module, expected in (
        ("built.TORCH = '1.2.3'", "built", f"compiled for torch 1.2.3, but torch {torch.__version__} is running"),
        ("", "None", f"(torch {torch.__version__} is running)"),
        (
            f"built.TORCH = {torch.__version__!r}; sys.modules['vaefast._C'] = None",
            "built",
            f"does not load in Python {sys.version.split()[0]} with torch {torch.__version__}",
        ),
    ):
        run = subprocess.run(
            [sys.executable, "-c", program.format(setup=setup, module=module)], capture_output=True, text=True
        )
        assert expected in run.stdout and "pip install" in run.stdout, run.stdout + run.stderr


def test_the_operator_refuses_weights_of_elements_for_a_total():
    """Python never asks for it; torch.ops.vaefast may be called directly."""
    operands = torch.randn(3, 4), torch.rand(3, 4)
    with pytest.raises(ValueError, match="takes coef by row"):
        torch.ops.vaefast.row_sum("bernoulli", operands, None, torch.rand(3, 4), "sum", 1, 1.0, 0, True)
