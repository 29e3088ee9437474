"""The categorical likelihood of labels."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..ops import transformed
from .base import CompositeLikelihood


class Categorical(CompositeLikelihood):
    """Labels 0 ... C - 1, from logits of shape (B, C, D) for x of shape (B, D). The dimension of the classes comes after
    the batch, as in torch.nn.functional.cross_entropy.

    A value of x that is not a label raises ValueError on the CPU. On a GPU, and under torch.compile or torch.func, its
    log-probability is NaN.

    Args:
        target_scale: see `Likelihood`.

    Example:
        >>> Categorical().log_prob(torch.zeros(1, 4, 3), torch.tensor([[0, 3, 2]]))  # 3 log 1/4
        tensor([-4.1589])
    """

    parameters_expected = ("logits",)
    mixture = True
    integral = True

    def element(self, parameters: Sequence[Tensor], x: Tensor) -> Tensor:
        (logits,) = parameters
        known = (x >= 0) & (x < logits.shape[-1]) & (x == x.floor())
        if x.device.type == "cpu" and not torch.compiler.is_compiling() and not transformed() and not known.all():
            raise ValueError(f"{self.name}: x must hold labels, whole numbers from 0 to {logits.shape[-1] - 1}")
        labels = torch.where(known, x, 0).long()  # a check on a GPU would wait for it
        return torch.where(known, logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0], math.nan)

    def mean(self, recon_x: Any) -> Tensor:
        """The probabilities of the classes, in the shape of the logits."""
        return self.split(recon_x)[0].softmax(1)

    def sample(self, recon_x: Any, *, generator: torch.Generator | None = None) -> Tensor:
        """One draw of the labels, int64."""
        probs = self.mean(recon_x).movedim(1, -1)
        return torch.multinomial(probs.flatten(0, -2), 1, generator=generator).view(probs.shape[:-1])
