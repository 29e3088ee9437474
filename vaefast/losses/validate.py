"""The checks of ELBOLoss(validate=True): the values of a call's tensors."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .call import Call


def check_values(function: str, likelihood: Any, recon_x: Any, call: Call, z: Tensor | None) -> None:
    """Raises ValueError for NaN and infinities, a negative beta, and data or probabilities outside their range. Elements
    that the mask leaves out may hold anything."""
    x, mask, beta = call.x, call.options.mask, call.options.beta
    spread, prior_spread = (*(call.options.spreads or ("logvar", "logvar")), "logvar")[:2]
    names = "mu", spread, "prior_mu", f"prior_{prior_spread}"
    others = dict(zip(names, call.latent, strict=False)) | {"z": z, "beta": beta, "weight": call.options.weight}
    parameters = {
        name: _kept(t, mask, likelihood, call.options.batch_dims)
        for name, t in _named(recon_x)
        if isinstance(t, Tensor)
    }
    targets = x if mask is None else torch.where(mask, x, torch.zeros_like(x))
    if not targets.is_floating_point() and targets.dtype is not torch.bool:
        targets = targets.double()  # torch has few functions of the wider unsigned integers
    learned = likelihood.named_parameters() if isinstance(likelihood, nn.Module) else ()
    for name, t in {**parameters, "x": targets, **others, **{f"likelihood.{k}": t for k, t in learned}}.items():
        if isinstance(t, Tensor) and t.is_floating_point() and not torch.isfinite(t).all():
            raise ValueError(f"{function}: {name} holds NaN or infinite values")
    if isinstance(beta, Tensor) and beta.numel() > 0 and (least := beta.min()) < 0:
        raise ValueError(f"{function}: beta must be at least 0, got {least.item():g}")
    if x.numel() == 0:
        return
    kind = type(likelihood).__name__
    if getattr(likelihood, "integral", False) and bool((targets * likelihood.target_scale % 1 != 0).any()):
        raise ValueError(f"{function}: {kind} targets must be whole numbers")
    support = getattr(likelihood, "support", None)
    if support is None:
        return
    _in_range(function, f"{kind} targets", targets, likelihood.target_scale, *support)
    if not getattr(likelihood, "log_parameters", True):
        for name in list(parameters)[: len(likelihood.positive)]:
            _in_range(function, f"{kind} {name}", parameters[name], 1.0, 0.0, float("inf"))
    if getattr(likelihood, "probs", False):
        _in_range(function, "recon_x (probabilities)", parameters["recon_x"], 1.0, 0.0, 1.0)


def _named(recon_x: Any) -> Iterator[tuple[str, Any]]:
    """Yields the decoder's tensors with their names in messages."""
    if isinstance(recon_x, (tuple, list)):
        yield from ((f"recon_x[{k}]", t) for k, t in enumerate(recon_x))
    else:
        yield "recon_x", recon_x


def _kept(t: Tensor, mask: Tensor | None, likelihood: Any, batch_dims: int) -> Tensor:
    """Returns a parameter with 0 where the mask is False."""
    if mask is None:
        return t
    if mask.dim() > 0 and hasattr(likelihood, "mask_of"):
        mask = likelihood.mask_of(mask, t, batch_dims)
    return torch.where(mask, t, torch.zeros_like(t))


def _in_range(function: str, name: str, t: Tensor, scale: float, least: float, most: float) -> None:
    low, high = (bound.item() * scale for bound in t.aminmax())
    if low < least or high > most:
        raise ValueError(f"{function}: {name} must lie in [{least:g}, {most:g}], got values from {low:g} to {high:g}")
