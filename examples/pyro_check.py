"""Pyro's TraceMeanField_ELBO and vaefast's loss on one VAE: the same number, the same gradients.
`python -m examples.pyro_check` shows it."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn

import vaefast
from examples.compare import Pair, Side, differences, digits, side


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 16))
        self.decoder = nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 64))

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("batch", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 8), 1.0).to_event(1))
            # without validation: the digits are grey
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z), validate_args=False).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("batch", len(x)):
            mu, logvar = self.encoder(x).chunk(2, 1)
            pyro.sample("z", dist.Normal(mu, torch.exp(0.5 * logvar)).to_event(1))


def before(vae: VAE, x: Tensor) -> Tensor:
    return TraceMeanField_ELBO().differentiable_loss(vae.model, vae.guide, x)


criterion = vaefast.ELBOLoss("bernoulli", reduction="sum")  # Pyro adds the samples of a plate up


def after(vae: VAE, x: Tensor) -> Tensor:
    mu, logvar = vae.encoder(x).chunk(2, 1)
    z = vaefast.functional.reparameterize(mu, logvar)
    return criterion(vae.decoder(z), x, mu, logvar)


def pairs() -> list[Pair]:
    def make(loss: Callable[[VAE, Tensor], Tensor]) -> Side:
        vae = VAE()
        return side(vae, lambda x: loss(vae, x))

    return [
        Pair(
            "Pyro TraceMeanField_ELBO",
            "pyro-ppl",
            '`reparameterize` and `ELBOLoss("bernoulli", reduction="sum")`',
            make(before),
            make(after),
            digits().flatten(1),
            noise="torch.distributions.normal._standard_normal",  # of Pyro's Normal as well
        )
    ]


if __name__ == "__main__":
    loss, gradient = differences(pairs()[0])
    print(f"largest relative difference over 20 training steps: loss {loss:.1e}, gradients {gradient:.1e}")
