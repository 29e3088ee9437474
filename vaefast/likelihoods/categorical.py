"""The categorical likelihood of labels."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import _checks
from ..ops import cross_entropy, transformed
from ..reference import reduced
from .base import CompositeLikelihood, Likelihood

_LABELS = frozenset({*_checks.INTEGERS, torch.bool})
# F.cross_entropy always ignores one number. This one is no label, and neither -100 nor what a cast of NaN gives.
_NO_LABEL = -(2**61) - 1


def _traced() -> bool:
    """Whether values cannot be looked at, so that a value that is not a label must become NaN."""
    return torch.compiler.is_compiling() or transformed()


class Categorical(CompositeLikelihood):
    """Labels 0 ... C - 1, from logits with one dimension more than x, of the C classes.

    For x of shape (B, T), logits are (B, C, T) by default, as in torch.nn.functional.cross_entropy. With class_dim=-1 they
    are (B, T, C), as a linear layer or a recurrent network returns them. This layout is the faster one. A wrong layout
    raises ValueError, unless T equals C: then the shapes do not tell, so give class_dim.

    A value of x that is not a label raises ValueError on the CPU. On a GPU, and under torch.compile or torch.func, its
    log-probability is NaN.

    Args:
        class_dim: the dimension of the classes in the logits. 1 is the first dimension after the batch, -1 is the last.
        ignore_index: label of elements that add nothing, such as padding: their log-probability and its gradient are 0. If
            None, all labels count, -100 is an error, and padding needs a mask.
        target_scale: see `Likelihood`.

    Example:
        >>> Categorical().log_prob(torch.zeros(1, 4, 3), torch.tensor([[0, 3, 2]]))  # 3 log 1/4
        tensor([-4.1589])
        >>> Categorical(class_dim=-1, ignore_index=0).log_prob(torch.zeros(1, 3, 4), torch.tensor([[1, 3, 0]]))
        tensor([-2.7726])
    """

    parameters_expected = ("logits",)
    mixture = True
    integral = True
    component_dim = property(lambda self: self.class_dim)
    defaults = {"class_dim": 1, "ignore_index": None, **Likelihood.defaults}

    def __init__(self, class_dim: int = 1, ignore_index: int | None = None, target_scale: float = 1.0) -> None:
        super().__init__(target_scale)
        self.class_dim = _checks.integer(f"{self.name}: class_dim", class_dim, -64)  # torch has no more dimensions
        if self.class_dim == 0:
            raise ValueError(
                f"{self.name}: class_dim must be 1 for the first dimension after the batch or -1 for the last, got 0"
            )
        if ignore_index is not None:
            ignore_index = _checks.integer(f"{self.name}: ignore_index, if not None,", ignore_index, -(2**63))
        self.ignore_index = ignore_index

    def log_prob(
        self, recon_x: Any, x: Tensor, *, mask: Tensor | None = None, batch_dims: int = 1, reduction: str = "none"
    ) -> Tensor:
        return -self.cost(recon_x, x, mask=mask, batch_dims=batch_dims, reduction=reduction)

    def cost(
        self, recon_x: Any, x: Tensor, *, mask: Tensor | None = None, batch_dims: int = 1, reduction: str = "none"
    ) -> Tensor:
        """Minus `log_prob`, which spares a loss the two changes of sign."""
        if not _traced() and self.target_scale == 1 and getattr(x, "dtype", None) in _LABELS:
            (logits,) = self.split(recon_x)
            x = _checks.dense(self.name, "x", x)
            batch_dims, at = self.checked(logits, x, reduction, batch_dims)
            kept = _checks.mask(self.name, mask, "x", x)
            if x.device.type == "cpu" and logits.numel() > 0:  # a GPU would abort at a value that is not a label
                if kept is not None:
                    logits, x = self._masked(logits, x, kept.expand(x.shape), at)
                if reduction in ("none", "elementwise"):
                    return reduced(self._cross_entropy(logits, x, at).view(x.shape), reduction, batch_dims)
                total = self._cross_entropy(logits, x, at, "sum")
                return total if reduction == "sum" else total / math.prod(x.shape[:batch_dims])
        return -super().log_prob(recon_x, x, mask=mask, batch_dims=batch_dims, reduction=reduction)

    def _masked(self, logits: Tensor, x: Tensor, kept: Tensor, at: int) -> tuple[Tensor, Tensor]:
        """Logits and labels whose masked elements are ignored, whatever they hold."""
        if not logits.detach().sum().isfinite():  # torch's gradient by an ignored NaN or infinity is NaN
            logits = torch.where(kept.unsqueeze(at), logits, 0.0)
        return logits, torch.where(kept, x.long(), _NO_LABEL if self.ignore_index is None else self.ignore_index)

    def _cross_entropy(self, logits: Tensor, x: Tensor, at: int, reduction: str = "none") -> Tensor:
        """Minus the log-probability of the elements, by torch's function, which also finds values that are not labels."""
        if logits.dtype in (torch.bfloat16, torch.float16):
            logits = logits.float()
        classes, is_last = logits.shape[at], at == logits.dim() - 1
        last = logits if is_last else logits.movedim(at, -1)
        if is_last or last.is_contiguous():
            logits, labels = last.reshape(-1, classes), x.reshape(-1)
        else:
            logits = logits.reshape(math.prod(x.shape[:at]), classes, -1)
            labels = x.reshape(logits.shape[0], -1)
        ignored = _NO_LABEL if self.ignore_index is None else self.ignore_index
        try:
            if reduction == "sum":
                return cross_entropy(logits, labels.long(), ignored)
            return F.cross_entropy(logits, labels.long(), ignore_index=ignored, reduction=reduction)
        except IndexError:
            self._check_labels(x.masked_fill(x == _NO_LABEL, 0), classes)
            raise

    def _known(self, x: Tensor, classes: int) -> Tensor:
        known = (x >= 0) & (x < classes)
        known = known & (x == x.floor()) if x.is_floating_point() else known
        return known if self.ignore_index is None else known | (x == self.ignore_index)

    def _check_labels(self, x: Tensor, classes: int) -> None:
        wrong = x.long() if x.dtype in _LABELS else x
        wrong = wrong[~self._known(wrong, classes)]
        if wrong.numel():
            other = "" if self.ignore_index is None else f", or ignore_index={self.ignore_index}"
            raise ValueError(
                f"{self.name}: x must hold labels, whole numbers from 0 to {classes - 1}{other}, got {wrong[0].item():.10g}"
            ) from None

    def element(self, parameters: Sequence[Tensor], x: Tensor) -> Tensor:
        (logits,) = parameters  # the last dimension is the classes
        classes = logits.shape[-1]
        if x.device.type == "cpu" and not _traced():
            self._check_labels(x, classes)  # on a GPU a check would wait for it
        known = self._known(x, classes)
        ignored = None if self.ignore_index is None else x == self.ignore_index
        labels = torch.where(known if ignored is None else known & ~ignored, x, 0).long()
        value = torch.where(known, logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0], math.nan)
        return value if ignored is None else torch.where(ignored, 0.0, value)

    def advice(self, first: Tensor, x: Tensor, batch_dims: int) -> str:
        if x.dim() == first.dim():
            return (
                "; x must hold labels: for one-hot x write x.argmax(-1) and Categorical(class_dim=-1) if the classes are "
                f"last, or x.argmax({batch_dims}) and Categorical(class_dim=1) if they come after the batch"
            )
        shape, last = tuple(first.shape), first.dim() - 1
        for at in (last, *range(batch_dims, last)):
            if (*shape[:at], *shape[at + 1 :]) == x.shape:
                right = -1 if at == last else at - batch_dims + 1
                return f"; for recon_x of shape {shape} write Categorical(class_dim={right})"
        return ""

    def mean(self, recon_x: Any) -> Tensor:
        """The probabilities of the classes, in the shape of the logits."""
        (logits,) = self.split(recon_x)
        return logits.softmax(self.component_at(logits, 1))

    def sample(self, recon_x: Any, *, generator: torch.Generator | None = None) -> Tensor:
        """One draw of the labels, int64."""
        probs = self.mean(recon_x)
        probs = probs.movedim(self.component_at(probs, 1), -1)
        return torch.multinomial(probs.flatten(0, -2), 1, generator=generator).view(probs.shape[:-1])
