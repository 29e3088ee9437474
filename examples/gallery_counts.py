"""Counts with more spread than a Poisson has, as of genes in cells or purchases: Poisson against negative binomial, on
synthetic data whose distribution is known. `python -m examples.gallery_counts` prints both bounds and the dispersion found.

A negative binomial of mean m and dispersion r has variance m + m^2 / r; a Poisson is its limit for large r.
"""

import math

import torch
from torch import Tensor, nn

import vaefast
from vaefast import likelihoods

FEATURES, LATENT, DISPERSION = 40, 3, 2.0


def counts(samples: int, seed: int = 0) -> Tensor:
    """(N, FEATURES) draws of a negative binomial whose log-mean is linear in LATENT normal factors."""
    generator = torch.Generator().manual_seed(seed)
    loadings = 0.5 * torch.randn(LATENT, FEATURES, generator=generator)
    log_mean = torch.randn(samples, LATENT, generator=generator) @ loadings + math.log(5)
    log_r = torch.full_like(log_mean, math.log(DISPERSION))
    return likelihoods.NegativeBinomial().sample((log_mean, log_r), generator=generator)


class Encoder(nn.Sequential):
    """Counts are read as log(1 + x): their logarithms are what is linear in z."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(FEATURES, 64), nn.ReLU(), nn.Linear(64, 2 * LATENT))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.log1p())


class LogMean(nn.Linear):
    """z to log_rate, or with dispersion to (log_mean, log_theta), one dispersion for all."""

    def __init__(self, dispersion: bool) -> None:
        super().__init__(LATENT, FEATURES)
        self.log_theta = nn.Parameter(torch.zeros(1)) if dispersion else None

    def forward(self, z: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        log_mean = super().forward(z)
        return log_mean if self.log_theta is None else (log_mean, self.log_theta)


def fit(likelihood: str, train: Tensor, test: Tensor, epochs: int) -> tuple[vaefast.VAE, list[float]]:
    vae = vaefast.VAE(Encoder(), LogMean(likelihood == "negative_binomial"), likelihood=likelihood)
    optimizer = torch.optim.Adam(vae.parameters(), 1e-2)
    history = []
    for epoch in range(epochs + 1):
        for x in train[torch.randperm(len(train))].split(64) if epoch else ():
            optimizer.zero_grad()
            vae.loss(x).backward()
            optimizer.step()
        with torch.no_grad():
            history.append(vae.elbo(test).elbo.mean().item())
    return vae, history


def main(epochs: int = 60, seed: int = 0) -> dict[str, list[float]]:
    """The held-out ELBO of both, in nats per sample, before the first epoch and after each; and the dispersion found."""
    torch.manual_seed(seed)
    train, test = counts(1500).split(1200)
    result = {}
    for likelihood in ("poisson", "negative_binomial"):
        vae, result[likelihood] = fit(likelihood, train, test, epochs)
        print(f"{likelihood}: held-out ELBO {result[likelihood][-1]:.2f} nats")
    result["dispersion"] = [vae.decoder.log_theta.exp().item()]
    print(f"dispersion {result['dispersion'][0]:.2f}; the data's is {DISPERSION}")
    return result


if __name__ == "__main__":
    main()
