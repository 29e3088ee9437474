"""Images: cross entropy, squared and absolute errors, and scales that are learned."""

import math

import torch
from torch.nn import functional as F

from .row import Row, binary, image, leaf, probabilities, scale, spread


def bce_sum(recon_x, x, mu, logvar):
    """pytorch/examples and its many copies: probabilities, flat beside (B, 1, 28, 28); everything is summed."""
    bce = F.binary_cross_entropy(recon_x, x.view(-1, 784), reduction="sum")
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return bce + kld


def bce_mean(recon_x, x, mu, logvar):
    """Libraries: probabilities; sums over pixels, then the mean over the batch."""
    recon = F.binary_cross_entropy(recon_x, x, reduction="none").sum(dim=-1)
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=-1)
    return (recon + kld).mean()


def bce_logits(recon_x, x, mu, logvar):
    """Scripts that leave the sigmoid out of the decoder."""
    recon = F.binary_cross_entropy_with_logits(recon_x, x, reduction="sum") / x.size(0)
    kld = torch.mean(-0.5 * torch.sum(1 + logvar - mu**2 - logvar.exp(), dim=1))
    return recon + kld


def bce_bytes(recon_x, x, mu, logvar):
    """Data loaders that keep bytes: x is uint8."""
    x = x.to(recon_x.dtype) / 255
    recon = F.binary_cross_entropy_with_logits(recon_x, x, reduction="none").flatten(1).sum(1)
    kld = 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1)
    return (recon + kld).mean()


def mean_of_everything(recon_x, x, mu, logvar):
    """Tutorials that take torch's default reduction for both: beta is D / L, whether meant or not."""
    bce = F.binary_cross_entropy_with_logits(recon_x, x)
    kld = -0.5 * torch.mean(1 + logvar - mu.pow(2) - logvar.exp())
    return bce + kld


def distributions(logits, x, mu, std):
    """Scripts that use torch.distributions, whose encoder returns a standard deviation."""
    q = torch.distributions.Normal(mu, std)
    p = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(std))
    log_likelihood = torch.distributions.Bernoulli(logits=logits).log_prob(x).sum(1)
    return (torch.distributions.kl_divergence(q, p).sum(1) - log_likelihood).mean()


def mse_sum(recon_x, x, mu, logvar):
    """The same copies with a squared error in place of the cross entropy."""
    mse = F.mse_loss(recon_x, x, reduction="sum")
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return mse + kld


def mse_mean(recon_x, x, mu, logvar):
    """Squared errors summed over each image, and the mean over the batch."""
    recon = ((x - recon_x) ** 2).sum(dim=(1, 2, 3))
    kld = -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum(dim=1)
    return (recon + kld).mean()


def half_mse(recon_x, x, mu, logvar):
    """Libraries: half the squared error, a unit Gaussian without its constant."""
    recon = 0.5 * F.mse_loss(recon_x, x, reduction="none").flatten(1).sum(-1)
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=-1)
    return (recon + kld).mean(dim=0)


def mse_kld_weight(recon_x, x, mu, logvar, kld_weight):
    """Collections of VAEs: torch's mean over all pixels, and a small weight that may change at each step."""
    recon = F.mse_loss(recon_x, x)
    kld = torch.mean(-0.5 * torch.sum(1 + logvar - mu**2 - logvar.exp(), dim=1), dim=0)
    return recon + kld_weight * kld


def weighted_mse(recon_x, x, mu, logvar):
    """Scripts whose weight stands at the reconstruction."""
    recon = F.mse_loss(recon_x, x, reduction="sum") / x.size(0)
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()) / x.size(0)
    return 10.0 * recon + kld


def l1_sum(recon_x, x, mu, logvar):
    """Absolute errors, for sharper edges; everything is summed."""
    recon = F.l1_loss(recon_x, x, reduction="sum")
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return recon + kld


def weighted_l1(recon_x, x, mu, logvar):
    """The same with a weight at the reconstruction, averaged over the batch."""
    recon = torch.abs(x - recon_x).flatten(1).sum(1)
    kld = 0.5 * (mu.pow(2) + logvar.exp() - 1.0 - logvar).sum(1)
    return torch.mean(5.0 * recon + kld)


def latent_diffusion(recon_x, x, mu, logvar, log_scale):
    """First stages of latent diffusion: absolute errors by one learned scale, and a KL of weight 1e-6."""
    nll = torch.abs(x - recon_x) / torch.exp(log_scale) + log_scale
    nll = torch.sum(nll) / nll.shape[0]
    kl = 0.5 * torch.sum(mu**2 + logvar.exp() - 1.0 - logvar, dim=[1, 2, 3])
    return nll + 1e-6 * torch.sum(kl) / kl.shape[0]


def sigma_vae(recon_x, x, mu, logvar, log_sigma):
    """Sigma-VAE (Rybkin et al. 2021) with one log sigma for all pixels, a parameter of the model."""
    z = (x - recon_x) / log_sigma.exp()
    recon = (0.5 * z**2 + log_sigma + 0.5 * math.log(2 * math.pi)).sum() / x.size(0)
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()) / x.size(0)
    return recon + kld


def optimal_sigma_vae(recon_x, x, mu, logvar):
    """Sigma-VAE with the best sigma of each batch."""
    log_sigma = ((x - recon_x) ** 2).mean().sqrt().log()
    z = (x - recon_x) / log_sigma.exp()
    recon = (0.5 * z**2 + log_sigma + 0.5 * math.log(2 * math.pi)).sum() / x.size(0)
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()) / x.size(0)
    return recon + kld


def gaussian_nll(mean, x, var, mu, logvar):
    """A decoder with a variance for each pixel, and the density's constant."""
    recon = F.gaussian_nll_loss(mean, x, var, full=True, reduction="sum") / x.size(0)
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=1).mean()
    return recon + kld


def gaussian_nll_without_constant(mean, log_var, x, mu, logvar):
    """The same from log variances, as people write it out."""
    recon = 0.5 * (log_var + (x - mean) ** 2 / log_var.exp()).sum(1)
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=1)
    return torch.mean(recon + kld)


def mc_kl(recon_x, x, z, mu, logvar, log_scale):
    """Lessons that estimate the KL at the sample, with one learned scale of the pixels."""
    q = torch.distributions.Normal(mu, torch.exp(logvar / 2))
    p = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
    kl = (q.log_prob(z) - p.log_prob(z)).sum(-1)
    log_pxz = torch.distributions.Normal(recon_x, torch.exp(log_scale)).log_prob(x)
    return (kl - log_pxz.sum(dim=(1, 2, 3))).mean()


def posterior(g, B, *latent):
    return {"mu": leaf(g, B, *latent), "logvar": spread(g, B, *latent)}


def mnist(g, B=128, D=784, L=20):
    return {"recon_x": leaf(g, B, D), "x": binary(g, B, D), **posterior(g, B, L)}


def mnist_probabilities(g, B=128, D=784, L=20):
    return mnist(g, B, D, L) | {"recon_x": probabilities(g, B, D)}


def mnist_images(g, B=128, side=28, L=20):
    return mnist_probabilities(g, B, side * side, L) | {"x": image(g, B, 1, side, side)}


def mnist_distributions(g, B=128, D=784, L=20):
    return {"logits": leaf(g, B, D), "x": binary(g, B, D), "mu": leaf(g, B, L), "std": scale(g, B, L)}


def mnist_variances(g, B=128, D=784, L=20):
    return {"mean": leaf(g, B, D), "var": scale(g, B, D), "x": image(g, B, D), **posterior(g, B, L)}


def mnist_log_variances(g, B=128, D=784, L=20):
    return {"mean": leaf(g, B, D), "log_var": spread(g, B, D), "x": image(g, B, D), **posterior(g, B, L)}


def colour(g, B=64, side=64, L=128):
    return {"recon_x": probabilities(g, B, 3, side, side), "x": image(g, B, 3, side, side), **posterior(g, B, L)}


def colour_weight(g, B=64, side=64, L=128):
    return colour(g, B, side, L) | {"kld_weight": 0.00025}


def colour_bytes(g, B=64, side=64, L=128):
    x = torch.randint(0, 256, (B, 3, side, side), dtype=torch.uint8, generator=g)
    return colour(g, B, side, L) | {"recon_x": leaf(g, B, 3, side, side), "x": x}


def colour_sigma(g, B=64, side=64, L=128):
    return colour(g, B, side, L) | {"log_sigma": torch.tensor(-0.7).requires_grad_()}


def first_stage(g, B=8, side=256):
    log_scale = torch.tensor(-0.5).requires_grad_()
    return colour(g, B, side, 1) | posterior(g, B, 4, side // 8, side // 8) | {"log_scale": log_scale}


def sampled(g, B=256, side=32, L=256):
    log_scale = torch.tensor(-0.7).requires_grad_()
    return colour(g, B, side, L) | {"z": leaf(g, B, L), "log_scale": log_scale}


def discretized_logistic(mean, log_scale, x, mu, logvar):
    """8-bit images as the mass of a logistic in each bin (Kingma et al. 2016)"""
    centered, inv_scale = x - mean, torch.exp(-log_scale)
    above, below = inv_scale * (centered + 0.5 / 255), inv_scale * (centered - 0.5 / 255)
    mass = torch.log((torch.sigmoid(above) - torch.sigmoid(below)).clamp(min=1e-12))
    log_p = torch.where(x < 0.001, F.logsigmoid(above), torch.where(x > 0.999, -F.softplus(below), mass))
    kl = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(1)
    return (kl - log_p.flatten(1).sum(1)).mean()


def logistic_mixture(logits, mean, log_scale, coef, x):
    """the mixture whose colors depend on each other (Salimans et al. 2017), for x in [-1, 1]"""
    log_scale, coef = log_scale.clamp(min=-7), torch.tanh(coef)
    red, green = x[:, None, 0], x[:, None, 1]
    of_green = mean[:, :, 1] + coef[:, :, 0] * red
    of_blue = mean[:, :, 2] + coef[:, :, 1] * red + coef[:, :, 2] * green
    centered = x[:, None] - torch.stack([mean[:, :, 0], of_green, of_blue], 2)
    inv_scale = torch.exp(-log_scale)
    above, below, middle = (inv_scale * (centered + d) for d in (1 / 255, -1 / 255, 0))
    mass = torch.sigmoid(above) - torch.sigmoid(below)
    density = middle - log_scale - 2 * F.softplus(middle) - math.log(127.5)
    log_p = torch.where(mass > 1e-5, torch.log(mass.clamp(min=1e-12)), density)
    log_p = torch.where(x[:, None] > 0.999, -F.softplus(below), log_p)
    log_p = torch.where(x[:, None] < -0.999, F.logsigmoid(above), log_p)
    return -torch.logsumexp(log_p.sum(2) + F.log_softmax(logits, 1), 1).flatten(1).sum(1).mean()


def levels(g, *shape):
    """8-bit images in [0, 1]; some pixels are black, and some white."""
    return (torch.rand(shape, generator=g) * 1.2 - 0.1).clamp(0, 1).mul(255).round() / 255


def color_levels(g, B=32, side=32, L=128):
    x = levels(g, B, 3, side, side)
    mean = (x + 0.1 * torch.randn(x.shape, generator=g)).requires_grad_()
    log_scale = (spread(g, B, 3, side, side).detach() - 2).requires_grad_()
    return {"mean": mean, "log_scale": log_scale, "x": x} | posterior(g, B, L)


def components(g, B=32, side=32, M=10):
    x = 2 * levels(g, B, 3, side, side) - 1
    mean = (x[:, None] + 0.3 * torch.randn((B, M, 3, side, side), generator=g)).requires_grad_()
    log_scale = (spread(g, B, M, 3, side, side).detach() - 0.5).requires_grad_()
    coef = (0.1 * torch.randn((B, M, 3, side, side), generator=g)).requires_grad_()
    return {"logits": leaf(g, B, M, side, side), "mean": mean, "log_scale": log_scale, "coef": coef, "x": x}


SUM = 'ELBOLoss("{}", reduction="sum")'
CALL = "criterion(recon_x, x, mu, logvar)"
BY_PIXELS = "criterion(recon_x, x, mu, logvar, beta={}) / x[0].numel()"

ROWS = (
    Row(bce_sum, mnist_images, CALL, SUM.format("bernoulli_probs")),
    Row(bce_mean, mnist_probabilities, CALL, 'ELBOLoss("bernoulli_probs")'),
    Row(bce_logits, mnist, CALL, "ELBOLoss()"),
    Row(bce_bytes, colour_bytes, CALL, "ELBOLoss(target_scale=1 / 255)"),
    Row(mean_of_everything, mnist, BY_PIXELS.format("x.numel() / mu.numel()"), "ELBOLoss()"),
    Row(distributions, mnist_distributions, "criterion(logits, x, mu, scale=std)", "ELBOLoss()"),
    Row(mse_sum, colour, CALL, SUM.format("mse")),
    Row(mse_mean, colour, CALL, 'ELBOLoss("mse")'),
    Row(half_mse, colour, CALL, "ELBOLoss(Gaussian(constant=False))"),
    Row(mse_kld_weight, colour_weight, BY_PIXELS.format("kld_weight * x[0].numel()"), 'ELBOLoss("mse")'),
    Row(weighted_mse, colour, f"10 * {CALL}", 'ELBOLoss("mse", beta=1 / 10)'),
    Row(l1_sum, colour, CALL, SUM.format("l1")),
    Row(weighted_l1, colour, f"5 * {CALL}", 'ELBOLoss("l1", beta=1 / 5)'),
    Row(
        latent_diffusion,
        first_stage,
        "criterion((recon_x, log_scale), x, mu, logvar)",
        "ELBOLoss(Laplace(constant=False), beta=1e-6)",
        small={"B": 2, "side": 64},
    ),
    Row(sigma_vae, colour_sigma, "criterion((recon_x, 2 * log_sigma), x, mu, logvar)", 'ELBOLoss("gaussian")'),
    Row(optimal_sigma_vae, colour, CALL, "ELBOLoss(Gaussian(optimal_scale=True))"),
    Row(gaussian_nll, mnist_variances, "criterion((mean, var.log()), x, mu, logvar)", 'ELBOLoss("gaussian")'),
    Row(
        gaussian_nll_without_constant,
        mnist_log_variances,
        "criterion((mean, log_var), x, mu, logvar)",
        "ELBOLoss(Gaussian(constant=False))",
    ),
    Row(
        mc_kl,
        sampled,
        "criterion((recon_x, 2 * log_scale), x, mu, logvar, z=z)",
        'ELBOLoss("gaussian", estimator="mc")',
    ),
    Row(
        discretized_logistic,
        color_levels,
        "criterion((mean, log_scale), x, mu, logvar)",
        "ELBOLoss(DiscretizedLogistic())",
    ),
    Row(
        logistic_mixture,
        components,
        '-criterion.log_prob((logits, mean, log_scale, coef), x, reduction="mean")',
        'DiscretizedLogisticMixture(channels="coupled", data_range=(-1, 1))',
        small={"B": 2, "side": 8},
    ),
)
