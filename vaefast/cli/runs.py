"""The folder of a run: its settings, weights, metrics and checkpoint.

A file is written beside its predecessor and then replaces it. A file is read only after its header is checked, and nothing
is unpickled."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

import vaefast
from vaefast import VAE

from .config import Config, RunError, is_possible

# The errors that reading a damaged text file can raise.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


def start(run: Path, config: Config, sample_shape: tuple[int, ...], metrics: list[dict[str, Any]]) -> None:
    """Writes the settings and metrics before the next epoch starts."""
    run.mkdir(parents=True, exist_ok=True)
    record = {"vaefast": vaefast.__version__, "sample_shape": sample_shape, **asdict(config)}
    for name, text in (
        ("config.json", json.dumps(record, indent=1) + "\n"),
        ("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in metrics)),
    ):
        with replaced(run / name) as temporary:
            temporary.write_text(text)


def finish_epoch(run: Path, row: dict[str, Any], vae: VAE, optimizer: torch.optim.Optimizer) -> None:
    """Adds the epoch's row to the metrics, and writes the weights and the checkpoint."""
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps(row) + "\n")
    tensors = {"model.safetensors": vae.state_dict(), "checkpoint.safetensors": _checkpoint(vae, optimizer)}
    for name, held in tensors.items():
        with replaced(run / name) as temporary:
            contiguous = {key: t.detach().cpu().contiguous() for key, t in held.items()}
            save_file(contiguous, temporary, {"epoch": str(row["epoch"])})


def save_file(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file. safetensors' save_file is not used, because it leaves a temporary file if it is killed."""
    path.write_bytes(save(tensors, metadata))


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yields a temporary path, whose file then replaces `path`. So a writer that is killed leaves the last whole file."""
    temporary = path.with_suffix(".partial")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        temporary.unlink(missing_ok=True)


def _checkpoint(vae: VAE, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The tensors that the next epoch starts from: those of the model and the optimizer. Its seed follows from Config."""
    tensors = {f"model.{name}": t for name, t in vae.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": t for name, t in state.items()}
    return tensors


def saved_epochs(run: Path) -> int:
    """Completed epochs in the checkpoint; 0 if there is none."""
    path = run / "checkpoint.safetensors"
    if not path.exists():
        return 0
    try:
        with safe_open(path, "pt") as file:
            epoch = (file.metadata() or {}).get("epoch", "")
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise RunError(f"{path}: cannot be loaded ({str(error).splitlines()[0]})") from None
    if not (epoch.isascii() and epoch.isdigit() and len(epoch) < 10):
        raise RunError(f"{path}: damaged (its epoch is {epoch!r})")
    return int(epoch)


def load_checkpoint(run: Path, vae: VAE, optimizer: torch.optim.Optimizer) -> int:
    """Loads model and optimizer from the checkpoint. Returns the number of completed epochs."""
    for p in vae.parameters():  # one step with zero gradients makes the optimizer create its state
        p.grad = torch.zeros_like(p)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    path = run / "checkpoint.safetensors"
    if not path.exists():
        raise RunError(f"{path}: no such file; the run has finished no epoch, so it cannot be resumed")
    done, tensors = saved_epochs(run), _load(path, _checkpoint(vae, optimizer))
    vae.load_state_dict({name: tensors[f"model.{name}"] for name in vae.state_dict()})
    record = optimizer.state_dict()
    for index, state in record["state"].items():
        record["state"][index] = {name: tensors[f"optimizer.{index}.{name}"] for name in state}
    optimizer.load_state_dict(record)
    return done


def _load(path: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors of a file. Before any is read, their names and shapes must be those of `expected`."""
    try:
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            slices = {name: file.get_slice(name) for name in names & set(expected)}
            shapes = {name: tuple(piece.get_shape()) for name, piece in slices.items()}
            if names != set(expected) or shapes != {name: tuple(t.shape) for name, t in expected.items()}:
                raise RunError(f"{path}: its tensors are not those of the model in config.json")
            tensors = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise RunError(f"{path}: no such file") from None
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{path}: cannot be loaded ({str(error).splitlines()[0]})") from None
    if any(tensors[name].dtype != t.dtype for name, t in expected.items()):
        raise RunError(f"{path}: its tensors are not of the types of the model in config.json")
    return tensors


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Returns one row per epoch. A last line that a killed writer left unfinished is ignored."""
    try:
        lines = (run / "metrics.jsonl").read_text().split("\n")
        rows = [json.loads(line) for line in lines[:-1]]
        for row in rows:
            for name in ("epoch", "train_bound", "test_elbo", "test_log_likelihood", "test_kl", "test_log_px"):
                if not isinstance(row[name], (int, float)):
                    raise ValueError(f"{name} is {str(row[name])[:40]!r}")
    except FileNotFoundError:
        raise RunError(f"{run / 'metrics.jsonl'}: no such file") from None
    except _DAMAGE as error:
        raise RunError(f"{run / 'metrics.jsonl'}: damaged ({type(error).__name__}: {error})") from None
    return rows


def load_config(run: Path) -> tuple[Config, tuple[int, ...]]:
    """Returns the settings of a run's folder, and the shape of one sample."""
    if run.exists() and not run.is_dir():
        raise RunError(f"{run}: not a run of vaefast train, which is a folder")
    try:
        record = json.loads((run / "config.json").read_text())
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value := record[name], list) else value
            for name in Config.__dataclass_fields__
            if name in record or name in ("data", "likelihood", "model")  # newer settings have defaults
        }
        fields["sample_shape"] = tuple(record["sample_shape"])
        for name, value in fields.items():
            if not is_possible(name, value):
                raise ValueError(f"{name} is {str(value)[:40]!r}")
        shape: tuple[int, ...] = fields.pop("sample_shape")
        return Config(**fields), shape
    except FileNotFoundError:
        raise RunError(f"{run}: not a run of vaefast train (it has no config.json)") from None
    except _DAMAGE as error:
        raise RunError(f"{run / 'config.json'}: damaged ({type(error).__name__}: {error})") from None


def load_run(run: Path, device: torch.device) -> tuple[Config, tuple[int, ...], VAE]:
    """Returns the settings, the shape of one sample and the trained model of a run's folder."""
    config, shape = load_config(run)
    try:
        with torch.device("meta"):
            expected = config.build(shape).state_dict()
        weights = _load(run / "model.safetensors", expected)
        vae = config.build(shape)
        vae.load_state_dict(weights)
    except RunError:
        raise
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise RunError(f"{run}: cannot be loaded ({str(error).splitlines()[0]})") from None
    return config, shape, vae.to(device)
