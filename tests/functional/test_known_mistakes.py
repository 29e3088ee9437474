"""Formulas found in other libraries, each as a case that it fails, beside the right one."""

import math

import torch
from torch.distributions import Normal, kl_divergence

import vaefast
from vaefast import functional as VF

F64 = torch.float64


def test_importance_weights_favour_the_best_samples():
    """Weights that are the softmax of the loss, instead of minus the loss, train on the worst samples."""
    losses = torch.tensor([[1.0], [5.0], [10.0]])
    log_w = (-losses).requires_grad_()
    weights = torch.autograd.grad(VF.iwae_bound(log_w).sum(), log_w)[0]
    assert weights[0] > 0.98
    assert losses.softmax(0)[0] < 0.001


def test_miwae_averages_groups_and_not_samples():
    """With M = 1 group of K = 8, swapped axes return the ELBO."""
    log_w = torch.randn(1, 8, 5)
    right = log_w[0].logsumexp(0) - math.log(8)
    torch.testing.assert_close(VF.miwae_bound(log_w), right)
    swapped = (log_w.logsumexp(0) - math.log(1)).mean(0)
    torch.testing.assert_close(swapped, log_w[0].mean(0))
    assert (right - swapped).abs().min() > 0.01


def test_the_value_is_the_bound():
    """sum_k w_k log w_k with normalized weights has the bound's gradient and is another number, above the bound."""
    log_w = torch.randn(8, 5)
    surrogate = (log_w.softmax(0) * log_w).sum(0)
    assert (surrogate > VF.iwae_bound(log_w) + 0.01).all()


def test_stratified_matrix():
    """A stride of B through a B x B matrix fills a column and not the diagonal, and one row no longer sums to 1."""
    batch, size = 4, 10
    strat = (size - batch + 1) / (size * (batch - 1))
    wrong = torch.full((batch, batch), 1 / (batch - 1), dtype=F64)
    wrong.view(-1)[::batch] = 1 / size
    wrong.view(-1)[1::batch] = strat
    wrong[batch - 2, 0] = strat
    assert abs(wrong.sum(1)[-2] - 1) > 0.1
    mu, logvar = torch.zeros(2, batch, 3, dtype=F64).unbind()  # all posteriors alike: q(z) is each of them
    z = torch.randn(batch, 3, dtype=F64)
    parts = VF.kl_decomposition(z, mu, logvar, size)
    torch.testing.assert_close(parts.mutual_information, torch.zeros(batch, dtype=F64), rtol=0, atol=1e-12)
    torch.testing.assert_close(parts.total_correlation, torch.zeros(batch, dtype=F64), rtol=0, atol=1e-12)
    assert wrong.sum(1).log().abs().max() > 0.1  # what the wrong matrix gives for the mutual information


def test_the_weights_of_a_marginal_are_counted_once():
    """Added in every dimension before the sum over them, log W would count D times in q(z)."""
    z, mu, logvar = (torch.randn(4, 3, dtype=F64) for _ in range(3))
    parts = VF.kl_decomposition(z, mu, logvar, 4, weights="weighted")
    each = Normal(mu[None], (logvar / 2).exp()[None]).log_prob(z[:, None])
    right = each.sum(2).logsumexp(1) - math.log(16)
    thrice = (each - math.log(16)).sum(2).logsumexp(1)
    own = torch.stack([each[i, i].sum() for i in range(4)])
    torch.testing.assert_close(own - parts.mutual_information, right)
    torch.testing.assert_close(right - thrice, torch.full((4,), 2 * math.log(16), dtype=F64))


def test_logvar_is_not_the_standard_deviation():
    mu, logvar = torch.tensor([[0.5]], dtype=F64), torch.tensor([[-1.0]], dtype=F64)
    exact = 0.308939720585721
    assert abs(VF.gaussian_kl(mu, logvar).item() - exact) < 1e-12
    squared = 0.5 * (mu**2 + logvar**2 - (logvar**2).log() - 1)
    assert abs(squared.item() - exact) > 0.1


def test_the_kl_is_summed_over_dimensions():
    mu, logvar = torch.randn(4, 20), torch.randn(4, 20)
    nothing = torch.zeros(4, 0)
    loss = vaefast.ELBOLoss()(nothing, nothing, mu, logvar)
    kl = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(loss, kl.sum(1).mean())
    assert loss > 10 * kl.mean()
