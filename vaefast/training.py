"""`vaefast train` and `vaefast evaluate`: an ordinary training loop around the library, and the files of a run."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from . import __version__, data
from ._likelihood import Likelihood
from .functional import reparameterize
from .iwae import IWAELoss
from .likelihoods import DiscretizedLogistic, Gaussian, Laplace, by_name
from .model import VAE, conv_vae, mlp_vae

Progress = Callable[[dict[str, Any]], None]


class RunError(ValueError):
    """What is wrong with a run's folder or settings, in one sentence."""


@dataclass(frozen=True)
class Config:
    """Everything that decides a run."""

    data: str = "digits"
    likelihood: str = "bernoulli"
    objective: str = "elbo"
    train_samples: int = 8
    gradient: str = "standard"
    model: str = "mlp"
    latent_dim: int = 16
    hidden_dims: tuple[int, ...] = (400,)
    channels: tuple[int, ...] = (32, 64)
    beta: float = 1.0
    epochs: int = 100
    batch_size: int = 64
    lr: float = 1e-3
    seed: int = 0
    num_samples: int = 200

    def build(self, sample_shape: tuple[int, ...]) -> VAE:
        likelihood: str | Likelihood = self.likelihood
        if likelihood == "gaussian":
            likelihood = Gaussian(scale=0.3, learn_scale=True)
        elif likelihood == "laplace":
            likelihood = Laplace(scale=0.2, learn_scale=True)
        elif likelihood == "discretized_logistic":
            likelihood = DiscretizedLogistic(levels=17 if self.data == "digits" else 256)
        if self.model == "conv":
            vae = conv_vae(sample_shape, self.latent_dim, self.channels, likelihood)
        else:
            vae = mlp_vae(sample_shape, self.latent_dim, self.hidden_dims, likelihood)
        vae.criterion.beta = self.beta
        return vae


class Objective(nn.Module):
    """What one step minimizes, as a module, so that DistributedDataParallel sees all of it."""

    def __init__(self, vae: VAE, config: Config) -> None:
        super().__init__()
        self.vae = vae
        self.samples = config.train_samples if config.objective == "iwae" else 0
        self.criterion = IWAELoss(vae.likelihood, gradient=config.gradient)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 0:  # fewer samples than processes: zero, with the zero gradients that the others wait for
            return sum((p.sum() * 0 for p in self.vae.parameters()), torch.zeros((), device=x.device))
        if self.samples == 0:
            return self.vae.loss(x)
        mu, logvar = self.vae.encode(x)
        z = reparameterize(mu, logvar, num_samples=self.samples)
        return self.criterion(self.vae.decode_samples(z), x, z, mu, logvar)


def load_data(config: Config) -> data.Dataset:
    dataset = data.load(config.data)
    likelihood = by_name(config.likelihood)
    if likelihood.integral:
        dataset.check_counts()
    elif likelihood.support == (0.0, 1.0):
        dataset.check_unit_interval()
    return dataset


def choose_device(name: str) -> torch.device:
    """`auto`: this process's GPU where there is one, else the CPU."""
    if name != "auto":
        try:
            torch.zeros(1, device=name).item()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise RunError(f"--device {name}: {str(error).splitlines()[0]}") from None
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def evaluate(vae: VAE, x: Tensor, num_samples: int, device: torch.device) -> dict[str, float]:
    """Means over x: the ELBO, its parts, and log p(x), in nats per sample."""
    sums = dict.fromkeys(("elbo", "log_likelihood", "kl", "log_px"), 0.0)
    with torch.no_grad():
        for part in x.split(500):
            batch = data.Dataset.floats(part).to(device)
            # The mean over a few samples of z: one would leave visible noise in a small test set's ELBO.
            for _ in range(10):
                elbo = vae.elbo(batch)
                for name, value in elbo._asdict().items():
                    sums[name] += value.sum().item() / 10
            sums["log_px"] += vae.log_likelihood(batch, num_samples).sum().item()
    return {f"test_{name}": total / len(x) for name, total in sums.items()}


def train(
    config: Config, dataset: data.Dataset, out: Path, device: torch.device, progress: Progress
) -> list[dict[str, Any]]:
    """Trains and writes the run's files; under torchrun, data-parallel, the first process writing."""
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    torch.manual_seed(config.seed)
    vae = config.build(dataset.sample_shape).to(device)
    objective: nn.Module = Objective(vae, config)
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        objective = nn.parallel.DistributedDataParallel(objective)
        torch.manual_seed(config.seed + 1 + rank)  # each process has its own noise
    optimizer = torch.optim.Adam(vae.parameters(), lr=config.lr)
    metrics: list[dict[str, Any]] = []
    try:
        if rank == 0:
            out.mkdir(parents=True, exist_ok=True)
            record = {"vaefast": __version__, "sample_shape": dataset.sample_shape, **asdict(config)}
            (out / "config.json").write_text(json.dumps(record, indent=1) + "\n")
            (out / "metrics.jsonl").write_text("")
        for epoch in range(1, config.epochs + 1):
            start = time.perf_counter()
            total = torch.zeros((), device=device, dtype=torch.float64)
            for whole in dataset.batches(config.batch_size, config.seed + epoch):
                x = whole.tensor_split(world)[rank].to(device)
                # The processes' gradients are averaged: this makes the average that of the whole batch's mean loss.
                loss = objective(x) * (len(x) * world / len(whole))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                total += loss.detach() * (len(whole) / world)
            if world > 1:
                dist.all_reduce(total)
            if rank == 0:
                row = {
                    "epoch": epoch,
                    "train_bound": -total.item() / len(dataset.train),
                    **evaluate(vae, dataset.test, config.num_samples, device),
                    "seconds": round(time.perf_counter() - start, 4),
                }
                metrics.append(row)
                with open(out / "metrics.jsonl", "a") as file:
                    file.write(json.dumps(row) + "\n")
                _save(vae, out / "model.safetensors")
                progress(row)
        if world > 1:
            dist.barrier()  # the first process evaluates alone; one that ended before it would end its connection
    finally:
        if world > 1:
            dist.destroy_process_group()
    if rank == 0:
        draw(vae, dataset, metrics, out, device)
    return metrics


def _save(vae: VAE, path: Path) -> None:
    """Writes beside the file and then over it, so that a killed writer leaves the last whole one."""
    temporary = path.with_suffix(".partial")
    save_file({name: t.detach().cpu().contiguous() for name, t in vae.state_dict().items()}, temporary)
    os.replace(temporary, path)


@torch.no_grad()
def draw(vae: VAE, dataset: data.Dataset, metrics: list[dict[str, Any]], out: Path, device: torch.device) -> None:
    from . import plots

    x = data.Dataset.floats(dataset.test[:20]).to(device)
    reconstructed = vae.reconstruct(x)
    pairs = [
        pair
        for k in (0, 10)
        for pair in (("data", x[k : k + 10]), ("model", reconstructed[k : k + 10]))
        if len(pair[1])
    ]
    plots.grid(pairs, out / "reconstructions.png")
    plots.grid([("", vae.sample(80))], out / "samples.png", columns=16)
    plots.curves(metrics, out / "curves.png")


def load_run(run: Path, device: torch.device) -> tuple[Config, VAE, list[dict[str, Any]]]:
    """The settings, the trained model and the metrics of a run's folder."""
    try:
        record = json.loads((run / "config.json").read_text())
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value := record[name], list) else value
            for name in Config.__dataclass_fields__
            if name in record
            or name in ("data", "likelihood", "model")  # settings newer than the run have their defaults
        }
        config = Config(**fields)
        shape = tuple(record["sample_shape"])
    except FileNotFoundError:
        raise RunError(f"{run}: not a run of vaefast train (it has no config.json)") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{run / 'config.json'}: damaged ({type(error).__name__}: {error})") from None
    try:
        weights = load_file(run / "model.safetensors")
        with torch.device("meta"):
            vae = config.build(shape)
        expected = {name: (tuple(t.shape), t.dtype) for name, t in vae.state_dict().items()}
        if expected != {name: (tuple(t.shape), t.dtype) for name, t in weights.items()}:
            raise RunError(f"{run / 'model.safetensors'}: its tensors are not those of the model in config.json")
        vae = config.build(shape)
        vae.load_state_dict(weights)
        metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    except RunError:
        raise
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise RunError(f"{run}: cannot be loaded ({str(error).splitlines()[0]})") from None
    return config, vae.to(device), metrics
