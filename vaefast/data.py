"""Data for the command line: the digits that scikit-learn contains, or a user's .npy, .npz or IDX file or folder of images.
Nothing is downloaded, and nothing is unpickled."""

import gzip
import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import _checks

__all__ = ["IMAGE_SUFFIXES", "DataError", "Dataset", "load", "read", "read_idx", "split_order"]

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
# An IDX file holds two bytes of 0, a type code, the number of dimensions, the dimensions as big-endian uint32, and the
# elements.
_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


class DataError(ValueError):
    """A data set that cannot be used. The message says why in one sentence."""


@dataclass(frozen=True)
class Dataset:
    """Samples of shape (N, channels, height, width), or (N, D) if they are not images.

    uint8 data stay uint8. `floats` converts any data to float32, and uint8 to [0, 1].
    """

    name: str
    train: Tensor
    test: Tensor

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return tuple(self.train.shape[1:])

    @staticmethod
    def floats(x: Tensor) -> Tensor:
        return x.to(torch.float32) / 255 if x.dtype is torch.uint8 else x.to(torch.float32)

    def batches(self, size: int, seed: int) -> Iterator[Tensor]:
        """Yields the training set once as float32, `size` samples at a time. The seed decides the order."""
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed))
        for indices in order.split(size):
            yield self.floats(self.train[indices])

    @property
    def samples(self) -> Tensor:
        """The training samples, or the test samples if there are no training samples."""
        return self.train if len(self.train) else self.test


def load(source: str | os.PathLike[str], test_fraction: float = 0.2) -> Dataset:
    """Loads a data set and splits it at random, the same way every time.

    Args:
        source: "digits" for the 1,797 scans of 8 x 8 pixels that scikit-learn contains, or the path of an .npy, .npz or IDX
            file or of a folder of images of one size.
        test_fraction: the part of the samples that is held out, at least one sample; 1 holds out all.

    Raises:
        TypeError: source is not a name or path, or test_fraction is not a number.
        ValueError: test_fraction is not in [0, 1].
        DataError: a ValueError that says in one sentence why the source cannot be used.

    Example:
        >>> digits = load("digits")
        >>> digits.train.shape, digits.train.dtype, digits.test.shape
        (torch.Size([1438, 1, 8, 8]), torch.float32, torch.Size([359, 1, 8, 8]))
    """
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"vaefast.data.load: source must be a name or a path, got {type(source).__name__}")
    test_fraction = _checks.number("vaefast.data.load", "test_fraction", test_fraction, minimum=0.0)
    if test_fraction > 1:
        raise ValueError(f"vaefast.data.load: test_fraction must be in [0, 1], got {test_fraction}")
    x = _load_digits() if source == "digits" else _load_path(Path(source))
    if len(x) < 2 or x.numel() == 0:
        raise DataError(f"{source}: needs at least 2 samples, got shape {tuple(x.shape)}")
    if not torch.isfinite(x).all():
        raise DataError(f"{source}: holds NaN or infinite values, or values beyond float32")
    order = split_order(len(x))
    held_out = max(1, math.floor(len(x) * test_fraction))
    return Dataset(str(source), x[order[held_out:]], x[order[:held_out]])


def split_order(count: int) -> Tensor:
    """The random order of a file's samples. `load` holds out the first of them."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))


def read(path: Path, sample_shape: tuple[int, ...]) -> Tensor:
    """Reads samples from an image, a folder of images or a file with an array. Each must have `sample_shape`."""
    if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
        x = _to_samples(path, _read_image(path, color=sample_shape[0] == 3)[None])
    else:
        x = _load_path(path)
    if tuple(x.shape[1:]) != sample_shape:
        raise DataError(f"{path}: samples have shape {tuple(x.shape[1:])}, the run's have {sample_shape}")
    if not torch.isfinite(x).all():
        raise DataError(f"{path}: holds NaN or infinite values, or values beyond float32")
    return x


def _load_digits() -> Tensor:
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    return torch.from_numpy(load_digits().images / 16.0).float().unsqueeze(1)


def _load_path(path: Path) -> Tensor:
    if path.is_dir():
        return _load_images(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder")
    try:
        array = _read_numpy(path) if path.suffix in (".npy", ".npz") else read_idx(path)
    except DataError:
        raise
    except Exception as error:  # numpy, tokenize, zipfile, gzip and struct raise errors of their own
        raise DataError(f"{path}: cannot be read as an array of numbers ({_first_line(error)})") from None
    return _to_samples(path, array)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]


def _read_numpy(path: Path) -> np.ndarray:
    with open(path, "rb") as file:  # numpy takes any other file for a pickle, and advises to load it unsafely
        if not file.read(6).startswith((b"\x93NUMPY", b"PK\3\4", b"PK\5\6")):
            raise DataError(f"{path}: is not what its suffix says")
    loaded = np.load(path, allow_pickle=False)  # an array or an archive of arrays, whatever the suffix is
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded as archive:
        names = [name for name in ("x_train", "train", "images", "x", "data") if name in archive.files]
        names = names or archive.files
        if not names:
            raise DataError(f"{path}: holds no array")
        return np.asarray(archive[names[0]])


def read_idx(path: Path) -> np.ndarray:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as file:
        magic = file.read(4)
        if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _IDX_DTYPES:
            raise DataError(f"{path}: not a .npy, .npz or IDX file")
        shape = struct.unpack(f">{magic[3]}I", file.read(4 * magic[3]))
        dtype = np.dtype(_IDX_DTYPES[magic[2]])
        expected = math.prod(shape) * dtype.itemsize
        content = bytearray()  # a small .gz may unpack to any size, so reading stops after the expected one
        while len(content) <= expected and (piece := file.read(1 << 20)):
            content += piece
    if len(content) != expected:
        found = "more" if len(content) > expected else len(content)
        raise DataError(f"{path}: an IDX file of shape {shape} needs {expected} bytes of data, found {found}")
    return np.frombuffer(content, dtype).reshape(shape)


def _read_image(path: Path, color: bool | None = None) -> np.ndarray:
    """Reads an image of shape (H, W), or (H, W, 3) in color. `color` chooses between them; if None, the file decides."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):  # 16 bits
                return np.asarray(image, dtype=np.float32) / 65535
            if image.mode == "F":
                return np.array(image)
            if color is None:
                color = image.mode not in ("1", "L", "LA")
            return np.array(image.convert("RGB" if color else "L"))
    except Exception as error:  # each of Pillow's formats raises errors of its own
        raise DataError(f"{path}: cannot be read as an image ({_first_line(error)})") from None


def _load_images(folder: Path) -> Tensor:
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise DataError(f"{folder}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    images: list[np.ndarray] = []
    for file in files:
        pixels = _read_image(file)
        if images and pixels.shape != images[0].shape:
            other = f"{files[0].name} is {images[0].shape}"
            raise DataError(f"{file}: is {pixels.shape} but {other}; images must be of one size and mode")
        images.append(pixels)
    return _to_samples(folder, np.stack(images))


def _to_samples(path: Path, array: np.ndarray) -> Tensor:
    """Converts numbers of shape (N, D), (N, H, W), (N, H, W, C) or (N, C, H, W) to samples."""
    if array.dtype.kind not in "buif":
        raise DataError(f"{path}: holds {array.dtype}, expected numbers")
    if not 2 <= array.ndim <= 4:
        raise DataError(f"{path}: has shape {array.shape}, expected (N, D), (N, H, W), (N, C, H, W) or (N, H, W, C)")
    with np.errstate(over="ignore"):  # overflow makes infinities, which `load` refuses
        kept = array if array.dtype == np.uint8 else array.astype(np.float32)
    x = torch.from_numpy(np.array(kept, order="C"))
    if x.dim() == 3:
        return x.unsqueeze(1)
    if x.dim() == 4 and x.shape[-1] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        return x.permute(0, 3, 1, 2).contiguous()
    return x
