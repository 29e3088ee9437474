"""Color images by a hierarchical VAE with a mixture of logistics, and what it is worth that a pixel's colors depend on each
other. `python -m examples.gallery_images` prints bits per dimension, held out."""

import math

import torch
from torch import Tensor, nn

from vaefast import data, functional, likelihoods

COMPONENTS, TOP, BELOW, WIDTH = 5, 8, 4, 32


def colored(grey: Tensor, seed: int) -> Tensor:
    """Each digit in a color of its own, (N, 3, 8, 8) on a grid of 256 levels."""
    color = 0.2 + 0.8 * torch.rand(len(grey), 3, 1, 1, generator=torch.Generator().manual_seed(seed))
    return (grey * color * 255).round() / 255


class Hierarchy(nn.Module):
    def __init__(self, channels: str) -> None:
        super().__init__()
        self.likelihood = likelihoods.DiscretizedLogisticMixture(channels=channels)
        self.counts = (1, 3, 3, 3) if channels == "coupled" else (3, 3, 3)  # parameters of a component, for each pixel
        self.features = nn.Sequential(
            nn.Conv2d(3, WIDTH, 4, 2, 1), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, 1, 1), nn.ReLU()
        )
        self.top = nn.Sequential(nn.Flatten(), nn.Linear(16 * WIDTH, 2 * TOP))
        self.down = nn.Sequential(nn.Linear(TOP, 16 * WIDTH), nn.ReLU(), nn.Unflatten(1, (WIDTH, 4, 4)))
        self.prior = nn.Conv2d(WIDTH, 2 * BELOW, 3, 1, 1)
        self.below = nn.Conv2d(2 * WIDTH, 2 * BELOW, 3, 1, 1)
        self.decoder = nn.Sequential(
            *(nn.ConvTranspose2d(WIDTH + BELOW, WIDTH, 4, 2, 1), nn.ReLU()),
            *(nn.Conv2d(WIDTH, WIDTH, 3, 1, 1), nn.ReLU(), nn.Conv2d(WIDTH, COMPONENTS * sum(self.counts), 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The ELBO of each image."""
        h = self.features(x)
        top = self.top(h).chunk(2, 1)
        d = self.down(functional.reparameterize(*top))
        below = self.below(torch.cat([h, d], 1)).chunk(2, 1)
        output = self.decoder(torch.cat([functional.reparameterize(*below), d], 1))
        kl = functional.hierarchical_kl([top, (*below, *self.prior(d).chunk(2, 1))])
        return self.likelihood.log_prob(self.parameters_of(output), x) - kl

    def parameters_of(self, output: Tensor) -> tuple[Tensor, ...]:
        parts = output.split([COMPONENTS * count for count in self.counts], 1)
        logits, mean, log_scale, *coef = (t.unflatten(1, (COMPONENTS, -1)) for t in parts)
        return logits.squeeze(2), mean + 0.5, log_scale - 2, *coef  # start near the middle of [0, 1]


def main(
    epochs: int = 30, seed: int = 0, channels: tuple[str, ...] = ("independent", "coupled")
) -> dict[str, list[float]]:
    """Held-out bits per dimension, an upper bound, before the first epoch and after each."""
    images = data.load("digits")
    train, test = colored(images.train, 1), colored(images.test, 2)
    history: dict[str, list[float]] = {}
    for each in channels:
        torch.manual_seed(seed)
        model = Hierarchy(each)
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        history[each] = []
        for epoch in range(epochs + 1):
            for x in train[torch.randperm(len(train))].split(64) if epoch else ():
                optimizer.zero_grad()
                (-model(x)).mean().backward()
                optimizer.step()
            with torch.no_grad():
                history[each].append(-model(test).mean().item() / (test[0].numel() * math.log(2)))
            if epoch in (1, 10, epochs):
                print(f"{each}, epoch {epoch:2}: at most {history[each][-1]:.3f} bits per dimension")
    return history


if __name__ == "__main__":
    main()
