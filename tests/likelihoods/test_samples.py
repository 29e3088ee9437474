"""What likelihoods draw, in every dtype and far out."""

import math

import pytest
import torch

from vaefast import likelihoods as L


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_samples_of_counts_are_counts_in_any_dtype(dtype):
    parameters = [torch.full((4000,), value, dtype=dtype) for value in (6.0, 8.0, -30.0)]
    for likelihood, count in (
        (L.Poisson(), 1),
        (L.NegativeBinomial(), 2),
        (L.ZeroInflatedNegativeBinomial(), 3),
    ):
        x = likelihood.sample(tuple(parameters[:count]) if count > 1 else parameters[0])
        assert x.dtype == torch.promote_types(dtype, torch.float32) and torch.equal(x, x.round())
        assert 0.4 < (x % 2).mean() < 0.6
        assert abs(x.double().mean() / math.exp(6) - 1) < 0.02


def test_samples_far_out_are_counts():
    one = torch.zeros(50)
    for log_mean, log_theta in ((0, 800), (0, -800), (600, -800), (44, 5), (-800, 0)):
        x = L.NegativeBinomial().sample((one + log_mean, one + log_theta))
        assert (x >= 0).all() and x.isfinite().all(), (log_mean, log_theta)
    assert (L.Poisson().sample(one + 60) > 1e18).all()
    assert (L.NegativeBinomial().sample((one, one + 800)) < 30).all()  # Poisson's limit


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_samples_of_a_grid_lie_on_it(dtype):
    x = L.DiscretizedLogistic().sample((torch.rand(500).to(dtype), torch.full((500,), -2.0, dtype=dtype)))
    assert x.dtype == torch.float32
    torch.testing.assert_close(x * 255, (x * 255).round(), rtol=0, atol=1e-4)
