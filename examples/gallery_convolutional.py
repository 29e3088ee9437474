"""A convolutional VAE of grey images on their own grid of levels: a discretized logistic, whose bound is in bits per pixel.
`python -m examples.gallery_convolutional` prints them, held out."""

import math

import torch
from torch import Tensor, nn

import vaefast
from vaefast import data, likelihoods

LATENT, LEVELS = 16, 17  # scikit-learn's digits have the levels 0, 1/16, ..., 1


class Decoder(nn.Module):
    """z to (mean, log_scale) of every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Linear(LATENT, 32 * 2 * 2), nn.Unflatten(1, (32, 2, 2)), nn.ReLU()),
            *(nn.ConvTranspose2d(32, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 2, 4, 2, 1)),
        )

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_scale = self.layers(z).chunk(2, 1)
        return torch.sigmoid(mean), log_scale - 2  # start with scales that fit pixels in [0, 1]


def build() -> vaefast.VAE:
    encoder = nn.Sequential(
        *(nn.Conv2d(1, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 4, 2, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * 2 * 2, 2 * LATENT)),
    )
    return vaefast.VAE(encoder, Decoder(), likelihood=likelihoods.DiscretizedLogistic(levels=LEVELS))


def pixels_alone(train: Tensor, test: Tensor) -> float:
    """Held-out bits per pixel of a model without z, each pixel by the histogram of its levels: what a VAE has to beat."""
    levels = [(x.flatten(1) * (LEVELS - 1)).round().long() for x in (train, test)]
    counts = torch.stack([(levels[0] == level).sum(0) for level in range(LEVELS)]) + 1
    log_p = (counts / counts.sum(0)).log2()  # (levels, pixels)
    return -log_p.gather(0, levels[1]).mean().item()


def main(epochs: int = 60, seed: int = 0) -> list[float]:
    """Held-out bits per pixel, an upper bound, before the first epoch and after each."""
    torch.manual_seed(seed)
    images = data.load("digits")
    train, test = images.train, images.test  # (N, 1, 8, 8)
    vae = build()
    optimizer = torch.optim.Adam(vae.parameters(), 3e-3)

    @torch.no_grad()
    def bits() -> float:
        return -vae.elbo(test).elbo.mean().item() / (64 * math.log(2))

    history = [bits()]
    for epoch in range(1, epochs + 1):
        for x in train[torch.randperm(len(train))].split(64):
            optimizer.zero_grad()
            vae.loss(x).backward()
            optimizer.step()
        history.append(bits())
        if epoch in (1, 10) or epoch == epochs:
            print(f"epoch {epoch:3}: at most {history[-1]:.3f} bits per pixel")
    print(f"without z {pixels_alone(train, test):.3f}, without a model {math.log2(LEVELS):.3f}")
    return history


if __name__ == "__main__":
    main()
