"""Audio: latents over time, and spectra with a scale for each bin."""

import torch
from torch.nn import functional as F

from .row import Row, leaf, spread


def waveform_kl(mean, raw):
    """Autoencoders of waveforms: softplus and a floor, summed over channels, averaged over time; twice the KL."""
    std = F.softplus(raw) + 1e-4
    var = std * std
    return (mean * mean + var - torch.log(var) - 1).sum(1).mean()


def spectrum_nll(mean, log_sigma, x, mu, logvar):
    """Spectra with a log sigma for each bin."""
    recon = (0.5 * ((x - mean) / log_sigma.exp()) ** 2 + log_sigma).sum((1, 2))
    kl = -0.5 * torch.sum(1 + logvar - mu**2 - logvar.exp(), dim=1)
    return torch.mean(recon + kl)


def waveforms(g, B=8, L=128, T=64):
    return {"mean": leaf(g, B, L, T), "raw": leaf(g, B, L, T)}


def spectra(g, B=16, D=80, T=200, L=64):
    inputs = {"mean": leaf(g, B, D, T), "log_sigma": spread(g, B, D, T), "x": torch.randn((B, D, T), generator=g)}
    return inputs | {"mu": leaf(g, B, L), "logvar": spread(g, B, L)}


ROWS = (
    Row(
        waveform_kl,
        waveforms,
        '2 * VF.gaussian_kl(mean, scale=F.softplus(raw) + 1e-4, reduction="mean") / mean.size(-1)',
    ),
    Row(
        spectrum_nll,
        spectra,
        "criterion((mean, 2 * log_sigma), x, mu, logvar)",
        "ELBOLoss(Gaussian(constant=False))",
    ),
)
