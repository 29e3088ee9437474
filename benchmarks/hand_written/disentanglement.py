"""Disentanglement: the weight, the capacity and the parts of the KL."""

import math

import torch
from torch.nn import functional as F

from .row import Row, binary, leaf, spread


def beta_vae(logits, x, mu, logvar):
    """Higgins et al. 2017."""
    recon = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / x.size(0)
    kld = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp())
    return recon + 4.0 * kld.sum(1).mean(0)


def beta_per_sample(logits, x, mu, logvar, betas):
    """Models that are conditioned on beta, and draw one for each sample."""
    recon = F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=1)
    return (recon + betas * kld).mean()


def capacity(logits, x, mu, logvar, C, gamma):
    """Burgess et al. 2018: C grows during training."""
    recon = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / x.size(0)
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=1).mean()
    return recon + gamma * (kld - C).abs()


def beta_tc(logits, x, z, mu, logvar, N, beta):
    """Chen et al. 2018, with the stratified weights of their appendix."""
    B = z.size(0)

    def log_density(z, mu, logvar):
        return -0.5 * (math.log(2 * math.pi) + logvar + (z - mu) ** 2 / logvar.exp())

    weights = torch.full((B, B), 1 / (B - 1), dtype=z.dtype, device=z.device)
    weights.fill_diagonal_(1 / N)
    rows = torch.arange(B, device=z.device)
    weights[rows, (rows + 1) % B] = (N - B + 1) / (N * (B - 1))
    pairs = log_density(z[:, None], mu[None], logvar[None])  # (B, B, L)
    log_qz = torch.logsumexp(weights.log() + pairs.sum(2), dim=1)
    log_prod_qz = torch.logsumexp(weights.log()[..., None] + pairs, dim=1).sum(1)
    log_qzx = log_density(z, mu, logvar).sum(1)
    log_pz = log_density(z, torch.zeros_like(z), torch.zeros_like(z)).sum(1)
    recon = F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)
    mi, tc, dw_kl = log_qzx - log_qz, log_qz - log_prod_qz, log_prod_qz - log_pz
    return (recon + mi + beta * tc + dw_kl).mean()


def dip_vae_1(logits, x, mu, logvar):
    """Kumar et al. 2018, DIP-VAE I: the covariance of the means."""
    recon = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / x.size(0)
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=1).mean()
    centered = mu - mu.mean(dim=0, keepdim=True)
    cov = centered.t() @ centered / mu.size(0)
    diag = torch.diagonal(cov)
    off = cov - torch.diag(diag)
    return recon + kld + 10.0 * (off**2).sum() + 100.0 * ((diag - 1) ** 2).sum()


def dip_vae_2(logits, x, mu, logvar):
    """DIP-VAE II: the covariance of the samples."""
    recon = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / x.size(0)
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=1).mean()
    centered = mu - mu.mean(dim=0, keepdim=True)
    cov = centered.t() @ centered / mu.size(0) + torch.diag(logvar.exp().mean(dim=0))
    diag = torch.diagonal(cov)
    off = cov - torch.diag(diag)
    return recon + kld + 10.0 * (off**2).sum() + 10.0 * ((diag - 1) ** 2).sum()


def free_bits(logits, x, mu, logvar):
    """Kingma et al. 2016: each dimension's mean KL counts as at least a quarter of a nat."""
    recon = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / x.size(0)
    kld = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp())
    return recon + torch.clamp(kld.mean(dim=0), min=0.25).sum()


def sprites(g, B=64, side=64, L=10):
    return {
        "logits": leaf(g, B, 1, side, side),
        "x": binary(g, B, 1, side, side),
        "mu": leaf(g, B, L),
        "logvar": spread(g, B, L),
    }


def sprites_betas(g, B=64, side=64, L=10):
    return sprites(g, B, side, L) | {"betas": 10 * torch.rand(B, generator=g)}


def sprites_capacity(g, B=64, side=64, L=10):
    return sprites(g, B, side, L) | {"C": 5.0, "gamma": 1000.0}


def sprites_sampled(g, B=64, side=64, L=10):
    inputs = sprites(g, B, side, L)
    noise = torch.randn((B, L), generator=g)
    z = (inputs["mu"] + torch.exp(0.5 * inputs["logvar"]) * noise).detach().requires_grad_()
    return inputs | {"z": z, "N": 737280, "beta": 6.0}


CALL = "criterion(logits, x, mu, logvar{})"

ROWS = (
    Row(beta_vae, sprites, CALL.format(""), "ELBOLoss(beta=4.0)"),
    Row(beta_per_sample, sprites_betas, CALL.format(", beta=betas"), "ELBOLoss()"),
    Row(
        capacity,
        sprites_capacity,
        "VF.capacity_kl(VF.gaussian_kl(mu, logvar), C, gamma) - VF.bernoulli_log_likelihood(logits, x).mean()",
    ),
    Row(
        beta_tc,
        sprites_sampled,
        f"{CALL.format(', z=z')} + (beta - 1) * VF.kl_decomposition(z, mu, logvar, N).total_correlation.mean()",
        'ELBOLoss(estimator="mc")',
    ),
    Row(
        dip_vae_1,
        sprites,
        f"{CALL.format('')} + VF.dip_penalty(mu, off_diagonal=10.0, diagonal=100.0)",
        "ELBOLoss()",
    ),
    Row(
        dip_vae_2,
        sprites,
        f"{CALL.format('')} + VF.dip_penalty(mu, logvar, off_diagonal=10.0, diagonal=10.0)",
        "ELBOLoss()",
    ),
    Row(free_bits, sprites, CALL.format(""), "ELBOLoss(free_bits=0.25)"),
)
