"""The reduction of the samples' losses."""

from torch import Tensor


def reduce(loss: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    """Multiplies losses of shape (B,) by the samples' weights. Then "sum" adds them, "mean" averages them, and "none"
    leaves them as they are."""
    if weight is not None:
        loss = weight.to(loss.dtype) * loss
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.mean()
