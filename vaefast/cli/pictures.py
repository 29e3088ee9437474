"""Pictures of samples, reconstructions and learning curves, as PNG files."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from torch import Tensor


def _picture(x: Tensor) -> np.ndarray:
    """Returns a sample as an image of shape (H, W), (H, W, 3) or, for D values, (1, D)."""
    array = x.detach().float().cpu().numpy()
    if array.ndim == 1:
        return array[None]
    return array[0] if array.shape[0] not in (3, 4) else array.transpose(1, 2, 0).clip(0, 1)


def grid(rows: Sequence[tuple[str, Tensor]], path: Path, columns: int = 10) -> None:
    """Writes rows of samples, each with a label, on one scale of values."""
    lines = [(label, part) for label, x in rows for part in x.split(columns)]
    values = np.concatenate([_picture(x).ravel() for _, part in lines for x in part])
    figure, axes = plt.subplots(
        len(lines), columns, figsize=(columns * 0.8 + 1, len(lines) * 0.85), squeeze=False, layout="constrained"
    )
    for (label, part), cells in zip(lines, axes, strict=True):
        cells[0].set_ylabel(label, rotation=0, ha="right", va="center")
        for k, cell in enumerate(cells):
            cell.set(xticks=[], yticks=[])
            cell.spines[:].set_visible(False)
            if k < len(part):
                picture = _picture(part[k])
                aspect = "auto" if picture.shape[0] == 1 else "equal"
                cell.imshow(picture, cmap="gray", vmin=values.min(), vmax=values.max(), aspect=aspect)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def tiles(x: Tensor, columns: int, scale: tuple[float, float]) -> bytes:
    """Returns samples side by side as a PNG, with transparent gaps. Data that are not images are drawn as strips."""
    low, high = scale
    cells = []
    for sample in x:
        picture = _picture(sample)
        if sample.dim() == 1:  # at most 64 values, wide and low
            parts = np.array_split(picture[0], min(64, len(picture[0])))
            picture = np.array([[p.mean() for p in parts]]).repeat(512 // len(parts), 1).repeat(10, 0)
        if picture.ndim == 2:
            picture = np.repeat(((picture - low) / max(high - low, 1e-12)).clip(0, 1)[..., None], 3, 2)
        opaque = np.ones((*picture.shape[:2], 4))
        opaque[..., : picture.shape[2]] = picture
        cells.append(opaque)
    height, width = cells[0].shape[:2]
    gap, rows = max(1, min(height * 3, width) // 14), -(-len(cells) // columns)
    page = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 4))
    for k, cell in enumerate(cells):
        top, left = k // columns * (height + gap), k % columns * (width + gap)
        page[top : top + height, left : left + width] = cell
    factor = max(1, 1000 // page.shape[1])  # enlarged, because a browser would blur small pictures
    page = page.repeat(factor, 0).repeat(factor, 1)
    buffer = io.BytesIO()
    Image.fromarray((page * 255).round().astype(np.uint8)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def curves(metrics: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes the learning curves. They show that maximizing the ELBO raises log p(x) and narrows the gap below it."""
    epochs = [m["epoch"] for m in metrics]

    def series(name: str) -> list[float]:
        return [m[name] for m in metrics]

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    left.fill_between(epochs, series("test_elbo"), series("test_log_px"), alpha=0.2, label="gap: KL(q(z|x) || p(z|x))")
    left.plot(epochs, series("test_log_px"), label="log p(x), importance-sampled")
    left.plot(epochs, series("test_elbo"), label="ELBO")
    left.plot(epochs, series("train_bound"), ":", color="gray", label="bound, training set")
    left.set(xlabel="epoch", ylabel="nats per sample", title="Test set: the bound and what it bounds")
    left.legend(loc="lower right")
    right.plot(epochs, series("test_log_likelihood"), color="C2", label="E[log p(x|z)]")
    right.set(xlabel="epoch", ylabel="log-likelihood, nats", title="The ELBO's two parts")
    other = right.twinx()
    other.plot(epochs, series("test_kl"), color="C3", label="KL(q(z|x) || p(z))")
    other.set_ylabel("KL, nats")
    handles = [*right.get_lines(), *other.get_lines()]
    right.legend(handles, [str(h.get_label()) for h in handles], loc="center right")
    figure.savefig(path, dpi=150)
    plt.close(figure)
