"""The figures of a run's report, as SVG."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator

# Placeholders for the colors of figures. They are replaced by CSS variables, which differ between light and dark pages.
INK, SOFT, BLUE, ORANGE, GREEN, RED = "#010203", "#040506", "#070809", "#0a0b0c", "#0d0e0f", "#101112"
_COLORS = {  # the color on a light page, and on a dark page
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
    "svg.hashsalt": "vaefast",  # the same run gives the same bytes
}


class Svg:
    """A figure that is being drawn. `data` holds the SVG once it is done."""

    axes: Axes
    data: bytes


@contextmanager
def _svg(width: float = 5.2, height: float = 3.1) -> Iterator[Svg]:
    """Yields a figure to draw in. It becomes an SVG with a transparent background and the page's light or dark colors."""
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
    """Draws curves over the epochs, in nats. `series` maps a label to values, color and line style.

    If the first epochs would make the others look flat, the frame leaves them out."""
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
    """Draws the KL of each dimension. `marked` tells which dimensions are active."""
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
    """Draws log p(x) over the ELBO, one point per sample. Its distance above the line is the gap."""
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
    """Draws points of shape (N, 2), colored by label (an index into `names`), or by density if there are no labels."""
    with _svg(6.4, 5.4) as svg:
        x, y = points.T
        dot: Any = {"s": 12, "linewidths": 0, "rasterized": len(points) > 1000}
        if labels is None:
            bins = int(np.clip(len(points) ** 0.5 / 2, 4, 24))
            counts, *edges = np.histogram2d(x, y, bins)
            row, column = (
                np.clip(np.searchsorted(e, p, "right") - 1, 0, bins - 1) for e, p in zip(edges, (x, y), strict=True)
            )
            colors = LinearSegmentedColormap.from_list("density", ["#5b8dd9", "#b06fc9", "#e8743b"])  # for both pages
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
