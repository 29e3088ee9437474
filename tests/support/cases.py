"""Dtypes, shapes and layouts that tests share, and the inputs of losses. The operands of terms are in tests/support/terms."""

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

# Half a unit in the last place of the result's type, times the few roundings of a term and its row sum.
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-13}


# (B, D): the smallest; the tails of every vector width; several rows to a tile; one row just under, at and over a tile
# of 1024; many tiles to a row, and more than a warp adds; the shapes of pytorch/examples; no rows, no columns, no dimensions; more dimensions.
SHAPES = (
    (1, 1), (3, 5), (2, 17), (128, 20), (300, 3), (2, 1023), (3, 1024), (2, 1025), (2, 9000), (2, 40001), (128, 784),
    (0, 7), (4, 0), (), (5,), (4, 3, 8, 8), (2, 1, 5),
)  # fmt: skip


def layouts(t: Tensor) -> dict[str, Tensor]:
    """The same values behind other strides."""
    out = {"contiguous": t.contiguous()}
    if t.dim() >= 1:
        wide = torch.cat([t, t], -1)
        out["chunk"] = wide.chunk(2, -1)[1]
        out["column stride"] = torch.stack([t, t], -1)[..., 0]
        out["misaligned"] = torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape)
    if t.dim() >= 2:
        out["transposed"] = t.transpose(0, -1).contiguous().transpose(0, -1)
    if t.dim() == 4:
        out["channels last"] = t.contiguous(memory_format=torch.channels_last)
    return out


LOSS_SHAPES = [((128, 784), (128, 20)), ((7, 1, 8, 8), (7, 4)), ((33, 3, 10, 10), (33, 2, 5, 5))]


def loss_inputs(
    data_shape: tuple[int, ...], latent_shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """Logits, data, mu and logvar."""
    logits, x = torch.randn(data_shape, dtype=dtype), torch.rand(data_shape, dtype=dtype)
    return [logits, x, torch.randn(latent_shape, dtype=dtype), torch.randn(latent_shape, dtype=dtype)]
