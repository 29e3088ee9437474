"""The VAE of pytorch/examples, written again, with vaefast's loss. `python -m examples.pytorch_examples` trains it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import vaefast
from examples.compare import Pair, Side, digits, side


def before(recon_x: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    cross_entropy = F.binary_cross_entropy(recon_x, x.flatten(1), reduction="sum")
    kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return cross_entropy + kl


after = vaefast.ELBOLoss("bernoulli_probs", reduction="sum")


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(784, 400), nn.ReLU())
        self.mu, self.logvar = nn.Linear(400, 20), nn.Linear(400, 20)
        self.decoder = nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784), nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.hidden(x)
        mu, logvar = self.mu(h), self.logvar(h)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        return self.decoder(z), mu, logvar


def train(criterion: Callable[..., Tensor] = after, epochs: int = 3) -> list[float]:
    """The mean loss of a sample in each epoch."""
    x = digits(28)  # images (B, 1, 28, 28), as its data loader gives them
    model, history = VAE(), []
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(epochs):
        total = 0.0
        for batch in x[torch.randperm(len(x))].split(128):
            optimizer.zero_grad()
            recon_x, mu, logvar = model(batch)
            loss = criterion(recon_x, batch, mu, logvar)
            loss.backward()
            optimizer.step()
            total += loss.item()
        history.append(total / len(x))
    return history


def pairs() -> list[Pair]:
    def make(criterion: Callable[..., Tensor]) -> Side:
        model = VAE()

        def loss(x: Tensor) -> Tensor:
            recon_x, mu, logvar = model(x)
            return criterion(recon_x, x, mu, logvar)

        return side(model, loss)

    change = '`ELBOLoss("bernoulli_probs", reduction="sum")` for the loss function'
    return [Pair("pytorch/examples VAE", "torch", change, make(before), make(after), digits(28), 128)]


if __name__ == "__main__":
    for epoch, loss in enumerate(train(), 1):
        print(f"epoch {epoch}: loss {loss:.2f} nats per sample")
