"""Every formula in plain torch, in a numerically stable form.

This file specifies what the kernels compute. It runs where no kernel applies: torch.func, forward-mode AD, double backward,
other devices. It is the baseline of tests and benchmarks. Every function can be differentiated any number of times."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Formula = Callable[..., Tensor]
TERMS: dict[str, Formula] = {}  # the formula of each term of csrc/math/terms, by the term's name
KL_TERMS: dict[int, str] = {}  # the name of the KL of a latent of so many operands


def _term(formula: Formula) -> Formula:
    """Puts a log-likelihood into TERMS, under its own name. Its second operand is the data."""
    TERMS[formula.__name__] = formula
    return formula


def _kl_term(formula: Formula) -> Formula:
    """Puts a KL into TERMS and KL_TERMS. None of its operands is data."""
    KL_TERMS[formula.__code__.co_argcount] = formula.__name__
    return _term(formula)


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


def _standardized(difference: Tensor, logvar: Tensor) -> Tensor:
    """difference / sigma, which is 0 where the difference is 0, even if sigma is 0."""
    lost = (difference == 0) & torch.exp(-0.5 * logvar).isinf()
    # logvar is replaced before exp, because the gradient of exp would be 0 * inf.
    return difference * torch.exp(-0.5 * torch.where(lost, 0.0, logvar))


@_kl_term
def gaussian_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    return 0.5 * (mu * mu + phi(logvar))


@_kl_term
def gaussian_kl_pair(mu: Tensor, logvar: Tensor, prior_mu: Tensor, prior_logvar: Tensor) -> Tensor:
    return 0.5 * (_standardized(mu - prior_mu, prior_logvar) ** 2 + phi(logvar - prior_logvar))


def _product(size: Tensor, miss: Tensor) -> Tensor:
    """size * miss, which is 0 where size is infinite and miss is 0. There its derivative by miss is still infinite."""
    right, most = size.isinf() & (miss == 0), torch.finfo(size.dtype).max
    return torch.where(right, 0.0, size) * miss + torch.where(right, miss, 0.0) * most * most


@_term
def bernoulli(logits: Tensor, x: Tensor) -> Tensor:
    size = torch.where(logits >= 0, logits, -logits)
    miss = torch.where(logits >= 0, 1 - x, x)
    return -(_product(size, miss) + torch.log1p(torch.exp(-size)))


@_term
def bernoulli_probs(probs: Tensor, x: Tensor) -> Tensor:
    proper = (probs >= 0) & (probs <= 1)  # outside, torch raises an error, and on a GPU it ends the process
    value = -F.binary_cross_entropy(torch.where(proper, probs, 0.5), x, reduction="none")
    return torch.where(proper, value, math.nan * torch.where(proper, 0.0, probs))


@_term
def gaussian(mean: Tensor, x: Tensor, logvar: Tensor) -> Tensor:
    return -0.5 * (LOG_2PI + logvar + _standardized(x - mean, logvar) ** 2)


@_term
def laplace(mean: Tensor, x: Tensor, log_scale: Tensor) -> Tensor:
    difference = x - mean
    sign = torch.where(difference > 0, 1.0, torch.where(difference < 0, -1.0, difference)).detach()  # NaN stays NaN
    distance = difference * sign
    precision = torch.exp(-torch.where(distance == 0, 0.0, log_scale))  # no error, whatever the scale
    return -(math.log(2) + log_scale + distance * precision)


@_term
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


def reduced(value: Tensor, reduction: str, batch_dims: int = 1) -> Tensor:
    """Elements, reduced: "elementwise" (no sum), "none" (a sum per sample), "sum" (of everything), or "mean" (over the
    samples' sums)."""
    if reduction == "elementwise":
        return value
    rows = value.flatten(batch_dims).sum(-1) if value.dim() > batch_dims else value
    if reduction == "none":
        return rows
    return rows.sum() if reduction == "sum" else rows.mean()


def row_sum(
    term: str,
    operands: Sequence[Tensor],
    mask: Tensor | None = None,
    reduction: str = "none",
    batch_dims: int = 1,
    target_scale: float = 1.0,
) -> Tensor:
    """The term of `operands`, reduced."""
    target = None if term in KL_TERMS.values() else 1
    wide = any(t.dtype == torch.float64 for k, t in enumerate(operands) if k != target)
    wide_operands = [t.to(torch.float64 if wide else torch.float32) for t in operands]
    if target is not None and target_scale != 1:
        wide_operands[target] = wide_operands[target] * target_scale
    if mask is not None:  # replaced before the formula, so that a masked NaN reaches neither value nor gradient
        wide_operands = [torch.where(mask, t, 0.0) for t in wide_operands]
    value = TERMS[term](*torch.broadcast_tensors(*wide_operands))
    if mask is not None:
        value = torch.where(mask, value, 0.0)
    return reduced(value, reduction, batch_dims)


def elbo_loss(
    likelihood: str,
    operands: Sequence[Tensor],
    latent: Sequence[Tensor],
    mask: Tensor | None,
    weight: Tensor | None,
    beta: float | Tensor,
    reduction: str,
    batch_dims: int = 1,
    target_scale: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (loss, log-likelihood, KL). The loss is weight * (beta * KL - log-likelihood), reduced by "sum" or "mean".
    The log-likelihood and the KL are per sample."""
    fit = row_sum(likelihood, operands, mask, "none", batch_dims, target_scale)
    kl = row_sum(KL_TERMS[len(latent)], latent, batch_dims=batch_dims)
    loss = beta * kl - fit
    if weight is not None:
        loss = weight * loss
    return reduced(loss, reduction, batch_dims), fit, kl


def reparameterize(mu: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
    """mu + sigma * eps, computed in float32 or float64 and rounded once to the dtype of mu."""
    dtype = torch.float64 if torch.float64 in (mu.dtype, logvar.dtype) else torch.float32
    z = mu.to(dtype) + torch.exp(0.5 * logvar.to(dtype)) * eps.to(dtype)
    return z.to(mu.dtype)
