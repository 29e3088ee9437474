"""`vaefast train` and `vaefast evaluate`: a plain PyTorch training loop around the library."""

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
    """Training callbacks; the base class does nothing."""

    def batch(self, epoch: int, samples: int) -> None:
        """Called at the start of an epoch with 0, and after each batch with the number of samples done in the epoch."""

    def finished(self, row: dict[str, Any]) -> None:
        """Called with the metrics of an epoch after it is saved."""


class Objective(nn.Module):
    """The loss of a training step. It is a module, so that DistributedDataParallel wraps both model and loss."""

    def __init__(self, vae: VAE, config: Config) -> None:
        super().__init__()
        self.vae = vae
        self.samples = config.train_samples if config.objective == "iwae" else 0
        self.criterion = IWAELoss(vae.likelihood, gradient=config.gradient)

    def noise(self, batch: int, device: torch.device) -> Tensor:
        """Returns the standard normal noise of one step, with the batch in dimension 1. It is the same in every process."""
        assert self.vae.latent_shape is not None
        zero = torch.zeros(max(1, self.samples), batch, *self.vae.latent_shape, device=device)
        return reparameterize(zero, zero)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        if len(x) == 0:  # fewer samples than processes: the other processes wait for this one's gradients, which are 0
            return sum((p.sum() * 0 for p in self.vae.parameters()), torch.zeros((), device=x.device))
        mu, logvar = self.vae.encode(x)
        if self.samples == 0:
            return self.vae.criterion(self.vae.decode(reparameterize(mu, logvar, eps=noise[0])), x, mu, logvar)
        z = reparameterize(mu, logvar, num_samples=self.samples, eps=noise)
        return self.criterion(self.vae.decode_samples(z), x, z, mu, logvar)


def choose_device(name: str) -> torch.device:
    """Returns the device of this name. "auto" is this process's GPU if there is one, else the CPU."""
    if name != "auto":
        try:
            device = torch.device(name)
        except RuntimeError:
            raise RunError(f"--device {name}: is not a torch device, such as cpu or cuda:1") from None
        try:
            torch.zeros(1, device=device).item()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise RunError(f"--device {name}: {str(error).splitlines()[0]}") from None
        return device
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def evaluate(vae: VAE, x: Tensor, num_samples: int, device: torch.device) -> dict[str, float]:
    """Returns the means over x of the ELBO, its parts and log p(x), in nats per sample. For each x all of them use the same
    num_samples importance samples."""
    sums = dict.fromkeys(("elbo", "log_likelihood", "kl", "log_px"), 0.0)
    for part in x.split(500):
        bounds = vae.bounds(data.Dataset.floats(part).to(device), num_samples)
        for name in sums:
            sums[name] += getattr(bounds, name).sum().item()
    return {f"test_{name}": total / len(x) for name, total in sums.items()}


def _seed(config: Config, epoch: int) -> int:
    """Returns the seed of an epoch. Each epoch has its own seed, so a resumed run draws the same numbers."""
    return int(np.random.SeedSequence([config.seed % 2**64, epoch]).generate_state(1, np.uint64)[0])


def check_unfinished(out: Path, config: Config) -> None:
    """Raises RunError if the run has no epoch left to train."""
    done = runs.saved_epochs(out)
    if done >= config.epochs:
        raise RunError(f"{out}: has finished its {done} epochs; it goes on with a larger number: --epochs {2 * done}")


def _discard(out: Path, was_there: bool) -> None:
    """Removes the files of a run that ended before its first epoch was done, so that the command can be run again."""
    for name in ("config.json", "metrics.jsonl", "model.safetensors"):
        (out / name).unlink(missing_ok=True)
    if not was_there:
        with suppress(OSError):  # the folder does not exist yet, or holds files of others
            out.rmdir()


def _processes() -> tuple[int, int]:
    """Returns the number of processes that torchrun has started, and the rank of this one."""
    return int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))


def _epoch(
    step: nn.Module,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Tensor],
    device: torch.device,
    seen: Callable[[int], None],
) -> float:
    """Trains on this process's rows of each batch. Returns the mean bound over the samples of all processes."""
    world, rank = _processes()
    total, samples = torch.zeros((), device=device, dtype=torch.float64), 0
    seen(samples)
    for whole in batches:
        x = whole.tensor_split(world)[rank].to(device)
        noise = objective.noise(len(whole), device).tensor_split(world, 1)[rank]
        # DistributedDataParallel averages the processes' gradients. With this factor the average is the gradient of the
        # whole batch's mean.
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
    """Trains and writes the run's files. Under torchrun it trains data-parallel, and the first process writes.

    The learning curve does not depend on the number of processes, because each takes its rows of a batch and of the batch's
    noise. Interrupted training leaves a run that can be resumed. Before the first epoch is done it leaves nothing.
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
            dist.barrier()  # the others wait for the first process, which evaluates: one that ends closes its connection
    except BaseException:
        if rank == 0 and runs.saved_epochs(out) == 0:
            _discard(out, was_there)
        raise
    finally:
        if world > 1:
            # `step` must not hold the last reference to the process group. It would free the group while it holds
            # Python's lock, and a thread of the group may wait for that lock: a deadlock.
            del step
            dist.destroy_process_group()
    if rank == 0:
        draw(vae, dataset, metrics, out, device)
    return metrics


@torch.no_grad()
def draw(vae: VAE, dataset: data.Dataset, metrics: list[dict[str, Any]], out: Path, device: torch.device) -> None:
    """Draws reconstructions.png, samples.png and curves.png."""
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
