"""What the tests of the command line share: the command in this process, a quick run's options, and files of data."""

import gzip
import struct

import numpy as np

from vaefast import cli

FILES = {"metrics.jsonl", "config.json", "model.safetensors", "checkpoint.safetensors", "samples.png",
         "reconstructions.png", "curves.png"}  # fmt: skip
QUICK = ["--epochs", "2", "--hidden-dims", "16", "--latent-dim", "2", "--num-samples", "10"]


def run(*arguments):
    return cli.main([str(a) for a in arguments])


def save_idx(path, array):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wb") as file:
        file.write(bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes())


def images(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
