"""The reduction of the samples' losses."""

from torch import Tensor

from ..reference import reduced


def reduce(loss: Tensor, weight: Tensor | None, reduction: str, batch_dims: int = 1) -> Tensor:
    """Multiplies losses of shape (B,) by the samples' weights. Then "sum" adds them, "mean" averages them, and "none"
    leaves them as they are."""
    return reduced(loss if weight is None else weight.to(loss.dtype) * loss, reduction, batch_dims)
