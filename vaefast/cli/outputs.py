"""The outputs of a trained run: samples, reconstructions of files, and programs that need only torch."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vaefast import VAE, data

from . import pictures
from .config import Config, RunError, check_data

_CHUNK = 500  # samples that are decoded at once
_PICTURED = 2500  # samples in a picture, at most
_SHOWN = 100  # reconstructions in a picture, at most


@torch.no_grad()
def sample(vae: VAE, n: int, seed: int, out: Path) -> None:
    """Writes E[x|z] for n draws of z from the prior, as a picture (.png) or as numbers (.npy)."""
    if out.suffix == ".png" and n > _PICTURED:
        raise ValueError(f"-n {n}: a picture holds at most {_PICTURED} samples; --out FILE.npy takes any number")
    generator = torch.Generator(next(vae.parameters()).device).manual_seed(seed)
    made = torch.cat([vae.sample(min(_CHUNK, n - k), generator=generator) for k in range(0, n, _CHUNK)]).cpu()
    if out.suffix == ".npy":
        np.save(out, made.numpy())
    else:
        columns = 1 if made.dim() == 2 else min(n, max(8, round(n**0.5)))
        out.write_bytes(pictures.tiles(made, columns, (float(made.min()), float(made.max()))))


@torch.no_grad()
def reconstruct(
    vae: VAE, config: Config, sample_shape: tuple[int, ...], files: Sequence[Path], out: Path
) -> tuple[int, int]:
    """Writes E[x|z] at the mean of q(z|x) for the samples of the files. Returns the number of samples, and of those
    written."""
    parts = []
    for file in files:
        x = data.read(file, sample_shape)
        check_data(data.Dataset(str(file), x, x), config)
        parts.append(data.Dataset.floats(x))
    x = torch.cat(parts)
    device = next(vae.parameters()).device
    if out.suffix != ".npy":
        x = x[:_SHOWN]
    made = torch.cat([vae.reconstruct(part.to(device)) for part in x.split(_CHUNK)])
    if out.suffix == ".npy":
        np.save(out, made.cpu().numpy())
    else:
        both = zip(x.split(10), made.split(10), strict=True)
        rows = [row for ours, models in both for row in (("data", ours), ("model", models))]
        pictures.grid(rows, out, min(10, len(x)))
    return sum(map(len, parts)), len(x)


class _Encoder(nn.Module):
    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.vae.encode(x)


class _Decoder(nn.Module):
    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, z: Tensor) -> Tensor:
        mean: Tensor = self.vae.likelihood.mean(self.vae.decode(z))
        return mean


def export(vae: VAE, sample_shape: tuple[int, ...], out: Path) -> None:
    """Writes encoder.pt2, which maps x to (mu, logvar), and decoder.pt2, which maps z to E[x|z]. Both take any batch size.

    Both are loaded again and compared with the model before they replace files that are there already."""
    assert vae.latent_shape is not None
    device = next(vae.parameters()).device
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: is not a folder")
    programs = {"encoder.pt2": (_Encoder(vae), sample_shape), "decoder.pt2": (_Decoder(vae), vae.latent_shape)}
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".partial-") as folder:
        for name, (module, shape) in programs.items():
            path = Path(folder) / name
            batch = (torch.rand(3, *shape, device=device),)
            program = torch.export.export(module.eval(), batch, dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
            torch.export.save(program, path)
            _verify(path, module, shape, device)
        for name in programs:
            os.replace(Path(folder) / name, out / name)


@torch.no_grad()
def _verify(path: Path, module: nn.Module, shape: tuple[int, ...], device: torch.device) -> None:
    loaded = torch.export.load(path).module()
    generator = torch.Generator(device).manual_seed(0)
    for batch in (1, 2, 5):
        x = torch.rand(batch, *shape, device=device, generator=generator)
        got, expected = loaded(x), module(x)
        pairs = zip(got, expected, strict=True) if isinstance(got, tuple) else [(got, expected)]
        # The operations and numbers are the same. The tolerance allows for libraries that choose other kernels.
        if not all(torch.allclose(g, e, rtol=1e-5, atol=1e-6) for g, e in pairs):
            raise RunError(f"{path.name}: the exported program is not equal to the model")
