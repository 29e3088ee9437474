"""The sections of a run's report as HTML."""

import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vaefast
from vaefast import VAE, functional
from vaefast.data import Dataset

from .. import pictures
from ..config import Config
from . import figures, html
from .measure import CODED, Measured

_SHOWN = 30  # reconstructions, at most


def curves(metrics: list[dict[str, Any]]) -> str:
    if not metrics:
        return html.section("curves", "Training", html.paragraph("The run's metrics.jsonl holds no epochs."))
    names = ("epoch", "train_bound", "test_elbo", "test_log_px", "test_kl", "test_log_likelihood")
    series = {name: [float(row[name]) for row in metrics] for name in names}
    epochs = [int(e) for e in series["epoch"]]
    best = int(np.nanargmax(series["test_elbo"]))
    gap = [a - b for a, b in zip(series["test_log_px"], series["test_elbo"], strict=True)]
    bound, log_px = series["test_elbo"], series["test_log_px"]
    drawn = (
        (
            {
                "log p(x), test": (log_px, figures.GREEN, "-"),
                "ELBO, test": (bound, figures.BLUE, "-"),
                "bound, training": (series["train_bound"], figures.ORANGE, "--"),
            },
            "The bound and what it bounds",
            "Training raises the bound: look for a test curve that has become flat; if it falls while the training curve "
            f"rises, the model overfits (the best test ELBO, {bound[best]:.2f}, is that of epoch {epochs[best]}).",
        ),
        (
            {"E[log p(x|z)], test": (series["test_log_likelihood"], figures.BLUE, "-")},
            "Log-likelihood",
            "The first part of the ELBO, how well the decoder explains the test data from their codes: look for a rise.",
        ),
        (
            {"KL(q(z|x) || p(z)), test": (series["test_kl"], figures.RED, "-")},
            "KL",
            "The part that the ELBO subtracts, how much the codes tell about the data: it often rises first and then "
            "settles, and near 0 the codes are empty (posterior collapse).",
        ),
        (
            {"log p(x) - ELBO, test": (gap, figures.GREEN, "-")},
            "Gap",
            "How far the encoder's q(z|x) is from the true posterior, estimated as log p(x) - ELBO: small is good, and a "
            "growing gap means that the encoder falls behind the decoder.",
        ),
    )
    shown = [html.figure(figures.lines(title, epochs, lines), title, words) for lines, title, words in drawn]
    return html.section("curves", "Training", html.figures(shown))


def samples(vae: VAE, dataset: Dataset, seen: Measured) -> list[str]:
    device = next(vae.parameters()).device
    test = Dataset.floats(dataset.test[:CODED])
    columns, shown, drawn, scale = 10, _SHOWN, 60, (float(test.min()), float(test.max()))
    if test.dim() == 2:  # rows of values, which may contain outliers
        low, high = np.quantile(test[:500].numpy(), (0.01, 0.99))
        columns, shown, drawn, scale = 1, 12, 12, (float(low), float(high))
    columns = min(columns, len(test))
    x = test[: min(shown, len(test)) // columns * columns]
    made = vae.reconstruct(x.to(device)).cpu()
    pairs = torch.cat([t for both in zip(x.split(columns), made.split(columns), strict=True) for t in both])
    reconstructions = html.figure(
        pictures.tiles(pairs, columns, scale),
        "test samples above their reconstructions",
        "Test samples in the odd rows and, below each, its reconstruction E[x|z] at the mean of q(z|x): look for what is "
        "lost, most often fine detail and rare shapes.",
        wide=False,
    )
    generator = torch.Generator(device).manual_seed(0)
    sampled = vae.sample(drawn, generator=generator).cpu()
    samples = (
        html.figure(
            pictures.tiles(sampled, columns, scale),
            "samples of the model",
            "Samples of the model, E[x|z] for z drawn from the prior: they should look like the data and differ from each "
            "other.",
        ),
        html.figure(
            pictures.tiles(test[:drawn], columns, scale),
            "the data",
            "The test data, for comparison: look for kinds of data that are missing among the samples.",
        ),
    )
    return [
        html.section("reconstructions", "Reconstructions", reconstructions),
        html.section("samples", "Samples", html.figures(samples)),
        html.section("traversals", "Latent traversals", *_traversals(vae, seen, scale)),
    ]


def _traversals(vae: VAE, seen: Measured, scale: tuple[float, float]) -> list[str]:
    device = next(vae.parameters()).device
    order = seen.dimension_kl.argsort(descending=True).tolist()
    steps = torch.linspace(-3, 3, 11)
    rows, flat = [], False
    for dimension in order[:10]:
        z = seen.mu[:1].repeat(len(steps), 1)
        z[:, dimension] = steps
        made = vae.likelihood.mean(vae.decode(z.to(device))).cpu()
        flat = made.dim() == 2  # rows of values: the steps are drawn below each other
        rows.append((f"z{dimension}", pictures.tiles(made, 1 if flat else len(steps), scale)))
    way = "from the top of each picture to its bottom" if flat else "in each row"
    parts = [
        html.figure_rows(
            rows[:5] if flat else rows,
            f"One dimension of a test sample's code moves from -3 to 3 {way} and the others stay, with the largest KL "
            "first: look for dimensions that change one thing at a time, and for unused ones that change nothing.",
        )
    ]
    if seen.mu.shape[1] == 2 and not flat:
        quantiles = torch.special.ndtri(torch.linspace(0.03, 0.97, 12))
        plane = torch.cartesian_prod(quantiles.flip(0), quantiles).flip(1)
        made = vae.likelihood.mean(vae.decode(plane.to(device))).cpu()
        parts.append(
            html.figure(
                pictures.tiles(made, 12, scale),
                "the plane of codes, decoded",
                "The whole plane of codes, decoded at equal steps of the prior's probability, z0 from left to right and "
                "z1 from bottom to top: look for kinds that turn into each other smoothly.",
                wide=False,
            )
        )
    return parts


def codes(dataset: Dataset, seen: Measured, classes: np.ndarray | None, names: list[str]) -> str:
    size = seen.mu.shape[1]
    if size == 1:
        drawn = figures.histogram(seen.mu[:, 0].numpy(), "", "z0, mean of q(z|x)")
        caption = (
            "How the means of q(z|x) spread over the one latent dimension: the prior expects most between -2 and 2."
        )
        return html.section("codes", "Map of the codes", html.figure(drawn, "histogram of codes", caption, wide=False))
    what, axes, points = "The means of q(z|x)", ("z0", "z1"), seen.mu
    if size > 2:
        centered = seen.mu.double() - seen.mu.double().mean(0)
        directions, sizes, _ = torch.linalg.svd(centered.T @ centered)
        share = sizes[:2].sum() / sizes.sum().clamp_min(1e-300)
        what = f"The means of q(z|x) in their two main directions, which hold {share:.0%} of their variance"
        axes, points = ("first direction", "second direction"), centered @ directions[:, :2]
    if classes is None:
        caption = (
            f"{what}, colored by how many lie nearby: look for clusters, and for holes, where samples would look wrong."
        )
    else:
        caption = f"{what}, colored by the data's labels, which training did not use: look for labels that lie apart."
    drawn = figures.codes(points.float().numpy(), classes, names, axes)
    return html.section("codes", "Map of the codes", html.figure(drawn, "map of codes", caption, wide=False))


def dimensions(seen: Measured) -> str:
    kl, active = seen.dimension_kl, functional.active_units(seen.mu)
    order = kl.argsort(descending=True).tolist()
    drawn = figures.bars([float(kl[k]) for k in order], [bool(active[k]) for k in order], [f"z{k}" for k in order])
    caption = (
        f"How much each dimension tells about the data on average; {int(active.sum())} of {len(kl)} are active, which "
        "means that the variance of their mean over the data exceeds 0.01: the model does not need the others."
    )
    return html.section(
        "dimensions", "KL of each dimension", html.figure(drawn, "KL per dimension", caption, wide=False)
    )


def bounds(seen: Measured, num_samples: int) -> list[str]:
    elbo, log_px, ess = (t.double().numpy() for t in (seen.elbo, seen.log_px, seen.ess))
    gap = log_px - elbo
    few = int((ess < 0.02 * num_samples).sum())
    bounds = (
        html.figure(
            figures.against(elbo, log_px),
            "ELBO against log p(x)",
            f"Each test sample's log p(x), from {num_samples} importance samples, over its ELBO: the height above the line "
            "is the gap, and samples at the lower left are unlikely under the model.",
        ),
        html.figure(
            figures.histogram(gap, "Gap, log p(x) - ELBO", "nats"),
            "histogram of gaps",
            f"The gaps, {gap.mean():.2f} nats on average: a better encoder could win this much; in a long tail to the "
            "right are samples whose posterior the encoder misses.",
        ),
    )
    trust = html.figure(
        figures.histogram(ess, "", f"of {num_samples} importance samples", (0, num_samples)),
        "histogram of effective sample sizes",
        f"How many of the {num_samples} importance samples carry each estimate of log p(x): for {few} of {len(ess)} it is "
        "fewer than 2%, and if that is many, log p(x) is underestimated and needs more importance samples.",
        wide=False,
    )
    return [
        html.section("bounds", "ELBO and log p(x)", html.figures(bounds)),
        html.section("ess", "Effective sample size", trust),
    ]


def card(run: Path, config: Config, vae: VAE, dataset: Dataset, named: list[str], seconds: float) -> str:
    def parameters(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    record = json.loads((run / "config.json").read_text())
    x = dataset.samples if dataset.samples.dtype is torch.uint8 else dataset.samples.float()
    model = {
        "parameters": f"{parameters(vae):,} (encoder {parameters(vae.encoder):,}, decoder {parameters(vae.decoder):,})",
        "sample shape": dataset.sample_shape,
        "latent shape": vae.latent_shape,
        "likelihood": f"{config.likelihood}: {vae.likelihood!r}",
        "prior": "standard normal",
    }
    about = {
        "data": config.data if len(dataset.train) else f"{config.data}; measured on {dataset.name}",
        "samples": f"{len(dataset.train):,} to train on, {len(dataset.test):,} held out"
        if len(dataset.train)
        else len(dataset.test),
        "type": dataset.samples.dtype,
        "values": f"from {float(x.min()):g} to {float(x.max()):g}, mean {float(x.float().mean()):.4g}",
        "labels": ", ".join(named) if named else "none",
    }
    versions = {
        "trained with": f"vaefast {record.get('vaefast', 'unknown')}",
        "training time": f"{seconds:,.1f} s",
        "this page": f"vaefast {vaefast.__version__}, torch {torch.__version__}, numpy {np.__version__}, "
        f"Python {platform.python_version()}",
        "on": f"{next(vae.parameters()).device}, {vaefast.cpu_isa()}, {torch.get_num_threads()} threads, "
        f"{platform.platform()}",
    }
    settings = {name: ", ".join(map(str, v)) if isinstance(v, tuple) else v for name, v in asdict(config).items()}
    tables = [
        html.table("Model", model.items()),
        html.table("Data", about.items()),
        html.table("Settings", settings.items()),
        html.table("Versions", versions.items()),
    ]
    layers = html.code(f"encoder: {vae.encoder}\n\ndecoder: {vae.decoder}", "The layers")
    return html.section("card", "Model and data", html.figures(tables), layers)
