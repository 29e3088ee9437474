"""Reparameterized samples, with the KL where it is asked for.

The autograd node, eager and compiled, is that of csrc/ops/sample_autograd.cpp. It calls rsample_vjp, which is here, where a
backward pass must be differentiable or batched."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import reference
from . import library
from .dispatch import has_kernel, needs_grad
from .vjp import composite_vjp


def _rsample_vjp(
    latent: Sequence[Tensor],
    key: Tensor,
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    num_samples: int,
    batch_dims: int,
    gradients: int,
    spreads: int = 0,
) -> list[Tensor]:
    """library.rsample_backward by the composite, the plain formula of vaefast/reference, which can be differentiated and
    batched."""
    kl = grad_kl is not None
    needed = tuple(bool(gradients >> k & 1) for k in range(len(latent)))
    names = library.spread_names(spreads)

    def composite(*inputs: Tensor) -> tuple[Tensor, ...]:
        eps = _noise(latent[0], num_samples, key)
        z = reference.reparameterize(inputs[0], inputs[1], eps, names)
        return (z, reference.latent_kl(inputs, batch_dims, names)) if kl else (z,)

    grads = composite_vjp(composite, list(latent), needed, [grad_z, grad_kl] if kl else [grad_z])
    return [g for g in grads if g is not None]


library.implement("rsample_vjp", _rsample_vjp)


def _noise(like: Tensor, num_samples: int, key: Tensor) -> Tensor:
    """The standard normal noise that the fused operator drew by `key` for a `mu` of the shape and device of `like`."""
    zero = torch.zeros((), dtype=torch.float32, device=like.device).expand(like.shape)
    with torch.no_grad():
        return library.rsample([zero, zero], key, num_samples, False, 0, None)[0]


def rsample(
    latent: Sequence[Tensor],
    num_samples: int | None = None,
    kl: bool = False,
    batch_dims: int = 1,
    generator: torch.Generator | None = None,
    spreads: tuple[str, ...] = (),
) -> tuple[Tensor, Tensor]:
    """Returns (z, KL) from (mu, spread) or (mu, spread, prior_mu, prior_spread), as one fused operation."""
    samples = -1 if num_samples is None else num_samples
    if has_kernel(latent[0]):
        bits = library.spread_bits(spreads)
        if needs_grad(latent):
            return library.sample_and_kl(latent, samples, kl, batch_dims, generator, bits)
        return library.rsample(latent, None, samples, kl, batch_dims, generator, bits)[:2]
    mu = latent[0]
    shape = mu.shape if num_samples is None else (num_samples, *mu.shape)
    eps = torch.randn(shape, generator=generator, device=mu.device)  # torch.func can batch torch.randn
    sums = reference.latent_kl(latent, batch_dims, spreads) if kl else mu.new_empty(0)
    return reference.reparameterize(mu, latent[1], eps, spreads), sums
