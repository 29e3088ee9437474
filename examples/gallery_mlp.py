"""The plainest VAE: fully connected networks, black and white digits, a Bernoulli likelihood, and a KL that warms up.
`python -m examples.gallery_mlp` prints the held-out ELBO as it grows, and log p(x) at the end."""

import torch
from torch import Tensor, nn

import vaefast
from vaefast import data, schedules

LATENT, HIDDEN = 8, 128


def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits, black and white, (N, 64): to train on, and held out."""
    images = data.load("digits")
    return (images.train > 0.5).float().flatten(1), (images.test > 0.5).float().flatten(1)


def pixels_alone(train: Tensor, test: Tensor) -> float:
    """The held-out log-likelihood of a model without z, each pixel by its frequency: what a VAE has to beat."""
    frequency = (train.sum(0) + 1) / (len(train) + 2)
    return vaefast.functional.bernoulli_probs_log_likelihood(frequency.expand_as(test), test).mean().item()


def main(epochs: int = 60, seed: int = 0) -> list[float]:
    """The held-out ELBO, in nats per sample, before the first epoch and after each."""
    torch.manual_seed(seed)
    train, test = digits()
    encoder = nn.Sequential(nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENT))
    decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 64))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 3e-3)
    criterion = vaefast.ELBOLoss("bernoulli")
    vae = vaefast.VAE(encoder, decoder)  # the same networks, to evaluate and to sample

    @torch.no_grad()
    def bound() -> float:
        return vae.elbo(test).elbo.mean().item()

    history, step = [bound()], 0
    for epoch in range(1, epochs + 1):
        for x in train[torch.randperm(len(train))].split(64):
            mu, logvar = encoder(x).chunk(2, 1)
            recon_x = decoder(vaefast.functional.reparameterize(mu, logvar))
            loss = criterion(recon_x, x, mu, logvar, beta=schedules.linear(step, warmup=200))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
        history.append(bound())
        if epoch in (1, 10) or epoch == epochs:
            print(f"epoch {epoch:3}: held-out ELBO {history[-1]:.2f} nats")
    log_px = vae.log_likelihood(test, num_samples=200).mean().item()
    print(f"log p(x) {log_px:.2f} nats; without z {pixels_alone(train, test):.2f}")
    return history


if __name__ == "__main__":
    main()
