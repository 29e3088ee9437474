"""Text, sequences and world models: labels, learned priors, free nats and balanced gradients."""

import torch
from torch.nn import functional as F

from .row import Row, binary, image, leaf, scale, spread


def text(logits, x, mu, logvar, kl_weight):
    """Sentence VAEs: logits (B, T, C), 0 for padding, and an annealed KL."""
    nll = F.cross_entropy(logits.view(-1, logits.size(-1)), x.view(-1), ignore_index=0, reduction="sum")
    kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return (nll + kl_weight * kl) / x.size(0)


def text_channels_first(logits, x, mu, logvar, kl_weight):
    """Convolutional decoders: logits (B, C, T), as F.cross_entropy takes them."""
    nll = F.cross_entropy(logits, x, reduction="none").sum(1)
    kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=1)
    return (nll + kl_weight * kl).mean()


def vrnn(dec, x, enc_mean, enc_std, prior_mean, prior_std):
    """Variational recurrent networks: softplus scales, a learned prior at each step; everything is summed."""
    nll = F.binary_cross_entropy_with_logits(dec, x, reduction="sum")
    kld = 2 * torch.log(prior_std) - 2 * torch.log(enc_std) - 1
    kld = kld + (enc_std.pow(2) + (enc_mean - prior_mean).pow(2)) / prior_std.pow(2)
    return nll + 0.5 * torch.sum(kld)


def srnn(mean, x, mu, raw, prior_mu, prior_raw):
    """Stochastic recurrent networks: the softplus is the loss's, the prior learned, the observation Gaussian."""
    std, prior_std = F.softplus(raw), F.softplus(prior_raw)
    kl = torch.log(prior_std / std) + (std**2 + (mu - prior_mu) ** 2) / (2 * prior_std**2) - 0.5
    return (0.5 * ((x - mean) ** 2).sum((1, 2)) + kl.sum((1, 2))).mean()


def padded_steps(logits, x, mu, logvar, prior_mu, prior_logvar, steps):
    """Deep Markov models: sequences of unequal length, averaged over the steps that are there."""
    nll = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
    ratio = (logvar.exp() + (mu - prior_mu) ** 2) / prior_logvar.exp()
    kl = 0.5 * (prior_logvar - logvar + ratio - 1).sum(-1)
    return ((nll + kl) * steps).sum() / steps.sum()


def planet(recon_x, x, mean, std, prior_mean, prior_std):
    """PlaNet in PyTorch: each state's KL counts as at least 3 nats."""
    observation = F.mse_loss(recon_x, x, reduction="none").sum((2, 3, 4)).mean((0, 1))
    q, p = torch.distributions.Normal(mean, std), torch.distributions.Normal(prior_mean, prior_std)
    kl = torch.distributions.kl_divergence(q, p).sum(2)
    return observation + kl.clamp(min=3.0).mean((0, 1))


def dreamer(recon_x, x, mean, std, prior_mean, prior_std):
    """Dreamer: the mean KL counts as at least 3 nats."""
    log_prob = -0.5 * ((x - recon_x) ** 2).sum((2, 3, 4))
    q, p = torch.distributions.Normal(mean, std), torch.distributions.Normal(prior_mean, prior_std)
    kl = torch.distributions.kl_divergence(q, p).sum(-1).mean()
    return torch.clamp(kl, min=3.0) - log_prob.mean()


def dreamer_v2(mean, std, prior_mean, prior_std):
    """Dreamer's second version: the prior moves to the posterior faster than the reverse."""

    def kl(mean, std, prior_mean, prior_std):
        ratio = (std / prior_std) ** 2
        each = 0.5 * (ratio + ((mean - prior_mean) / prior_std) ** 2 - 1 - ratio.log())
        return each.sum(-1)

    prior_side = kl(mean.detach(), std.detach(), prior_mean, prior_std).mean().clamp(min=1.0)
    posterior_side = kl(mean, std, prior_mean.detach(), prior_std.detach()).mean().clamp(min=1.0)
    return 0.8 * prior_side + 0.2 * posterior_side


def dreamer_v3(mean, std, prior_mean, prior_std):
    """Its third: two weights, and a nat that is free in each state."""

    def kl(mean, std, prior_mean, prior_std):
        q, p = torch.distributions.Normal(mean, std), torch.distributions.Normal(prior_mean, prior_std)
        return torch.distributions.kl_divergence(q, p).sum(-1)

    dynamics = kl(mean.detach(), std.detach(), prior_mean, prior_std).clamp(min=1.0)
    representation = kl(mean, std, prior_mean.detach(), prior_std.detach()).clamp(min=1.0)
    return (0.5 * dynamics + 0.1 * representation).mean()


def sentences(g, B=32, T=60, C=10_000, L=32):
    x = torch.randint(1, C, (B, T), generator=g)
    x[:, T - T // 4 :] = 0
    return {"logits": leaf(g, B, T, C), "x": x, "mu": leaf(g, B, L), "logvar": spread(g, B, L), "kl_weight": 0.3}


def sentences_channels_first(g, B=32, T=60, C=10_000, L=32):
    return sentences(g, B, T, C, L) | {"logits": leaf(g, B, C, T)}


def digits_by_rows(g, B=128, T=28, D=28, L=16):
    inputs = {
        "dec": leaf(g, B, T, D),
        "x": binary(g, B, T, D),
        "enc_mean": leaf(g, B, T, L),
        "enc_std": scale(g, B, T, L),
    }
    return inputs | {"prior_mean": leaf(g, B, T, L), "prior_std": scale(g, B, T, L)}


def speech(g, B=16, T=40, D=200, L=256):
    inputs = {"mean": leaf(g, B, T, D), "x": torch.randn((B, T, D), generator=g)}
    return inputs | {name: leaf(g, B, T, L) for name in ("mu", "raw", "prior_mu", "prior_raw")}


def chorales(g, B=20, T=129, D=88, L=100):
    inputs = {"logits": leaf(g, B, T, D), "x": binary(g, B, T, D), "mu": leaf(g, B, T, L), "logvar": spread(g, B, T, L)}
    lengths = torch.randint(T // 2, T + 1, (B, 1), generator=g)
    steps = (torch.arange(T) < lengths).float()
    return inputs | {"prior_mu": leaf(g, B, T, L), "prior_logvar": spread(g, B, T, L), "steps": steps}


def states(g, B=50, T=50, L=30):
    inputs = {"mean": leaf(g, B, T, L), "std": scale(g, B, T, L)}
    return inputs | {"prior_mean": leaf(g, B, T, L), "prior_std": scale(g, B, T, L)}


def videos(g, B=50, T=50, side=64, L=30):
    shape = B, T, 3, side, side
    return {"recon_x": leaf(g, *shape), "x": image(g, *shape), **states(g, B, T, L)}


SHORT = {"C": 50}
SIDES = "scale=std, prior_mu=prior_mean, prior_scale=prior_std"
BALANCED = f"VF.balanced_kl(mean, {SIDES}, {{}}, batch_dims=2)"

ROWS = (
    Row(
        text,
        sentences,
        "criterion(logits, x, mu, logvar, beta=kl_weight)",
        "ELBOLoss(Categorical(class_dim=-1, ignore_index=0))",
        SHORT,
    ),
    Row(
        text_channels_first,
        sentences_channels_first,
        "criterion(logits, x, mu, logvar, beta=kl_weight)",
        "ELBOLoss(Categorical())",
        SHORT,
    ),
    Row(
        vrnn,
        digits_by_rows,
        "criterion(dec, x, enc_mean, scale=enc_std, prior_mu=prior_mean, prior_scale=prior_std)",
        'ELBOLoss(reduction="sum")',
    ),
    Row(
        srnn,
        speech,
        "criterion(mean, x, mu, scale=F.softplus(raw), prior_mu=prior_mu, prior_scale=F.softplus(prior_raw))",
        "ELBOLoss(Gaussian(constant=False))",
    ),
    Row(
        padded_steps,
        chorales,
        "criterion(logits, x, mu, logvar, prior_mu=prior_mu, prior_logvar=prior_logvar, weight=steps) / steps.sum()",
        'ELBOLoss(reduction="sum", batch_dims=2)',
    ),
    Row(
        planet,
        videos,
        f"criterion(recon_x, x, mean, {SIDES})",
        'ELBOLoss("mse", batch_dims=2, free_bits=3.0, free_bits_per="sample")',
        {"B": 5, "T": 6, "side": 16},
    ),
    Row(
        dreamer,
        videos,
        f"criterion(recon_x, x, mean, {SIDES})",
        'ELBOLoss(Gaussian(constant=False), batch_dims=2, free_bits=3.0, free_bits_per="total")',
        {"B": 5, "T": 6, "side": 16},
    ),
    Row(dreamer_v2, states, f"{BALANCED.format('balance=0.8')}.mean().clamp(min=1.0)"),
    Row(dreamer_v3, states, f"{BALANCED.format('posterior_weight=0.1, prior_weight=0.5')}.clamp(min=0.6).mean()"),
)
