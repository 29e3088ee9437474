"""`vaefast report`: one page about a run, from the files in its folder and its model's results on the test set."""

from pathlib import Path
from typing import Any

import torch

from vaefast import VAE, functional
from vaefast.data import Dataset

from ..config import Config
from ..runs import replaced
from ..settings import command
from . import html, sections
from .measure import labels_of_test, measure

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
    """Measures the model and writes the page. The file `out` is replaced only once the page is complete."""
    seen = measure(vae, dataset, num_samples)
    classes, named = labels_of_test(dataset, len(seen.mu))
    active = int(functional.active_units(seen.mu).sum())
    name = run.resolve().name
    sizes = " x ".join(map(str, dataset.sample_shape))
    trained = f" on {len(dataset.train):,} samples" if len(dataset.train) else ""
    head = html.paragraph(
        f"A variational autoencoder of {config.data}: {config.model}, {config.latent_dim} latent dimensions, likelihood "
        f"{config.likelihood}, {len(metrics)} epochs{trained} of {sizes}."
    )
    first = html.numbers(
        (
            ("ELBO", f"{seen.elbo.mean():.2f}", "nats"),
            ("log p(x)", f"{seen.log_px.mean():.2f}", "nats"),
            ("gap", f"{(seen.log_px - seen.elbo).mean():.2f}", "nats"),
            ("KL", f"{seen.kl.mean():.2f}", "nats"),
            ("active units", f"{active}", f"of {seen.mu.shape[1]}"),
            ("effective samples", f"{seen.ess.median():.3g}", f"of {num_samples}"),
        )
    )
    note = html.paragraph(
        f"Means over {len(seen.elbo)} {'held-out ' if len(dataset.train) else ''}samples of {dataset.name}, in nats per "
        f"sample; log p(x) by {num_samples} importance samples each."
    )
    links = "".join(f'<a href="#{name}">{html.text(title)}</a>' for name, title in _SECTIONS.items())
    again = html.section(
        "reproduce",
        "Reproduce",
        html.paragraph("This command trains the same model again, to the same curve on the same machine and versions."),
        html.code(command(config)),
    )
    seconds = sum(float(row.get("seconds", 0)) for row in metrics)
    parts = [
        f"<header>\n<h1>{html.text(name)}</h1>\n{head}\n{first}\n{note}\n<nav>{links}</nav>\n</header>\n<main>",
        sections.curves(metrics),
        *sections.samples(vae, dataset, seen),
        sections.codes(dataset, seen, classes, named),
        sections.dimensions(seen),
        *sections.bounds(seen, num_samples),
        sections.card(run, config, vae, dataset, named, seconds),
        again,
        "</main>",
    ]
    text = html.page(f"{name}: a run of vaefast", parts)
    with replaced(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
