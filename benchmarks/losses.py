"""The loss as people write it: what vaefast.ELBOLoss is measured against."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

import vaefast


def kl(mu: Tensor, logvar: Tensor) -> Tensor:
    return -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())


def examples(logits: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """The loss of pytorch/examples' VAE as it stands, after the sigmoid that its decoder ends in."""
    return F.binary_cross_entropy(torch.sigmoid(logits), x, reduction="sum") + kl(mu, logvar)


def eager(logits: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """The same from logits, averaged over the batch: the best of what people write."""
    return (F.binary_cross_entropy_with_logits(logits, x, reduction="sum") + kl(mu, logvar)) / len(x)


def gaussian_eager(mean: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Unit variance, the constant left out, as people do."""
    return (0.5 * F.mse_loss(mean, x, reduction="sum") + kl(mu, logvar)) / len(x)


def distributions(logits: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """The Bernoulli loss through torch.distributions."""
    normal = torch.distributions.Normal
    q = normal(mu, (0.5 * logvar).exp(), validate_args=False)
    p = normal(torch.zeros_like(mu), torch.ones_like(mu), validate_args=False)
    bernoulli = torch.distributions.Bernoulli(logits=logits, validate_args=False)
    return (torch.distributions.kl_divergence(q, p).sum() - bernoulli.log_prob(x).sum()) / len(x)


def pyro(logits: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """The Bernoulli loss through Pyro's TraceMeanField_ELBO, for which model and guide hold one site each."""
    from pyro import distributions as dist
    from pyro import plate, sample
    from pyro.infer import TraceMeanField_ELBO

    def model() -> None:
        with plate("batch", len(x)):
            sample("z", dist.Normal(torch.zeros_like(mu), torch.ones_like(mu)).to_event(1))
            sample("x", dist.Bernoulli(logits=logits, validate_args=False).to_event(1), obs=x)

    def guide() -> None:
        with plate("batch", len(x)):
            sample("z", dist.Normal(mu, (0.5 * logvar).exp()).to_event(1))

    return TraceMeanField_ELBO().differentiable_loss(model, guide) / len(x)


def variants(likelihood: str, compiled: bool) -> dict[str, Callable[..., Tensor]]:
    """By name, vaefast first."""
    best = eager if likelihood == "bernoulli" else gaussian_eager
    losses: dict[str, Callable[..., Tensor]] = {"vaefast": vaefast.ELBOLoss(likelihood), "eager": best}
    if likelihood == "bernoulli":
        losses |= {"examples": examples, "distributions": distributions}
        try:
            import pyro as _  # noqa: F401

            losses["pyro"] = pyro
        except ImportError:
            pass
    if compiled:
        torch.compiler.reset()
        losses["compile"] = torch.compile(best, dynamic=False)
    return losses
