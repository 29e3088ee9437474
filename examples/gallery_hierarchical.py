"""Two stochastic layers: z2 has a standard normal prior, z1 one that a network makes of z2.
`python -m examples.gallery_hierarchical` prints the held-out bound and what each layer's KL is.

    log p(x) >= E_q[log p(x|z1)] - KL(q(z1|x) || p(z1|z2)) - KL(q(z2|x) || p(z2))
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from examples.gallery_mlp import digits
from vaefast import functional

TOP, BELOW, HIDDEN = 4, 12, 128


class Terms(NamedTuple):
    log_likelihood: Tensor  # (B,)
    kl: Tensor  # (B,), of both layers
    kl_top: Tensor  # (B, TOP), the part that is z2's, each dimension


class Hierarchy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(64, HIDDEN), nn.ReLU())
        self.below = nn.Linear(HIDDEN, 2 * BELOW)
        self.top = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * TOP))
        self.prior = nn.Sequential(nn.Linear(TOP, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * BELOW))
        self.decoder = nn.Sequential(nn.Linear(BELOW, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 64))

    def forward(self, x: Tensor) -> Terms:
        h = self.features(x)
        z1_mu, z1_logvar = self.below(h).chunk(2, 1)
        z2_mu, z2_logvar = self.top(h).chunk(2, 1)
        prior_mu, prior_logvar = self.prior(functional.reparameterize(z2_mu, z2_logvar)).chunk(2, 1)
        logits = self.decoder(functional.reparameterize(z1_mu, z1_logvar))
        kl = functional.hierarchical_kl([(z2_mu, z2_logvar), (z1_mu, z1_logvar, prior_mu, prior_logvar)])
        fit = functional.bernoulli_log_likelihood(logits, x)
        return Terms(fit, kl, functional.gaussian_kl(z2_mu, z2_logvar, reduction="elementwise"))


def main(epochs: int = 60, seed: int = 0, free_bits: float = 0.5) -> list[dict[str, float]]:
    """The held-out ELBO, the KL, and z2's part of it, in nats per sample, before the first epoch and after each.

    Below `free_bits` nats each dimension of z2 costs nothing; with 0 it is hardly used, as in Sonderby et al. 2016.
    """
    torch.manual_seed(seed)
    train, test = digits()
    model = Hierarchy()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)

    @torch.no_grad()
    def held_out() -> dict[str, float]:
        fit, kl, kl_top = model(test)
        return {"elbo": (fit - kl).mean().item(), "kl": kl.mean().item(), "kl_top": kl_top.sum(1).mean().item()}

    history = [held_out()]
    for epoch in range(1, epochs + 1):
        for x in train[torch.randperm(len(train))].split(64):
            optimizer.zero_grad()
            fit, kl, kl_top = model(x)
            discount = functional.free_bits_kl(kl_top, free_bits) - kl_top.sum(1).mean()
            ((kl - fit).mean() + discount).backward()
            optimizer.step()
        history.append(held_out())
        if epoch in (1, 10) or epoch == epochs:
            print("epoch {:3}: ELBO {elbo:.2f}, KL {kl:.2f}, of it z2 {kl_top:.2f} nats".format(epoch, **history[-1]))
    return history


if __name__ == "__main__":
    main()
