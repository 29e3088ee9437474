"""diffusers' AutoencoderKL with vaefast's samples and KL divergence; `python -m examples.diffusers_autoencoder` trains a
tiny one on the digits.

diffusers clamps logvar to [-30, 20] before vaefast sees it, so beyond that the gradient is 0, as it was. One seed gives
other samples than diffusers', of the same distribution.
"""

from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor
from torch.nn import functional as F

from examples.compare import Pair, Side, digits, side
from vaefast import functional

KL_WEIGHT = 0.01


class FusedGaussian(DiagonalGaussianDistribution):
    """What vaefast has no kernel for is left to diffusers: a distribution without variance, a generator of another device,
    and a generator for each sample."""

    def sample(self, generator: torch.Generator | list[torch.Generator] | None = None) -> Tensor:
        device = generator.device if isinstance(generator, torch.Generator) else None
        if self.deterministic or isinstance(generator, list) or (device or self.mean.device) != self.mean.device:
            return super().sample(generator)
        return functional.reparameterize(self.mean, self.logvar, generator=generator)

    def kl(self, other: DiagonalGaussianDistribution | None = None) -> Tensor:
        if self.deterministic or (other is not None and other.deterministic):
            return super().kl(other)
        prior = () if other is None else (other.mean, other.logvar)
        return functional.gaussian_kl(self.mean, self.logvar, *prior)


class FusedAutoencoderKL(AutoencoderKL):
    """In the place of AutoencoderKL, also for from_pretrained."""

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        posterior = FusedGaussian(super().encode(x, return_dict=False)[0].parameters)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)


def tiny(kind: type[AutoencoderKL] = FusedAutoencoderKL) -> AutoencoderKL:
    """8 x 8 pixels to 2 x 4 x 4 latents, from random weights."""
    return kind(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        latent_channels=2,
        sample_size=8,
        mid_block_add_attention=False,
    )


def loss_of(model: AutoencoderKL, x: Tensor) -> Tensor:
    """As such autoencoders are trained; nothing of it changes."""
    posterior = model.encode(x).latent_dist
    recon_x = model.decode(posterior.sample()).sample
    return F.mse_loss(recon_x, x, reduction="sum") / len(x) + KL_WEIGHT * posterior.kl().mean()


def train(kind: type[AutoencoderKL] = FusedAutoencoderKL, epochs: int = 3) -> list[float]:
    """The mean loss of a sample in each epoch."""
    x, model, history = digits(), tiny(kind), []
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(epochs):
        total = 0.0
        for batch in x[torch.randperm(len(x))].split(64):
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            optimizer.step()
            total += len(batch) * loss.item()
        history.append(total / len(x))
    return history


def pairs() -> list[Pair]:
    def make(kind: type[AutoencoderKL]) -> Side:
        model = tiny(kind)
        return side(model, lambda x: loss_of(model, x))

    return [
        Pair(
            "diffusers AutoencoderKL",
            "diffusers",
            "`sample`: `reparameterize`, `kl`: `gaussian_kl`",
            make(AutoencoderKL),
            make(FusedAutoencoderKL),
            digits(),
            noise="diffusers.models.autoencoders.vae.randn_tensor",
        )
    ]


if __name__ == "__main__":
    for epoch, loss in enumerate(train(), 1):
        print(f"epoch {epoch}: loss {loss:.3f} per sample")
