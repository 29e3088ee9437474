"""Numbers of which ranges of inputs are made, in float32."""

import math

import torch
from torch import Tensor


def spread(n: int, g: torch.Generator, low: float, high: float) -> Tensor:
    """Numbers of either sign whose magnitudes are log-uniform."""
    exponent = torch.empty(n).uniform_(math.log(low), math.log(high), generator=g)
    return torch.exp(exponent) * torch.randint(0, 2, (n,), generator=g).mul(2).sub(1)


def normal(n: int, g: torch.Generator, scale: float) -> Tensor:
    return torch.randn(n, generator=g) * scale
