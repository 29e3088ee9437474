"""`vaefast report`: one page about a run, from what its folder holds and what its model says of the test set."""

import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import __version__, _ops, functional, options, page, plots
from .data import Dataset
from .examine import CODED, Measured, labels_of_test, measure
from .model import VAE
from .runs import Config, RunError

_SHOWN = 30  # reconstructions


def _curves(metrics: list[dict[str, Any]]) -> str:
    if not metrics:
        return page.section("curves", "Training", page.paragraph("The run's metrics.jsonl holds no epochs."))
    try:
        series = {
            name: [float(row[name]) for row in metrics]
            for name in ("epoch", "train_bound", "test_elbo", "test_log_px", "test_kl", "test_log_likelihood")
        }
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"metrics.jsonl: damaged ({type(error).__name__}: {error})") from None
    epochs = [int(e) for e in series["epoch"]]
    best = int(np.nanargmax(series["test_elbo"]))
    gap = [a - b for a, b in zip(series["test_log_px"], series["test_elbo"], strict=True)]
    bound, log_px = series["test_elbo"], series["test_log_px"]
    drawn = (
        (
            {
                "log p(x), test": (log_px, plots.GREEN, "-"),
                "ELBO, test": (bound, plots.BLUE, "-"),
                "bound, training": (series["train_bound"], plots.ORANGE, "--"),
            },
            "The bound and what it bounds",
            "Training raises the bound: look for a test curve that has flattened; one that falls while the training curve "
            f"rises is overfitting (the best test ELBO, {bound[best]:.2f}, is that of epoch {epochs[best]}).",
        ),
        (
            {"E[log p(x|z)], test": (series["test_log_likelihood"], plots.BLUE, "-")},
            "Log-likelihood",
            "How well the decoder explains the test data by its codes, the first of the ELBO's two parts: look for a rise.",
        ),
        (
            {"KL(q(z|x) || p(z)), test": (series["test_kl"], plots.RED, "-")},
            "KL",
            "How much the codes say about the data, the part that the ELBO subtracts: near 0 the codes are empty "
            "(posterior collapse), and usually it rises first and then settles.",
        ),
        (
            {"log p(x) - ELBO, test": (gap, plots.GREEN, "-")},
            "Gap",
            "How far the encoder's q(z|x) is from the true posterior, estimated as log p(x) - ELBO: the smaller the "
            "better, and a growing gap means that the encoder falls behind the decoder.",
        ),
    )
    figures = [page.figure(plots.lines(title, epochs, lines), title, words) for lines, title, words in drawn]
    return page.section("curves", "Training", page.figures(figures))


def _pictures(vae: VAE, dataset: Dataset, seen: Measured) -> list[str]:
    device = next(vae.parameters()).device
    test = Dataset.floats(dataset.test[:CODED])
    columns, shown, drawn, scale = 10, _SHOWN, 60, (float(test.min()), float(test.max()))
    if test.dim() == 2:  # rows of values, of which a few may be far from all others
        low, high = np.quantile(test[:500].numpy(), (0.01, 0.99))
        columns, shown, drawn, scale = 1, 12, 12, (float(low), float(high))
    columns = min(columns, len(test))
    x = test[: min(shown, len(test)) // columns * columns]
    made = vae.reconstruct(x.to(device)).cpu()
    pairs = torch.cat([t for both in zip(x.split(columns), made.split(columns), strict=True) for t in both])
    reconstructions = page.figure(
        plots.tiles(pairs, columns, scale),
        "test samples above their reconstructions",
        "Test samples in the odd rows and, beneath each, what the model makes of it, E[x|z] at the mean of q(z|x): look "
        "for what is lost, most often fine detail and rare shapes.",
        wide=False,
    )
    generator = torch.Generator(device).manual_seed(0)
    sampled = vae.sample(drawn, generator=generator).cpu()
    samples = (
        page.figure(
            plots.tiles(sampled, columns, scale),
            "samples of the model",
            "Samples of the model, E[x|z] for z drawn from the prior: they should look like the data and differ from each "
            "other.",
        ),
        page.figure(
            plots.tiles(test[:drawn], columns, scale),
            "the data",
            "The test data, to compare with: look for kinds of it that are missing among the samples.",
        ),
    )
    return [
        page.section("reconstructions", "Reconstructions", reconstructions),
        page.section("samples", "Samples", page.figures(samples)),
        page.section("traversals", "Latent traversals", *_traversals(vae, seen, scale)),
    ]


def _traversals(vae: VAE, seen: Measured, scale: tuple[float, float]) -> list[str]:
    device = next(vae.parameters()).device
    order = _dimension_kl(seen).argsort(descending=True).tolist()
    steps = torch.linspace(-3, 3, 11)
    rows, flat = [], False
    for dimension in order[:10]:
        z = seen.mu[:1].repeat(len(steps), 1)
        z[:, dimension] = steps
        made = vae.likelihood.mean(vae.decode(z.to(device))).cpu()
        flat = made.dim() == 2  # rows of values: the steps beneath each other
        rows.append((f"z{dimension}", plots.tiles(made, 1 if flat else len(steps), scale)))
    way = "from the top of each picture to its bottom" if flat else "in each row"
    parts = [
        page.figure_rows(
            rows[:5] if flat else rows,
            f"One dimension of a test sample's code moves from -3 to 3 {way}, the others held, those of the largest KL "
            "first: look for ones that change one thing at a time, and for ones that change nothing and are not in use.",
        )
    ]
    if seen.mu.shape[1] == 2 and not flat:
        quantiles = torch.special.ndtri(torch.linspace(0.03, 0.97, 12))
        plane = torch.cartesian_prod(quantiles.flip(0), quantiles).flip(1)
        made = vae.likelihood.mean(vae.decode(plane.to(device))).cpu()
        parts.append(
            page.figure(
                plots.tiles(made, 12, scale),
                "the plane of codes, decoded",
                "The whole plane of codes, decoded at equal steps of the prior's probability, z0 from left to right and "
                "z1 from bottom to top: look for kinds that turn into each other smoothly.",
                wide=False,
            )
        )
    return parts


def _dimension_kl(seen: Measured) -> Tensor:
    return functional.gaussian_kl(seen.mu, seen.logvar, reduction="elementwise").mean(0)


def _codes(dataset: Dataset, seen: Measured, classes: np.ndarray | None, names: list[str]) -> str:
    size = seen.mu.shape[1]
    if size == 1:
        drawn = plots.histogram(seen.mu[:, 0].numpy(), "", "z0, mean of q(z|x)")
        caption = (
            "How the means of q(z|x) spread over the one latent dimension: the prior expects most between -2 and 2."
        )
        return page.section("codes", "Map of the codes", page.figure(drawn, "histogram of codes", caption, wide=False))
    what, axes, points = "The means of q(z|x)", ("z0", "z1"), seen.mu
    if size > 2:
        centered = seen.mu.double() - seen.mu.double().mean(0)
        directions, sizes, _ = torch.linalg.svd(centered.T @ centered)
        share = sizes[:2].sum() / sizes.sum().clamp_min(1e-300)
        what = f"The means of q(z|x) in their two main directions, which hold {share:.0%} of their variance"
        axes, points = ("first direction", "second direction"), centered @ directions[:, :2]
    if classes is None:
        caption = (
            f"{what}, colored by how many lie nearby: look for clusters, and for holes that samples would fall into."
        )
    else:
        caption = f"{what}, colored by the data's labels, which training never saw: look for labels that lie apart."
    drawn = plots.codes(points.float().numpy(), classes, names, axes)
    return page.section("codes", "Map of the codes", page.figure(drawn, "map of codes", caption, wide=False))


def _dimensions(seen: Measured) -> str:
    kl, active = _dimension_kl(seen), functional.active_units(seen.mu)
    order = kl.argsort(descending=True).tolist()
    drawn = plots.bars([float(kl[k]) for k in order], [bool(active[k]) for k in order], [f"z{k}" for k in order])
    caption = (
        f"What each dimension tells about the data on average; {int(active.sum())} of {len(kl)} are active, which means "
        "that their mean's variance over the data exceeds 0.01: look for dimensions that are not, which are not needed."
    )
    return page.section(
        "dimensions", "KL of each dimension", page.figure(drawn, "KL per dimension", caption, wide=False)
    )


def _bounds(seen: Measured, num_samples: int) -> list[str]:
    elbo, log_px, ess = (t.double().numpy() for t in (seen.elbo, seen.log_px, seen.ess))
    gap = log_px - elbo
    few = int((ess < 0.02 * num_samples).sum())
    bounds = (
        page.figure(
            plots.against(elbo, log_px),
            "ELBO against log p(x)",
            f"Each test sample's log p(x), from {num_samples} importance samples, over its ELBO: the height above the line "
            "is its gap, and samples far to the lower left are those that the model finds unlikely.",
        ),
        page.figure(
            plots.histogram(gap, "Gap, log p(x) - ELBO", "nats"),
            "histogram of gaps",
            f"The gaps alone, {gap.mean():.2f} nats on average: what a better encoder could still win; a long tail to the "
            "right is of samples whose posterior the encoder misses.",
        ),
    )
    trust = page.figure(
        plots.histogram(ess, "", f"of {num_samples} importance samples", (0, num_samples)),
        "histogram of effective sample sizes",
        f"How many of the {num_samples} importance samples each estimate of log p(x) rests on: {few} of {len(ess)} rest on "
        "fewer than 2% of them, and where many do, log p(x) is underestimated and needs more of them.",
        wide=False,
    )
    return [
        page.section("bounds", "ELBO and log p(x)", page.figures(bounds)),
        page.section("ess", "Effective sample size", trust),
    ]


def _card(run: Path, config: Config, vae: VAE, dataset: Dataset, named: list[str], seconds: float) -> str:
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
        "this page": f"vaefast {__version__}, torch {torch.__version__}, numpy {np.__version__}, "
        f"Python {platform.python_version()}",
        "on": f"{next(vae.parameters()).device}, {_ops.cpu_isa()}, {torch.get_num_threads()} threads, "
        f"{platform.platform()}",
    }
    settings = {name: ", ".join(map(str, v)) if isinstance(v, tuple) else v for name, v in asdict(config).items()}
    tables = [
        page.table("Model", model.items()),
        page.table("Data", about.items()),
        page.table("Settings", settings.items()),
        page.table("Versions", versions.items()),
    ]
    layers = page.code(f"encoder: {vae.encoder}\n\ndecoder: {vae.decoder}", "The layers")
    return page.section("card", "Model and data", page.figures(tables), layers)


_SECTIONS = {
    "curves": "Training", "reconstructions": "Reconstructions", "samples": "Samples", "traversals": "Traversals",
    "codes": "Codes", "dimensions": "Dimensions", "bounds": "Bounds", "ess": "Effective samples",
    "card": "Model and data", "reproduce": "Reproduce",
}  # fmt: skip


@torch.no_grad()
def write(
    out: Path,
    run: Path,
    config: Config,
    vae: VAE,
    metrics: list[dict[str, Any]],
    dataset: Dataset,
    num_samples: int,
) -> None:
    """Measures the model and writes the page, which takes its place when it is whole."""
    seen = measure(vae, dataset, num_samples)
    classes, named = labels_of_test(dataset, len(seen.mu))
    active = int(functional.active_units(seen.mu).sum())
    name = run.resolve().name
    sizes = " x ".join(map(str, dataset.sample_shape))
    trained = f" on {len(dataset.train):,} samples" if len(dataset.train) else ""
    head = page.paragraph(
        f"A variational autoencoder of {config.data}: {config.model}, {config.latent_dim} latent dimensions, likelihood "
        f"{config.likelihood}, {len(metrics)} epochs{trained} of {sizes}."
    )
    first = page.numbers(
        (
            ("ELBO", f"{seen.elbo.mean():.2f}", "nats"),
            ("log p(x)", f"{seen.log_px.mean():.2f}", "nats"),
            ("gap", f"{(seen.log_px - seen.elbo).mean():.2f}", "nats"),
            ("KL", f"{seen.kl.mean():.2f}", "nats"),
            ("active units", f"{active}", f"of {seen.mu.shape[1]}"),
            ("effective samples", f"{seen.ess.median():.3g}", f"of {num_samples}"),
        )
    )
    note = page.paragraph(
        f"Means over {len(seen.elbo)} {'held-out ' if len(dataset.train) else ''}samples of {dataset.name}, in nats per "
        f"sample; log p(x) by {num_samples} importance samples each."
    )
    links = "".join(f'<a href="#{name}">{page.text(title)}</a>' for name, title in _SECTIONS.items())
    again = page.section(
        "reproduce",
        "Reproduce",
        page.paragraph("This command trains the same model again, to the same curve on the same machine and versions."),
        page.code(options.command(config)),
    )
    seconds = sum(float(row.get("seconds", 0)) for row in metrics)
    parts = [
        f"<header>\n<h1>{page.text(name)}</h1>\n{head}\n{first}\n{note}\n<nav>{links}</nav>\n</header>\n<main>",
        _curves(metrics),
        *_pictures(vae, dataset, seen),
        _codes(dataset, seen, classes, named),
        _dimensions(seen),
        *_bounds(seen, num_samples),
        _card(run, config, vae, dataset, named, seconds),
        again,
        "</main>",
    ]
    text = page.page(f"{name}: a run of vaefast", parts)
    partial = out.with_suffix(".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
