"""What a trained model says of a data set: its bounds sample by sample, its codes, and the labels to look at them by."""

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
CODED = 4000  # samples whose codes are looked at
_CLASSES = 20  # that a map can hold apart


@dataclass(frozen=True)
class Measured:
    """What the model says of test samples, in nats; each of shape (N,), but mu, logvar (M, L)."""

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
    """The classes of a data set's samples in the order of its file: of the digits, of an .npz that holds them, of an IDX
    file with the labels' file beside it, of images in several folders. None where there are none that fit."""
    try:
        found = _labels(source)
    except Exception:  # numpy, zipfile, gzip and struct raise errors of their own; the page does without labels
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
        # train-images-idx3-ubyte has its labels in train-labels-idx1-ubyte.
        beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
        if beside.name != path.name and beside.is_file():
            found = data.read_idx(beside)
    return found


def labels_of_test(dataset: Dataset, codes: int) -> tuple[np.ndarray | None, list[str]]:
    """Of the first test samples, as indices into the classes' names."""
    count = len(dataset.train) + len(dataset.test)
    if len(dataset.test) < codes or (given := labels(dataset.name, count)) is None:
        return None, []
    names = sorted(set(given))
    return np.array([names.index(given[k]) for k in data.split_order(count)[:codes].tolist()]), [str(n) for n in names]
