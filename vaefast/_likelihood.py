"""What a likelihood is."""

from typing import Any

import torch
from torch import Tensor, nn

from . import _checks


class Likelihood(nn.Module):
    """p(x|z): knows the meaning of a decoder's output. What ELBOLoss and VAE ask of a likelihood; an object of any class
    that has these three methods will do.

    Args:
        target_scale: what x is multiplied by; 1 / 255 reads uint8 images as they are.
    """

    fused = False  # whether log_prob is the kernels' `term` of `operands`
    numbers: tuple[float, ...] | None = None  # where `operands` are recon_x and x as they come: the others, numbers
    probs = False  # whether recon_x are probabilities
    mixture = False  # whether the parameters have a dimension of their own after the batch
    support: tuple[float, float] | None = None  # of x after target_scale, where it is bounded
    integral = False  # whether x is made of whole numbers
    defaults: dict[str, Any] = {"target_scale": 1.0}  # of the options; repr shows those with another value

    def __init__(self, target_scale: float = 1.0) -> None:
        super().__init__()
        self.name = f"vaefast.likelihoods.{type(self).__name__}"
        self.target_scale = float(_checks.number(self.name, "target_scale", target_scale))

    def extra_repr(self) -> str:
        values = {name: getattr(self, name, default) for name, default in self.defaults.items()}
        return ", ".join(f"{name}={value!r}" for name, value in values.items() if value != self.defaults[name])

    def log_prob(
        self, recon_x: Any, x: Tensor, *, mask: Tensor | None = None, batch_dims: int = 1, reduction: str = "none"
    ) -> Tensor:
        """log p(x) of shape (B,) in nats, for the decoder's output `recon_x`."""
        raise NotImplementedError

    def mean(self, recon_x: Any) -> Tensor:
        """E[x], on the scale that x has after target_scale."""
        raise NotImplementedError

    def sample(self, recon_x: Any, *, generator: torch.Generator | None = None) -> Tensor:
        """One draw of x, on the scale that x has after target_scale; counts and points of a grid are at least float32."""
        raise NotImplementedError
