"""Random calls of vaefast: a term, a loss, or a sample, forward and backward."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tests.support.terms import OPTIONS, TERMS
from vaefast import ELBOLoss, likelihoods
from vaefast import functional as VF
from vaefast.ops import library

from ._draw import NAMES, Call, Draw

CALLS: dict[str, Callable[..., Tensor]] = {name: row.log_prob for name, row in TERMS.items()}
# The likelihoods of terms that have another name, or none.
OBJECTS: dict[str, Callable[[float], likelihoods.Likelihood]] = {
    "squared_error": likelihoods.SquaredError,
    "gaussian_without_constant": lambda scale: likelihoods.Gaussian(constant=False, target_scale=scale),
    "laplace_without_constant": lambda scale: likelihoods.Laplace(constant=False, target_scale=scale),
    "poisson_rate": lambda scale: likelihoods.Poisson(False, scale),
    "negative_binomial_mean": lambda scale: likelihoods.NegativeBinomial(False, scale),
    "zero_inflated_negative_binomial_mean": lambda scale: likelihoods.ZeroInflatedNegativeBinomial(False, scale),
}
# The terms that a decoder's output and data are the operands of: an option, such as degrees of freedom, is neither.
LIKELIHOODS = [t for t in NAMES if TERMS[t].target is not None and not {*OPTIONS} & {*TERMS[t].kinds}]


def term(draw: Draw) -> Call:
    call, note = draw.call, draw.note
    name, dtype, shape = note("term", draw.pick(NAMES)), draw.dtype(), note("shape", draw.shape())
    batch_dims = note("batch_dims", int(draw.rng.integers(len(shape) + 1)))
    options = {
        "batch_dims": batch_dims,
        "reduction": note("reduction", draw.pick(["none", "sum", "mean", "elementwise"])),
    }
    inputs, scale = draw.operands(name, shape, dtype)
    mask = None
    if TERMS[name].target is not None:
        mask = draw.mask(shape)
        options |= {"mask": mask, "target_scale": scale}
    draw.use(name, inputs, int(np.prod(shape[:batch_dims])), mask, scale)
    wanted = draw.require(inputs)
    for each in wanted:
        each.tensor.requires_grad_()
    call.once = options["reduction"] in ("none", "elementwise")
    library.set_cpu_isa(draw.isa)
    draw.backward({"value": CALLS[name](*(i.tensor for i in inputs), **options)}, wanted)
    return call


def loss(draw: Draw) -> Call:
    call, note, rng = draw.call, draw.note, draw.rng
    name = note("likelihood", draw.pick(LIKELIHOODS))
    dtype = draw.dtype()
    shape = draw.shape(1)
    latent_shape = (shape[0], *draw.shape(0, 2))
    inputs, scale = draw.operands(name, shape, dtype)
    mask = draw.mask(shape)
    draw.use(name, inputs, shape[0], mask, scale)
    given = note("prior", draw.chance(0.3))
    own = torch.float32 if dtype != torch.float64 and draw.chance(0.2) else dtype
    spread = note("spread", "scale" if draw.chance(0.2) else "logvar")
    latent = [
        draw.input(each, draw.values(latent_shape, "scale" if each.endswith("scale") else "real").to(own))
        for each in ("mu", spread, "prior_mu", f"prior_{spread}")[: 4 if given else 2]
    ]
    draw.use("gaussian_kl" + "_pair" * given + "_scale" * (spread == "scale"), latent, shape[0], None, 1.0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    extra = {}
    if draw.chance(0.3):
        extra["weight"] = draw.input("weight", torch.from_numpy(rng.random(shape[0]) * 3).to(wide))
    beta = note("beta", draw.pick([1.0, 1.0, 0.0, 0.25, 4.0]))
    if draw.chance(0.2):
        extra["beta"] = draw.input("beta", torch.tensor(beta, dtype=wide))
    parts = note("parts", draw.chance(0.2))
    options = {"reduction": note("reduction", draw.pick(["mean", "mean", "sum", "none"])), "beta": beta}
    options["inplace"] = note("inplace", draw.chance(0.15))
    finite = not draw.special and dtype != torch.float16  # which is infinite from 65504 on
    finite = finite and "positive data" not in TERMS[name].kinds  # a byte may be 0
    options["validate"] = note("validate", finite and draw.chance(0.1))
    if name in OBJECTS:
        criterion = ELBOLoss(OBJECTS[name](scale), **options)
    else:
        criterion = ELBOLoss(name, target_scale=scale, **options)
    wanted = draw.require([*inputs, *latent, *extra.values()])
    for each in wanted:
        each.tensor.requires_grad_()
    first, x, *second = (i.tensor for i in inputs)
    if options["inplace"]:
        first = first.clone()  # what is written over is no leaf
    call.once = options["reduction"] == "none"
    library.set_cpu_isa(draw.isa)
    out = criterion(
        (first, *second) if second else first, x,
        **{i.name: i.tensor for i in [*latent, *extra.values()]}, mask=mask, return_parts=parts,
    )  # fmt: skip
    draw.backward({"loss": out[0] if parts else out}, wanted)
    if parts:
        call.outputs |= {each: getattr(out[1], each).detach() for each in ("log_likelihood", "kl", "elbo")}
    return call


def sample(draw: Draw) -> Call:
    """reparameterize or rsample_kl, with noise that is given or drawn."""
    call, note = draw.call, draw.note
    dtype = draw.dtype()
    kl, shape = note("kl", draw.chance(0.5)), note("shape", draw.shape(0, 4))
    given = kl and note("prior", draw.chance(0.3))
    count = None if kl else note("num_samples", draw.pick([None, None, 0, 1, 3]))
    latent = [
        draw.input(each, draw.values(shape, "real").to(dtype))
        for each in ("mu", "logvar", "prior_mu", "prior_logvar")[: 4 if given else 2]
    ]
    batch_dims = note("batch_dims", int(draw.rng.integers(len(shape) + 1)))
    if kl:
        rows = int(np.prod(shape[:batch_dims]))
        draw.use("gaussian_kl_pair" if given else "gaussian_kl", latent, rows, None, 1.0)
    z_shape = shape if count is None else (count, *shape)
    library.set_cpu_isa(draw.isa)
    inputs, options = list(latent), {}
    if note("eps given", draw.chance(0.5)):
        eps = draw.input("eps", draw.values(z_shape, "real").to(torch.from_numpy(np.zeros(0, call.compute)).dtype))
        inputs.append(eps)
        options["eps"] = eps.tensor
        call.upstream["eps"] = eps.wide
    else:  # the noise itself: what samples of N(0, 1) are
        seed, zero = int(draw.rng.integers(2**31)), torch.zeros(shape)
        noise = VF.reparameterize(zero, zero, num_samples=count, generator=torch.Generator().manual_seed(seed))
        call.upstream["eps"] = noise.double().numpy().ravel()
        options["generator"] = torch.Generator().manual_seed(seed)
    wanted = draw.require(inputs)
    for each in wanted:
        each.tensor.requires_grad_()
    tensors = [i.tensor for i in latent]
    if kl:
        z, sums = VF.rsample_kl(*tensors, **options, batch_dims=batch_dims)
    else:
        z, sums = VF.reparameterize(*tensors, **options, num_samples=count), None
    draw.backward({"z": z} if sums is None else {"z": z, "kl": sums}, wanted)
    return call


def make(seed: int, index: int) -> Call:
    draw = Draw(seed, index)
    return {"term": term, "loss": loss, "sample": sample}[draw.call.kind](draw)
