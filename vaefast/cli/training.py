"""`vaefast train` and `vaefast evaluate`: an ordinary training loop around the library."""

import math
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from vaefast import VAE, IWAELoss, data
from vaefast.functional import reparameterize

from . import runs
from .config import Config, RunError


class Watcher:
    """Is told how training goes; this one does nothing about it."""

    def batch(self, epoch: int, samples: int) -> None:
        """So many samples of the epoch are done: 0 as it starts, all of them before the test set is measured."""

    def finished(self, row: dict[str, Any]) -> None:
        """An epoch is done and saved."""


class Objective(nn.Module):
    """What one step minimizes, as a module, so that DistributedDataParallel sees all of it."""

    def __init__(self, vae: VAE, config: Config) -> None:
        super().__init__()
        self.vae = vae
        self.samples = config.train_samples if config.objective == "iwae" else 0
        self.criterion = IWAELoss(vae.likelihood, gradient=config.gradient)

    def noise(self, batch: int, device: torch.device) -> Tensor:
        """The standard normals of one step, the batch in dimension 1; the same in every process."""
        assert self.vae.latent_shape is not None
        zero = torch.zeros(max(1, self.samples), batch, *self.vae.latent_shape, device=device)
        return reparameterize(zero, zero)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        if len(x) == 0:  # fewer samples than processes: a loss of 0, whose gradients of 0 the other processes wait for
            return sum((p.sum() * 0 for p in self.vae.parameters()), torch.zeros((), device=x.device))
        mu, logvar = self.vae.encode(x)
        if self.samples == 0:
            return self.vae.criterion(self.vae.decode(reparameterize(mu, logvar, eps=noise[0])), x, mu, logvar)
        z = reparameterize(mu, logvar, num_samples=self.samples, eps=noise)
        return self.criterion(self.vae.decode_samples(z), x, z, mu, logvar)


def choose_device(name: str) -> torch.device:
    """`auto`: this process's GPU where there is one, else the CPU."""
    if name != "auto":
        try:
            device = torch.device(name)
        except RuntimeError:
            raise RunError(f"--device {name}: is no device of torch's, such as cpu or cuda:1") from None
        try:
            torch.zeros(1, device=device).item()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise RunError(f"--device {name}: {str(error).splitlines()[0]}") from None
        return device
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def evaluate(vae: VAE, x: Tensor, num_samples: int, device: torch.device) -> dict[str, float]:
    """Means over x: the ELBO, its parts, and log p(x), in nats per sample, all from the same num_samples of each."""
    sums = dict.fromkeys(("elbo", "log_likelihood", "kl", "log_px"), 0.0)
    for part in x.split(500):
        bounds = vae.bounds(data.Dataset.floats(part).to(device), num_samples)
        for name in sums:
            sums[name] += getattr(bounds, name).sum().item()
    return {f"test_{name}": total / len(x) for name, total in sums.items()}


def _seed(config: Config, epoch: int) -> int:
    """Each epoch starts from a seed of its own, so a run that is resumed draws what it would have drawn."""
    return int(np.random.SeedSequence([config.seed % 2**64, epoch]).generate_state(1, np.uint64)[0])


def check_unfinished(out: Path, config: Config) -> None:
    """Whether a run that is to be resumed has an epoch left."""
    done = runs.saved_epochs(out)
    if done >= config.epochs:
        raise RunError(f"{out}: has finished its {done} epochs; it goes on with a larger number: --epochs {2 * done}")


def _discard(out: Path, was_there: bool) -> None:
    """Takes back a run that ended before its first epoch did: the same command can then be given again."""
    for name in ("config.json", "metrics.jsonl", "model.safetensors"):
        (out / name).unlink(missing_ok=True)
    if not was_there:
        with suppress(OSError):  # the folder does not exist yet, or holds files of others
            out.rmdir()


def _processes() -> tuple[int, int]:
    """How many processes torchrun has started, and which of them this one is."""
    return int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))


def _epoch(
    step: nn.Module,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Tensor],
    device: torch.device,
    seen: Callable[[int], None],
) -> float:
    """Trains on this process's rows of each batch; the mean bound over all samples of all processes."""
    world, rank = _processes()
    total, samples = torch.zeros((), device=device, dtype=torch.float64), 0
    seen(samples)
    for whole in batches:
        x = whole.tensor_split(world)[rank].to(device)
        noise = objective.noise(len(whole), device).tensor_split(world, 1)[rank]
        # The processes' gradients are averaged; this factor makes it the gradient of the whole batch's mean.
        loss = step(x, noise) * (len(x) * world / len(whole))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach() * (len(whole) / world)
        samples += len(whole)
        seen(samples)
    if world > 1:
        dist.all_reduce(total)
    return -total.item() / samples


def train(
    config: Config, dataset: data.Dataset, out: Path, device: torch.device, watcher: Watcher, resume: bool = False
) -> list[dict[str, Any]]:
    """Trains and writes the run's files; under torchrun, data-parallel, the first process writing.

    The course is that of one process, whatever their number: each has its rows of the batch and of the batch's noise.
    Training that is interrupted leaves a run that can be resumed, or, before its first epoch is done, nothing.
    """
    world, rank = _processes()
    torch.manual_seed(_seed(config, 0))
    vae = config.build(dataset.sample_shape).to(device)
    objective = Objective(vae, config)
    optimizer = torch.optim.Adam(vae.parameters(), lr=config.lr)
    done = runs.load_checkpoint(out, vae, optimizer) if resume else 0
    metrics = runs.read_metrics(out)[:done] if resume else []
    check_unfinished(out, config)
    step: nn.Module = objective
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        step = nn.parallel.DistributedDataParallel(objective)
    was_there = out.exists()
    try:
        if rank == 0:
            runs.start(out, config, dataset.sample_shape, metrics)
        for epoch in range(done + 1, config.epochs + 1):
            start = time.perf_counter()
            batches = dataset.batches(config.batch_size, _seed(config, epoch))
            torch.manual_seed(_seed(config, epoch))
            bound = _epoch(step, objective, optimizer, batches, device, partial(watcher.batch, epoch))
            if not math.isfinite(bound):
                kept = f"; {out} holds the {epoch - 1} before it" if epoch > 1 else ""
                raise RunError(
                    f"epoch {epoch}: the bound became {bound:g}{kept}; a smaller --lr or smaller values may help"
                )
            if rank == 0:
                row = {
                    "epoch": epoch,
                    "train_bound": bound,
                    **evaluate(vae, dataset.test, config.num_samples, device),
                    "seconds": round(time.perf_counter() - start, 4),
                }
                metrics.append(row)
                runs.finish_epoch(out, row, vae, optimizer)
                watcher.finished(row)
        if world > 1:
            dist.barrier()  # only the first process evaluates; the others wait, since one that ends breaks its connection
    except BaseException:
        if rank == 0 and runs.saved_epochs(out) == 0:
            _discard(out, was_there)
        raise
    finally:
        if world > 1:
            # The wrapper must not be the last to hold the group: it frees it while it has Python's lock, for which a
            # thread of the group that the end of it waits for may be waiting.
            del step
            dist.destroy_process_group()
    if rank == 0:
        draw(vae, dataset, metrics, out, device)
    return metrics


@torch.no_grad()
def draw(vae: VAE, dataset: data.Dataset, metrics: list[dict[str, Any]], out: Path, device: torch.device) -> None:
    from . import pictures

    x = data.Dataset.floats(dataset.test[:20]).to(device)
    reconstructed = vae.reconstruct(x)
    pairs = [
        pair
        for k in (0, 10)
        for pair in (("data", x[k : k + 10]), ("model", reconstructed[k : k + 10]))
        if len(pair[1])
    ]
    pictures.grid(pairs, out / "reconstructions.png")
    pictures.grid([("", vae.sample(80))], out / "samples.png", columns=16)
    pictures.curves(metrics, out / "curves.png")
