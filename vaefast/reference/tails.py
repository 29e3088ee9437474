"""The terms of data with heavy tails, and of data on a grid by the logistic distribution, from a location and a scale."""

import math

import torch
from torch import Tensor

from .formulas import LOG_2PI, log_sigmoid, standardized, term


def _bounded(t: Tensor) -> Tensor:
    """A difference or a logarithm that may be infinite, as a number that makes no inf - inf and no 0 * inf."""
    return torch.where(t.abs() > 1e37, 1e37 * t.sign().detach(), t)  # unlike clamp's, its gradient keeps NaN


@term
def log_normal(mean: Tensor, x: Tensor, log_scale: Tensor) -> Tensor:
    outside = x <= 0
    mean, log_scale = (torch.where(outside, 0.0, t) for t in (mean, log_scale))
    log_x = torch.where(outside, 1.0, x).log()
    value = -(log_x + log_scale + 0.5 * LOG_2PI + 0.5 * standardized(_bounded(log_x - mean), 2 * log_scale) ** 2)
    return torch.where(outside, -math.inf, value)


@term
def student_t(mean: Tensor, x: Tensor, log_scale: Tensor, df: Tensor) -> Tensor:
    difference, log_scale = _bounded(x - mean), _bounded(log_scale)
    log_size = torch.where(difference == 0, 1.0, difference).abs().log() - log_scale
    far = (log_size > 17) & (difference != 0)  # there z^2 is as good as df + z^2
    z = torch.where(far, 1.0, difference) * torch.exp(-torch.where(far | (difference == 0), 0.0, log_scale))
    log_sum = torch.where(far, 2 * log_size - df.log(), torch.log1p(z * z / df))
    wide = df.double()  # a difference of large numbers
    constant = torch.lgamma((wide + 1) / 2) - torch.lgamma(wide / 2) - 0.5 * (math.pi * wide).log()
    return constant.to(df.dtype) - log_scale - 0.5 * (df + 1) * log_sum


@term
def discretized_logistic(
    mean: Tensor, x: Tensor, log_scale: Tensor, half: Tensor, least: float | Tensor = 0.0, largest: float | Tensor = 1.0
) -> Tensor:
    """log(sigmoid(high) - sigmoid(low)) = log sigmoid(high) + log sigmoid(-low) + log(1 - exp(low - high)). The right side
    has no cancellation. An outer bin, of the least and of the largest datum, has no `high`, or no `low`."""
    log_scale = torch.where(log_scale < -80, -80.0, log_scale)  # below, 1 / scale would overflow float32
    precision = torch.exp(-log_scale)
    difference = _bounded(x - mean)
    low, high = (difference - half) * precision, (difference + half) * precision
    y = 2 * half * precision
    narrow = y < 1e-4
    far = torch.log(-torch.expm1(-torch.where(narrow, 1.0, y)))
    width = torch.where(narrow, (2 * half).log() - log_scale - y / 2 + y * y / 24, far)
    first = x <= least + half
    last = (x >= largest - half) & ~first
    inside = ~(first | last)
    return (
        torch.where(last, 0.0, log_sigmoid(high))
        + torch.where(first, 0.0, log_sigmoid(-low))
        + torch.where(inside, width, 0.0)
    )
