"""Measurements of a trained model on a data set: the bounds of each sample, the codes, and labels to color the codes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaefast import VAE, data, functional
from vaefast.data import Dataset

from ..config import RunError

_MEASURED = 400  # test samples whose log p(x) is estimated
CODED = 4000  # samples whose codes are computed
_CLASSES = 20  # classes that can be told apart by color


@dataclass(frozen=True)
class Measured:
    """Measurements of test samples, in nats except ess. Each has shape (N,), and mu and logvar have shape (M, L)."""

    log_px: Tensor
    elbo: Tensor
    log_likelihood: Tensor
    kl: Tensor
    ess: Tensor
    mu: Tensor
    logvar: Tensor

    @property
    def dimension_kl(self) -> Tensor:
        """The KL of each latent dimension, averaged over the samples, of shape (L,)."""
        return functional.gaussian_kl(self.mu, self.logvar, reduction="elementwise").mean(0)


@torch.no_grad()
def measure(vae: VAE, dataset: Dataset, num_samples: int) -> Measured:
    device = next(vae.parameters()).device
    generator = torch.Generator(device).manual_seed(0)
    parts = [
        vae.bounds(Dataset.floats(part).to(device), num_samples, chunk_size=250, generator=generator)
        for part in dataset.test[:_MEASURED].split(20)
    ]
    enough = dataset.test if len(dataset.test) >= 2 else torch.cat((dataset.test, dataset.train))
    encoded = [vae.encode(Dataset.floats(x).to(device)) for x in enough[:CODED].split(500)]
    mu, logvar = (torch.cat(both).cpu() for both in zip(*encoded, strict=True))
    bounds = {name: torch.cat([getattr(part, name) for part in parts]).cpu() for name in parts[0]._fields}
    measured = Measured(**bounds, mu=mu, logvar=logvar)
    if not all(torch.isfinite(t).all() for t in vars(measured).values()):
        raise RunError("the model's bound or codes are not finite; its training diverged, or the data is not the run's")
    return measured


def labels(source: str, count: int) -> Sequence[Any] | None:
    """Returns the classes of a data set's samples in the order of its file, or None if there are none that fit.

    The digits have classes. An .npz may hold them, an IDX file may have a file of labels beside it, and images have the
    folders that they are in."""
    try:
        found = _labels(source)
    except Exception:  # numpy, zipfile, gzip and struct raise errors of their own; labels are optional
        return None
    if found is None:
        return None
    array = np.asarray(found)
    fits = array.shape == (count,) and array.dtype.kind in "biuU" and 2 <= len(np.unique(array)) <= _CLASSES
    return array.tolist() if fits else None


def _labels(source: str) -> Any:
    found: Any = None
    path = Path(source)
    if source == "digits":
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]

        found = load_digits().target
    elif path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.suffix.lower() in data.IMAGE_SUFFIXES)
        found = [str(f.parent.relative_to(path)) for f in files]
    elif path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            names = [n for n in ("y_train", "train_labels", "labels", "y", "target") if n in archive.files]
            found = archive[names[0]] if names else None
    else:
        # The labels of train-images-idx3-ubyte are in train-labels-idx1-ubyte.
        beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
        if beside.name != path.name and beside.is_file():
            found = data.read_idx(beside)
    return found


def labels_of_test(dataset: Dataset, codes: int) -> tuple[np.ndarray | None, list[str]]:
    """Returns the labels of the first `codes` test samples, as indices into the names of the classes, and these names."""
    count = len(dataset.train) + len(dataset.test)
    if len(dataset.test) < codes or (given := labels(dataset.name, count)) is None:
        return None, []
    names = sorted(set(given))
    return np.array([names.index(given[k]) for k in data.split_order(count)[:codes].tolist()]), [str(n) for n in names]
