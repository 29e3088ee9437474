"""The two things that maximizing the ELBO does: `python docs/two_things.py` draws them in docs/_generated/two_things.png.

A linear VAE on scikit-learn's digits. Its log p(x) and its gap are known in closed form at every step, so both curves are
exact, and so is the most that log p(x) can become: the likelihood of probabilistic PCA (Lucas et al. 2019).
"""

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

import vaefast
from vaefast import data, likelihoods

LATENT = 8
OUT = Path(__file__).parent / "_generated" / "two_things.png"  # where the build of the guide draws it, too


def best(x: Tensor) -> float:
    """The mean log p(x) of probabilistic PCA's maximum likelihood (Tipping and Bishop 1999), in nats."""
    spectrum = torch.linalg.eigvalsh(torch.cov(x.double().t(), correction=0)).flip(0)
    kept, noise = spectrum[:LATENT], spectrum[LATENT:].mean()
    size = x.shape[1]
    return float(-0.5 * (size * math.log(2 * math.pi) + kept.log().sum() + (size - LATENT) * noise.log() + size))


@torch.no_grad()
def exact(vae: vaefast.VAE, x: Tensor) -> tuple[float, float]:
    """(mean log p(x), mean KL(q(z|x) || p(z|x))) of p(x|z) = N(Wz + b, sigma^2 I), in nats."""
    layer, x = vae.decoder[0], x.double()
    w, b, variance = layer.weight.double(), layer.bias.double(), vae.likelihood.logvar.double().exp()
    p_x = torch.distributions.MultivariateNormal(b, w @ w.t() + variance * torch.eye(len(w), dtype=w.dtype))
    precision = w.t() @ w / variance + torch.eye(LATENT, dtype=w.dtype)
    mean = torch.linalg.solve(precision, w.t() @ (x - b).t() / variance).t()
    posterior = torch.distributions.MultivariateNormal(mean, precision_matrix=precision)
    mu, logvar = vae.encode(x.float())
    q = torch.distributions.MultivariateNormal(mu.double(), torch.diag_embed(logvar.double().exp()))
    return float(p_x.log_prob(x).mean()), float(torch.distributions.kl_divergence(q, posterior).mean())


def train(epochs: int = 200, seed: int = 0) -> tuple[list[tuple[float, float]], float]:
    """(log p(x), gap) before the first epoch and after each, and the most that log p(x) can be."""
    torch.manual_seed(seed)
    x = data.load("digits").train.flatten(1)
    vae = vaefast.mlp_vae((64,), LATENT, hidden_dims=(), likelihood=likelihoods.Gaussian(learn_scale=True))
    optimizer = torch.optim.Adam(vae.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    curve = [exact(vae, x)]
    for _ in range(epochs):
        for batch in x[torch.randperm(len(x))].split(128):
            optimizer.zero_grad()
            vae.loss(batch).backward()
            optimizer.step()
        schedule.step()
        curve.append(exact(vae, x))
    return curve, best(x)


def draw(curve: list[tuple[float, float]], most: float, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    epochs, log_px, gap = range(len(curve)), [a for a, _ in curve], [b for _, b in curve]
    elbo = [a - b for a, b in curve]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    left.axhline(most, color="gray", linestyle=":", label="the most that log p(x) can be")
    left.plot(epochs, log_px, label="log p(x), exact")
    left.plot(epochs, elbo, linestyle="--", label="ELBO, exact")
    left.set(xlabel="epoch", ylabel="nats per sample", title="It raises log p(x)")
    left.legend(loc="lower right")
    right.semilogy(epochs, gap, color="C3")
    right.set(xlabel="epoch", ylabel="KL(q(z|x) || p(z|x)), nats", title="It shrinks the gap, log p(x) - ELBO")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # matrices this small are slower on more
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    curve, most = train(arguments.epochs)
    draw(curve, most, arguments.out)
    for epoch in sorted({0, 1, 10, 50, arguments.epochs} & set(range(len(curve)))):
        log_px, gap = curve[epoch]
        print(f"epoch {epoch:3}: log p(x) {log_px:8.3f}, ELBO {log_px - gap:8.3f}, gap {gap:7.3f} nats")
    print(f"the most that log p(x) can be: {most:.3f}")


if __name__ == "__main__":
    main()
