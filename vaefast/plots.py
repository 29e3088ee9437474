"""The pictures of a run: reconstructions, samples and curves as files, and the figures of its report as SVG and PNG."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

# The colors of a report's figures are variables, set for a light and for a dark page: what stands here is replaced.
INK, SOFT, BLUE, ORANGE, GREEN, RED = "#010203", "#040506", "#070809", "#0a0b0c", "#0d0e0f", "#101112"
_COLORS = {  # on a light page, on a dark one
    INK: ("#24292f", "#d8dee4"),
    SOFT: ("#d0d5db", "#3d444d"),
    BLUE: ("#1f6feb", "#6cb6ff"),
    ORANGE: ("#c2570c", "#f0a35e"),
    GREEN: ("#1a7f37", "#6bc46d"),
    RED: ("#cf222e", "#f47067"),
}
_STYLE: Any = {
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "grid.color": SOFT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "text.color": INK,
    "xtick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.color": SOFT,
    "ytick.labelcolor": INK,
    "svg.hashsalt": "vaefast",  # the same run, the same bytes
}


def _picture(x: Tensor) -> np.ndarray:
    """One sample as an image: (H, W), (H, W, 3), or a row of D values."""
    array = x.detach().float().cpu().numpy()
    if array.ndim == 1:
        return array[None]
    return array[0] if array.shape[0] not in (3, 4) else array.transpose(1, 2, 0).clip(0, 1)


def grid(rows: Sequence[tuple[str, Tensor]], path: Path, columns: int = 10) -> None:
    """Rows of samples, each with a label, on one scale."""
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


def curves(metrics: Sequence[dict[str, Any]], path: Path) -> None:
    """The two things that maximizing the ELBO does: it raises log p(x), and narrows the gap below it."""
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


class Svg:
    """A figure being drawn; `data` holds it once it is done."""

    axes: Axes
    data: bytes


@contextmanager
def _svg(width: float = 5.2, height: float = 3.1) -> Iterator[Svg]:
    """A figure on a transparent ground, in colors that follow the page's."""
    drawn = Svg()
    with matplotlib.rc_context(_STYLE):
        figure, drawn.axes = plt.subplots(figsize=(width, height), layout="constrained")
        try:
            yield drawn
            buffer = io.BytesIO()
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        finally:
            plt.close(figure)
    text = buffer.getvalue().decode()
    text = text[text.index("<svg") :]
    for k, color in enumerate(_COLORS):
        text = text.replace(color, f"var(--c{k})")
    light, dark = ("".join(f"--c{k}:{pair[i]};" for k, pair in enumerate(_COLORS.values())) for i in (0, 1))
    style = f"<style>svg{{{light}}}@media (prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"
    drawn.data = re.sub(r"<svg[^>]*>", lambda tag: tag.group() + style, text, count=1).encode()


def lines(title: str, epochs: Sequence[int], series: Mapping[str, tuple[Sequence[float], str, str]]) -> bytes:
    """Curves over the epochs, in nats: by label, values, color and line style. The first epochs leave the frame where the
    others would be flat in it."""
    with _svg() as svg:
        for label, (values, color, style) in series.items():
            svg.axes.plot(epochs, values, style, color=color, label=label, marker="." if len(epochs) < 3 else None)
        every = np.array([values for values, _, _ in series.values()])
        settled = every[:, len(epochs) // 10 :]
        framed = settled if np.ptp(every) > 3 * np.ptp(settled) else every
        margin = 0.06 * np.ptp(framed) or 1.0
        limits = framed.min() - margin, framed.max() + margin
        svg.axes.set(title=title, xlabel="epoch", ylabel="nats per sample", ylim=limits)
        svg.axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(series) > 1:
            svg.axes.legend(loc="lower right")
    return svg.data


def bars(values: Sequence[float], marked: Sequence[bool], names: Sequence[str]) -> bytes:
    """The KL of each dimension; the marked ones are in use."""
    with _svg() as svg:
        looks: Any = (
            (True, "active", {"color": BLUE}),
            (False, "not active", {"facecolor": "none", "edgecolor": ORANGE, "hatch": "/////"}),
        )
        for which, label, look in looks:
            at = [k for k, m in enumerate(marked) if bool(m) is which]
            if at:
                svg.axes.bar(at, [values[k] for k in at], label=label, **look)
        svg.axes.set(xlabel="latent dimension", ylabel="KL, nats", ylim=(0, 1.25 * max(values) or 1.0))
        svg.axes.grid(axis="x", visible=False)
        step = -(-len(names) // 16)
        svg.axes.set_xticks(range(0, len(names), step), names[::step], fontsize=8)
        svg.axes.legend(loc="upper right")
    return svg.data


def against(elbo: np.ndarray, log_px: np.ndarray) -> bytes:
    """One point per sample; the distance above the line is its gap."""
    with _svg() as svg:
        ends = [min(elbo.min(), log_px.min()), max(elbo.max(), log_px.max())]
        svg.axes.plot(ends, ends, color=INK, linewidth=0.8, label="no gap")
        svg.axes.scatter(elbo, log_px, s=9, color=BLUE, alpha=0.6, linewidths=0, rasterized=len(elbo) > 1000)
        svg.axes.set(xlabel="ELBO, nats", ylabel="log p(x), nats", title="Each test sample")
        svg.axes.legend(loc="upper left")
    return svg.data


def histogram(values: np.ndarray, title: str, xlabel: str, limits: tuple[float, float] | None = None) -> bytes:
    with _svg() as svg:
        low, high = limits or (float(values.min()), float(values.max()))
        ends = (low, high) if low < high else (low - 0.5, high + 0.5)
        svg.axes.hist(values, bins=40, range=ends, color=BLUE)
        svg.axes.axvline(float(np.median(values)), color=ORANGE, label=f"median {np.median(values):.3g}")
        svg.axes.set(title=title, xlabel=xlabel, ylabel="test samples")
        svg.axes.legend()
    return svg.data


def codes(points: np.ndarray, labels: np.ndarray | None, names: Sequence[str], axes: tuple[str, str]) -> bytes:
    """Points of a plane, (N, 2), in the colors of their labels (indices into names) or of how many lie around them."""
    with _svg(6.4, 5.4) as svg:
        x, y = points.T
        dot: Any = {"s": 12, "linewidths": 0, "rasterized": len(points) > 1000}
        if labels is None:
            bins = int(np.clip(len(points) ** 0.5 / 2, 4, 24))
            counts, *edges = np.histogram2d(x, y, bins)
            row, column = (
                np.clip(np.searchsorted(e, p, "right") - 1, 0, bins - 1) for e, p in zip(edges, (x, y), strict=True)
            )
            colors = LinearSegmentedColormap.from_list("density", ["#5b8dd9", "#b06fc9", "#e8743b"])  # on either page
            shown = svg.axes.scatter(x, y, c=counts[row, column], cmap=colors, **dot)
            svg.axes.figure.colorbar(shown, ax=svg.axes, label="codes nearby", ticks=MaxNLocator(integer=True))
        else:
            palette = plt.get_cmap("tab10" if len(names) <= 10 else "tab20")
            svg.axes.scatter(x, y, color=palette(labels), **dot)
            for k, name in enumerate(names):
                if (labels == k).any():
                    ground = {"boxstyle": "round,pad=0.2", "facecolor": palette(k), "edgecolor": "none"}
                    center = np.median(points[labels == k], 0)
                    text = svg.axes.text(center[0], center[1], name[:12], color="white", weight="bold", bbox=ground)
                    text.set(ha="center", va="center", parse_math=False)
        svg.axes.set(xlabel=axes[0], ylabel=axes[1])
        svg.axes.set_aspect("equal", "datalim")
    return svg.data


def tiles(x: Tensor, columns: int, scale: tuple[float, float]) -> bytes:
    """Samples side by side as a PNG, transparent between them; what is no image is a strip of its values."""
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
    factor = max(1, 1000 // page.shape[1])  # a browser would blur small ones
    page = page.repeat(factor, 0).repeat(factor, 1)
    buffer = io.BytesIO()
    Image.fromarray((page * 255).round().astype(np.uint8)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
