"""The sample: z by reparameterization, with the KL on request. Its autograd node, and the function that runs it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import reference
from . import library
from .dispatch import has_kernel, needs_composite, needs_grad
from .vjp import bits, composite_vjp, spread


class Rsample(torch.autograd.Function):
    """Returns (z, KL): a reparameterized sample, and the KL divergence of its distribution, which is empty without `kl`."""

    @staticmethod
    def forward(
        ctx: Any, num_samples: int, kl: bool, batch_dims: int, generator: torch.Generator | None, *latent: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.options = (num_samples, kl, batch_dims)
        ctx.needed = ctx.needs_input_grad[4:]
        z, sums, key = library.rsample(latent, None, num_samples, kl, batch_dims, generator)
        ctx.save_for_backward(key, *latent)
        ctx.set_materialize_grads(False)
        return z, sums

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None) -> tuple[Tensor | None, ...]:
        num_samples, kl, batch_dims = ctx.options
        grad_kl = grad_kl if kl else None  # torch.compile passes an empty gradient
        if grad_z is None and grad_kl is None:
            return (None,) * (4 + len(ctx.needed))
        key, *latent = ctx.saved_tensors
        needed = ctx.needed
        if grad_kl is None:  # z does not depend on the prior
            latent, needed = latent[:2], needed[:2]
        backward = _rsample_vjp if needs_composite(grad_z, grad_kl) else library.rsample_backward
        grads = backward(latent, key, grad_z, grad_kl, num_samples, batch_dims, bits(needed))
        rest = len(ctx.needed) - len(needed)
        return (None,) * 4 + tuple(spread(grads, needed)) + (None,) * rest


def _rsample_vjp(
    latent: Sequence[Tensor],
    key: Tensor,
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    num_samples: int,
    batch_dims: int,
    gradients: int,
) -> list[Tensor]:
    """library.rsample_backward by the composite, the plain formula of reference.py, which can be differentiated and
    batched."""
    kl = grad_kl is not None
    needed = tuple(bool(gradients >> k & 1) for k in range(len(latent)))

    def composite(*inputs: Tensor) -> tuple[Tensor, ...]:
        eps = _noise(latent[0], num_samples, key)
        z = reference.reparameterize(inputs[0], inputs[1], eps)
        return (z, reference.row_sum(library.kl_term(inputs), inputs, batch_dims=batch_dims)) if kl else (z,)

    grads = composite_vjp(composite, list(latent), needed, [grad_z, grad_kl] if kl else [grad_z])
    return [g for g in grads if g is not None]


library.implement("rsample_vjp", _rsample_vjp)


def _noise(like: Tensor, num_samples: int, key: Tensor | None, generator: torch.Generator | None = None) -> Tensor:
    """The standard normal noise that the fused operator draws for a `mu` of the shape and device of `like`."""
    zero = torch.zeros((), dtype=torch.float32, device=like.device).expand(like.shape)
    with torch.no_grad():
        return library.rsample([zero, zero], key, num_samples, False, 0, generator)[0]


def rsample(
    latent: Sequence[Tensor],
    num_samples: int | None = None,
    kl: bool = False,
    batch_dims: int = 1,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns (z, KL) from latent = (mu, logvar) or (mu, logvar, prior_mu, prior_logvar), as one fused operation."""
    samples = -1 if num_samples is None else num_samples
    if has_kernel(latent[0]):
        if needs_grad(latent):
            if torch.compiler.is_compiling():
                return Rsample.apply(samples, kl, batch_dims, generator, *latent)
            return library.sample_and_kl(latent, samples, kl, batch_dims, generator)
        return library.rsample(latent, None, samples, kl, batch_dims, generator)[:2]
    mu = latent[0]
    shape = mu.shape if num_samples is None else (num_samples, *mu.shape)
    eps = torch.randn(shape, generator=generator, device=mu.device)  # torch.func can batch torch.randn
    sums = reference.row_sum(library.kl_term(latent), latent, batch_dims=batch_dims) if kl else mu.new_empty(0)
    return reference.reparameterize(mu, latent[1], eps), sums
