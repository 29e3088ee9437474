"""The registry of formulas, and the terms of latents, of data in [0, 1], and of a mean and a scale."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Formula = Callable[..., Tensor]
TERMS: dict[str, Formula] = {}  # the formula of each term of csrc/math/terms, by the term's name
# The name of the KL of a latent of so many operands, whose spreads are sigma (True) or log sigma^2.
KL_TERMS: dict[tuple[int, bool], str] = {}


def term(formula: Formula) -> Formula:
    """Puts a log-likelihood into TERMS, under its own name. Its second operand is the data."""
    TERMS[formula.__name__] = formula
    return formula


def _kl_term(formula: Formula) -> Formula:
    """Puts a KL into TERMS and KL_TERMS. None of its operands is data."""
    arguments = formula.__code__.co_varnames[: formula.__code__.co_argcount]
    KL_TERMS[len(arguments), arguments[1] == "scale"] = formula.__name__
    return term(formula)


def kl_term(latent: Sequence[Tensor], spreads: Sequence[str] = ()) -> str:
    """The name of the KL's term. `latent` is (mu, spread), or (mu, spread, prior_mu, prior_spread). `spreads` says how the
    spreads are given, "logvar", "log_scale" or "scale": one entry for q, one for the prior, or none if all are logvars."""
    return KL_TERMS[len(latent), "scale" in spreads]


LOG_2PI = math.log(2 * math.pi)
_BERNOULLI = (
    1 / 6,
    -1 / 30,
    1 / 42,
    -1 / 30,
    5 / 66,
    -691 / 2730,
    7 / 6,
    -3617 / 510,
    43867 / 798,
    -174611 / 330,
)  # the Bernoulli numbers B_2, B_4, ..., B_20
_SINH = [-b / (2 * n * math.factorial(2 * n)) for n, b in enumerate(_BERNOULLI, 1)]


def phi(x: Tensor) -> Tensor:
    """exp(x) - 1 - x. Near 0 the difference loses all its digits, so it is computed by its series there."""
    near = (x > -1) & (x < 1.75)
    y = torch.where(near, x, 0.0)
    series = torch.zeros_like(y)
    for n in range(25, 1, -1):
        series = (series * y + 1) / n
    return torch.where(near, series * y * y, torch.expm1(x) - x.clamp(max=1000))


def standardized(difference: Tensor, logvar: Tensor) -> Tensor:
    """difference / sigma, which is 0 where the difference is 0, even if sigma is 0."""
    lost = (difference == 0) & torch.exp(-0.5 * logvar).isinf()
    # logvar is replaced before exp, because the gradient of exp would be 0 * inf.
    return difference * torch.exp(-0.5 * torch.where(lost, 0.0, logvar))


def log_sigmoid(x: Tensor) -> Tensor:
    """-log1p(exp(-x)), of functions that every kind of tensor has."""
    size = torch.where(x >= 0, x, -x)
    return torch.where(x >= 0, 0.0, x) - torch.log1p(torch.exp(-size))


@_kl_term
def gaussian_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    return 0.5 * (mu * mu + phi(logvar))


@_kl_term
def gaussian_kl_pair(mu: Tensor, logvar: Tensor, prior_mu: Tensor, prior_logvar: Tensor) -> Tensor:
    return 0.5 * (standardized(mu - prior_mu, prior_logvar) ** 2 + phi(logvar - prior_logvar))


def _half_phi(scale: Tensor, prior_scale: Tensor) -> Tensor:
    """phi(2 log(scale / prior_scale)) / 2."""
    ratio = scale / prior_scale
    near = (ratio > 0.71) & (ratio < 1.41)
    excess = torch.where(near, scale - prior_scale, 0.0) / torch.where(near, prior_scale, 1.0)
    lost = (ratio < 1e-18) | (ratio > 1e18)  # the ratio's derivative, or its inverse, may be 0 or infinite there
    log_far = torch.log(torch.where(near | lost, 1.0, ratio))
    # The phi is infinite for a prior_scale of 0, so its logarithm is left out there: inf - inf is no gradient.
    log_prior = torch.log(torch.where(lost & (prior_scale != 0), prior_scale, 1.0))
    log_lost = torch.log(torch.where(lost, scale, 1.0)) - log_prior
    log_ratio = torch.where(lost, log_lost, log_far).clamp(max=1000)
    return torch.where(near, 0.5 * phi(2 * torch.log1p(excess)), 0.5 * (ratio * ratio - 1) - log_ratio)


@_kl_term
def gaussian_kl_scale(mu: Tensor, scale: Tensor) -> Tensor:
    return 0.5 * mu * mu + _half_phi(scale, torch.ones_like(scale))


@_kl_term
def gaussian_kl_pair_scale(mu: Tensor, scale: Tensor, prior_mu: Tensor, prior_scale: Tensor) -> Tensor:
    difference = mu - prior_mu
    z = difference / torch.where(difference == 0, 1.0, prior_scale)  # 0 for no difference, also where the scale is 0
    return 0.5 * z * z + _half_phi(scale, prior_scale)


def _product(size: Tensor, miss: Tensor) -> Tensor:
    """size * miss, which is 0 where size is infinite and miss is 0. There its derivative by miss is still infinite."""
    right, most = size.isinf() & (miss == 0), torch.finfo(size.dtype).max
    return torch.where(right, 0.0, size) * miss + torch.where(right, miss, 0.0) * most * most


@term
def bernoulli(logits: Tensor, x: Tensor) -> Tensor:
    size = torch.where(logits >= 0, logits, -logits)
    miss = torch.where(logits >= 0, 1 - x, x)
    return -(_product(size, miss) + torch.log1p(torch.exp(-size)))


@term
def bernoulli_probs(probs: Tensor, x: Tensor) -> Tensor:
    proper = (probs >= 0) & (probs <= 1)  # outside, torch raises an error, and on a GPU it ends the process
    value = -F.binary_cross_entropy(torch.where(proper, probs, 0.5), x, reduction="none")
    return torch.where(proper, value, math.nan * torch.where(proper, 0.0, probs))


@term
def squared_error(mean: Tensor, x: Tensor) -> Tensor:
    return -((x - mean) ** 2)


@term
def gaussian_without_constant(mean: Tensor, x: Tensor, logvar: Tensor) -> Tensor:
    return -0.5 * (logvar + standardized(x - mean, logvar) ** 2)


@term
def gaussian(mean: Tensor, x: Tensor, logvar: Tensor) -> Tensor:
    return gaussian_without_constant(mean, x, logvar) - 0.5 * LOG_2PI


@term
def laplace_without_constant(mean: Tensor, x: Tensor, log_scale: Tensor) -> Tensor:
    difference = x - mean
    sign = torch.where(difference > 0, 1.0, torch.where(difference < 0, -1.0, difference)).detach()  # NaN stays NaN
    distance = difference * sign
    precision = torch.exp(-torch.where(distance == 0, 0.0, log_scale))  # no error, whatever the scale
    return -(log_scale + distance * precision)


@term
def laplace(mean: Tensor, x: Tensor, log_scale: Tensor) -> Tensor:
    return laplace_without_constant(mean, x, log_scale) - math.log(2)


@term
def continuous_bernoulli(logits: Tensor, x: Tensor) -> Tensor:
    near = logits.abs() < 1
    y = torch.where(near, logits, 0.0)
    series = torch.zeros_like(y)  # of log((y / 2) / sinh(y / 2)), by -B_2n / (2n (2n)!)
    for n in range(10, 0, -1):
        series = series * y * y + _SINH[n - 1]
    size = torch.where(near, 1.0, torch.where(logits >= 0, logits, -logits))
    miss = torch.where(logits >= 0, 1 - x, x)
    cost = _product(size, miss)
    finite = torch.where(size.isinf(), 1.0, size)
    log_c = torch.where(size.isinf(), size.detach(), torch.log(-finite / torch.expm1(-finite)))
    far = torch.where(cost.isinf(), 0.0, log_c) - cost
    return torch.where(near, (x - 0.5) * y + series * y * y, far)
