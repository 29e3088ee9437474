"""Small encoders, decoders, priors and VAEs that tests share."""

import torch
from torch import nn

import vaefast
from vaefast.priors import VampPrior


class Known(nn.Module):
    """An encoder that returns the same (mu, logvar) for every x."""

    def __init__(self, mu, logvar):
        super().__init__()
        self.mu, self.logvar = nn.Parameter(torch.tensor(mu)), nn.Parameter(torch.tensor(logvar))

    def forward(self, x):
        return self.mu.expand(len(x), -1), self.logvar.expand(len(x), -1)


def linear(weight, bias):
    layer = nn.Linear(len(weight[0]), len(weight))
    layer.weight.data, layer.bias.data = torch.tensor(weight), torch.tensor(bias)
    return layer


class GaussianPrior(nn.Module):
    """N(mu, diag exp(logvar)), learned."""

    def __init__(self, mu, logvar):
        super().__init__()
        self.mu, self.logvar = nn.Parameter(torch.tensor(mu)), nn.Parameter(torch.tensor(logvar))

    def log_prob(self, z):
        return vaefast.functional.gaussian_log_prob(z, self.mu.expand(z.shape), self.logvar.expand(z.shape))

    def sample(self, n, *, generator=None):
        return vaefast.functional.reparameterize(
            self.mu.expand(n, -1), self.logvar.expand(n, -1), generator=generator
        ).detach()


def vamp_vae(seed=0):
    torch.manual_seed(seed)
    base = vaefast.mlp_vae((16,), latent_dim=2, hidden_dims=(12,))
    return vaefast.VAE(base.encoder, base.decoder, prior=VampPrior(base.encoder, torch.rand(5, 16)))


class Expand(nn.Module):
    """After a decoder of (mean, log_scale): both of one shape."""

    def forward(self, parameters):
        mean, log_scale = parameters
        return mean, log_scale.expand(mean.shape)
