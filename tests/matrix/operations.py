"""The operations: each of vaefast's functions beside the same in plain torch. Those of the terms are made of the rows of
tests/support/terms."""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tests.support.terms import OPTIONS, TERMS, Term
from vaefast import ELBOLoss, IWAELoss, reference
from vaefast import functional as VF
from vaefast.likelihoods import DiscretizedLogisticMixture

BATCH, D, L = 6, 11, 3
Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Operation:
    """A function of floating-point tensors, the same in plain torch, and what it is called with."""

    name: str
    function: Function
    composite: Function
    inputs: tuple[str, ...]
    sampled: tuple[str, ...] = ()  # the inputs with a sample dimension before the batch

    def draw(self, batch: int = BATCH, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
        g = torch.Generator().manual_seed(batch)
        shapes = {"probs": (batch, D), "x": (batch, D), "logits": (batch, D), "scale": (batch, D), "shape": (batch, D), "weight": (batch,), "rate": (batch, D),
                  "beta": (), "head": (D, L), "bias": (D,), "z": (batch, L), "image": (batch, 3, 4), "of pixels": (batch, 2, 4),
                  **dict.fromkeys(("mean", "width", "coef"), (batch, 2, 3, 4)), "of elements": (batch, 2, 3, 4)}  # fmt: skip
        drawn = []
        for name in self.inputs:
            shape = (2,) * (name in self.sampled) + shapes.get(name, (batch, L))
            uniform = name in ("probs", "x", "image", "weight", "beta", "sigma", "rate")
            t = (torch.rand if uniform else torch.randn)(shape, generator=g, dtype=torch.float64)
            drawn.append((0.1 + 0.8 * t if uniform else t).to(dtype))
        return tuple(drawn)


def _composite_loss(likelihood: str = "bernoulli", reduction: str = "mean") -> Function:
    def loss(recon_x: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, *prior: Tensor) -> Tensor:
        operands = (recon_x, x) if likelihood != "gaussian" else (recon_x, x, x.new_zeros(()))
        rows = reference.row_sum("gaussian_kl" + "_pair" * bool(prior), (mu, logvar, *prior))
        rows = rows - reference.row_sum(likelihood, operands)
        return {"mean": rows.mean, "sum": rows.sum, "none": lambda: rows}[reduction]()

    return loss


def _heteroscedastic(recon_x: Tensor, scale: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return (reference.gaussian_kl(mu, logvar).sum() - reference.gaussian(recon_x, x, scale).sum()) / len(x)


def _free_bits(recon_x: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    kl = reference.gaussian_kl(mu, logvar).mean(0).clamp(min=0.1).sum()
    return kl - reference.row_sum("bernoulli", (recon_x, x), reduction="mean")


def _weighted(recon_x: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, weight: Tensor, beta: Tensor) -> Tensor:
    mask = _mask(x)
    return reference.elbo_loss("bernoulli", (recon_x, x), (mu, logvar), mask, weight, beta, "sum")[0]


def _mask(x: Tensor) -> Tensor:
    return x.detach() > 0.3


def _log_w(recon_x: Tensor, x: Tensor, z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    fit = reference.row_sum("bernoulli", (recon_x, x.expand(recon_x.shape)), batch_dims=2)
    prior = reference.row_sum("gaussian", (torch.zeros_like(z), z, torch.zeros_like(z)), batch_dims=2)
    q = reference.row_sum("gaussian", (mu.expand(z.shape), z, logvar.expand(z.shape)), batch_dims=2)
    return fit + prior - q


def _iwae(*args: Tensor) -> Tensor:
    return math.log(2) - _log_w(*args).logsumexp(0).mean()


def _flat(rsample_kl: Function) -> Function:
    """One tensor of a pair, so that every operation returns one."""

    def function(*args: Tensor) -> Tensor:
        z, kl = rsample_kl(*args)
        return z.sum(-1) + 2 * kl

    return function


def _decoded(head: Tensor, bias: Tensor, z: Tensor) -> Tensor:
    return (z.tanh()[..., None, :] * head).sum(-1) + bias  # torch.compile has a linear layer under vmap fail


def _dreg_loss(head: Tensor, bias: Tensor, x: Tensor, z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    z = 1.0 * z  # a sample of this loss alone
    return IWAELoss(gradient="dreg")(_decoded(head, bias, z), x, z, mu, logvar) + 0 * (mu + logvar).sum()


def _dreg(head: Tensor, bias: Tensor, x: Tensor, z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """The gradient that reaches z, weighted once more by v_k = w_k / sum_j w_j; q's own parameters are constants."""
    q = mu.detach(), logvar.detach()
    v = _log_w(_decoded(head, bias, z), x, z, *q).detach().softmax(0).unsqueeze(-1)
    z = v * z + ((1 - v) * z).detach()
    return _iwae(_decoded(head, bias, z), x, z, *q) + 0 * (mu + logvar).sum()


def _mixture(channels: str, logits: Tensor, mean: Tensor, width: Tensor, *rest: Tensor) -> Tensor:
    """By the kernel, which has no gradient by the data."""
    *coef, x = rest
    likelihood = DiscretizedLogisticMixture(channels=channels, data_range=(-1, 1) if channels == "coupled" else (0, 1))
    return likelihood.log_prob((logits, mean, width + 1, *coef), x.detach()) + 0 * x.flatten(1).sum(1)


def _composite_mixture(logits: Tensor, mean: Tensor, width: Tensor, *rest: Tensor) -> Tensor:
    *coef, x = rest
    half = logits.new_tensor(0.5 / 255)
    if coef:
        grid = torch.stack([2 * half, -torch.ones_like(half), torch.ones_like(half)])
        operands = logits, x.detach(), mean, width + 1, grid, *coef
    else:  # an element is a pixel of one channel
        logits, flat = logits.flatten(2), [t.flatten(2).unsqueeze(2) for t in (mean, width + 1)]
        operands = logits, x.detach().flatten(1).unsqueeze(1), *flat, half
    return reference.row_sum(reference.MIXTURE, operands) + 0 * x.flatten(1).sum(1)


LOSS = ("logits", "x", "mu", "logvar")


def of_term(row: Term) -> Iterator[Operation]:
    """A term by its public call, for each reduction that its row names."""
    names = ("mu", "logvar", "prior_mu", "prior_logvar") if row.target is None else ("logits", "x", "scale", "shape")
    positive = {"scale": "sigma", **dict.fromkeys(("rate", *OPTIONS), "rate")}
    inputs = tuple(({"probs": "probs"} | positive).get(kind, n) for kind, n in zip(row.kinds, names, strict=False))
    for reduction in row.reductions:
        name = (row.label or row.name) + f" {reduction}" * (reduction != "none")
        composite = functools.partial(_composite_term, row.name, reduction)
        yield Operation(name, functools.partial(row.log_prob, reduction=reduction), composite, inputs)


def _composite_term(name: str, reduction: str, *operands: Tensor) -> Tensor:
    return reference.row_sum(name, operands, reduction=reduction)


LIKELIHOODS = [each for row in TERMS.values() if row.target is not None for each in of_term(row)]
DIVERGENCES = [each for row in TERMS.values() if row.target is None for each in of_term(row)]
OPERATIONS = (
    Operation("ELBOLoss", ELBOLoss(), _composite_loss(), LOSS),
    Operation("ELBOLoss none", ELBOLoss(reduction="none"), _composite_loss(reduction="none"), LOSS),
    Operation(
        "ELBOLoss weight, mask, beta",
        lambda r, x, m, v, w, b: ELBOLoss(reduction="sum")(r, x, m, v, weight=w, beta=b, mask=_mask(x)),
        _weighted, (*LOSS, "weight", "beta"),
    ),
    Operation(
        "ELBOLoss prior", lambda r, x, m, v, *p: ELBOLoss()(r, x, m, v, prior_mu=p[0], prior_logvar=p[1]),
        _composite_loss(), (*LOSS, "prior_mu", "prior_logvar"),
    ),
    Operation("ELBOLoss gaussian", ELBOLoss("gaussian"), _composite_loss("gaussian"), LOSS),
    Operation(
        "ELBOLoss (mean, logvar)", lambda r, s, *rest: ELBOLoss("gaussian")((r, s), *rest),
        _heteroscedastic, ("logits", "scale", *LOSS[1:]),
    ),
    Operation("ELBOLoss free bits", ELBOLoss(free_bits=0.1), _free_bits, LOSS),
    Operation("ELBOLoss inplace", lambda r, *a: ELBOLoss(inplace=True)(1.0 * r, *a), _composite_loss(), LOSS),
    Operation("elbo", lambda *a: VF.elbo(*a).elbo, lambda *a: -_composite_loss(reduction="none")(*a), LOSS),
    *LIKELIHOODS,
    Operation(
        "mixture", functools.partial(_mixture, "independent"), _composite_mixture, ("of elements", "mean", "width", "image")
    ),
    Operation(
        "mixture coupled", functools.partial(_mixture, "coupled"), _composite_mixture,
        ("of pixels", "mean", "width", "coef", "image"),
    ),
    *DIVERGENCES,
    Operation("reparameterize", lambda m, v, e: VF.reparameterize(m, v, eps=e), reference.reparameterize, (*LOSS[2:], "eps")),
    Operation(
        "rsample_kl", _flat(lambda m, v, e: VF.rsample_kl(m, v, eps=e)),
        _flat(lambda m, v, e: (reference.reparameterize(m, v, e), reference.row_sum("gaussian_kl", (m, v)))), (*LOSS[2:], "eps"),
    ),
    Operation(
        "rsample_kl scale", _flat(lambda m, s, e: VF.rsample_kl(m, scale=s, eps=e)),
        _flat(lambda m, s, e: (m + s * e, reference.row_sum("gaussian_kl_scale", (m, s)))), ("mu", "sigma", "eps"),
    ),
    Operation(
        "ELBOLoss log_scale", lambda r, x, m, s: ELBOLoss()(r, x, m, log_scale=s),
        lambda r, x, m, s: _composite_loss()(r, x, m, 2 * s), LOSS,
    ),
    Operation(
        "linear_bernoulli", lambda h, w, b, x: VF.linear_bernoulli_log_likelihood(h, w, b, x, reduction="mean"),
        lambda h, w, b, x: reference.row_sum("bernoulli", (nn.functional.linear(h, w, b), x), reduction="mean"),
        ("h", "head", "bias", "x"),
    ),
    Operation(
        "IWAELoss", IWAELoss(), _iwae,
        ("logits", "x", "z", *LOSS[2:]), sampled=("logits", "z"),
    ),
    Operation("IWAELoss dreg", _dreg_loss, _dreg, ("head", "bias", "x", "z", *LOSS[2:]), sampled=("z",)),
)  # fmt: skip
