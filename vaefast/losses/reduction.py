"""What happens to the losses of a batch's samples."""

from torch import Tensor


def reduce(loss: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    """Losses of shape (B,), times the samples' weights, as "none" leaves them, "sum" adds them or "mean" averages them."""
    if weight is not None:
        loss = weight.to(loss.dtype) * loss
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.mean()
