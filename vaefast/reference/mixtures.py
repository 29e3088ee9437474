"""Mixtures: several parameters for each element of the data, one for each component."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .tails import discretized_logistic

MIXTURE = "discretized_logistic_mixture"


def discretized_logistic_mixture(
    logits: Tensor, x: Tensor, mean: Tensor, log_scale: Tensor, grid: Tensor, coupling: Tensor | None = None
) -> Tensor:
    """log p of each pixel, (..., P), from logits (..., M, P), x (..., C, P), mean and log_scale (..., M, C, P).

    All channels of a pixel are of one component. The mean of a channel depends on the channels before it by coupling,
    (..., M, C (C - 1) / 2, P), whose rows are (1, 0), (2, 0), (2, 1), ... (Salimans et al. 2017). `grid` is half a bin's
    width, or (3,): this and the range of the data, which is [0, 1] otherwise."""
    half, least, largest = grid.unbind() if grid.numel() == 3 else (grid, 0.0, 1.0)
    if coupling is not None:
        given, means, row = x - (least + largest) / 2, [mean[..., 0, :]], 0
        for c in range(1, x.shape[-2]):
            of_c = coupling[..., row : row + c, :].tanh()
            means.append(mean[..., c, :] + (of_c * given[..., None, :c, :]).sum(-2))
            row += c
        mean = torch.stack(means, -2)
    mass = discretized_logistic(mean, x[..., None, :, :], log_scale, half, least, largest).sum(-2)
    return (logits.log_softmax(-2) + mass).logsumexp(-2)


def masked_mixture(operands: Sequence[Tensor], mask: Tensor | None) -> Tensor:
    """The mixture, which is 0 where the mask, (..., P), is False, whatever its operands hold there."""
    if mask is None:
        return discretized_logistic_mixture(*operands)
    logits, x, mean, log_scale, grid, *coupling = operands
    by_component = mask[..., None, :]
    logits, x = (torch.where(by_component, t, 0.0) for t in (logits, x))
    mean, log_scale, *coupling = (torch.where(by_component[..., None, :], t, 0.0) for t in (mean, log_scale, *coupling))
    return torch.where(mask, discretized_logistic_mixture(logits, x, mean, log_scale, grid, *coupling), 0.0)
