"""The command `vaefast`, the same as `python -m vaefast`."""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import vaefast

from . import options

_EXTRA = "vaefast {command} needs {package}; pip install '.[cli]', in vaefast's sources, brings everything it uses"


def _new_folder(wanted: Path | None) -> Path:
    if wanted is None:
        names = (Path("vaefast-run" if k == 1 else f"vaefast-run-{k}") for k in range(1, 10**6))
        return next(path for path in names if not path.exists())
    if wanted.exists() and (not wanted.is_dir() or any(wanted.iterdir())):
        raise ValueError(f"--out {wanted}: exists already; name a new folder")
    around = next(parent for parent in wanted.absolute().parents if parent.exists())
    if not around.is_dir():
        raise ValueError(f"--out {wanted}: {around} is not a folder")
    return wanted


def _train(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from . import config as configs
    from . import progress, runs, settings, training

    first = int(os.environ.get("RANK", 0)) == 0
    given = {name: vars(arguments)[name] for name in configs.Config.__dataclass_fields__ if name in arguments}
    device = training.choose_device(arguments.device)
    if arguments.resume is not None:
        out = arguments.resume
        config, shape = runs.load_config(out)
        if set(given) - {"epochs"} or arguments.out is not None or arguments.config is not None:
            raise ValueError("--resume keeps the run's own settings; only --epochs and --device go with it")
        config = replace(config, **given)
        training.check_unfinished(out, config)
    else:
        held = {} if arguments.config is None else settings.read_settings(arguments.config)
        config, shape = settings.make_config(given, held), None
        out = _new_folder(arguments.out) if first else Path(os.devnull)
    dataset = configs.load_data(config)
    if shape is not None and shape != dataset.sample_shape:
        raise ValueError(f"{dataset.name}: samples have shape {dataset.sample_shape}, the run's had {shape}")
    config.build(dataset.sample_shape)  # raises for sizes that cannot be built, before anything is written
    watcher: Any = nullcontext(training.Watcher())
    if first:
        console = Console(stderr=True)
        scalars = progress.Scalars(out, runs.saved_epochs(out) + 1) if arguments.tensorboard else None
        sizes = f"{len(dataset.train)} samples to train on, {len(dataset.test)} held out, each {dataset.sample_shape}"
        console.print(f"{config.data}: {sizes}; {device}", markup=False)
        watcher = progress.Bar(console, config.epochs, len(dataset.train), scalars)
    try:
        with watcher as watching:
            metrics = training.train(config, dataset, out, device, watching, resume=arguments.resume is not None)
    except KeyboardInterrupt:
        if not first:
            raise SystemExit(130) from None  # the first process prints the message
        raise KeyboardInterrupt(_interrupted(out, runs.saved_epochs(out), config.epochs)) from None
    if first:
        print(
            "test ELBO {test_elbo:.3f} nats, log p(x) {test_log_px:.3f}".format_map(metrics[-1])
            + f"; everything is in {out}"
        )


def _interrupted(out: Path, saved: int, epochs: int) -> str:
    run = shlex.quote(str(out))
    if saved == 0:
        return "interrupted before the first epoch was done; nothing was written"
    if saved >= epochs:
        return (
            f"interrupted after the last epoch: only pictures are missing from the run in {run}; vaefast report {run}"
        )
    return f"interrupted: {saved} of {epochs} epochs are saved in {run}; go on with: vaefast train --resume {run}"


def _evaluate(arguments: argparse.Namespace) -> None:
    from . import config as configs
    from . import runs, training

    device = training.choose_device(arguments.device)
    config, shape, vae = runs.load_run(arguments.run, device)
    dataset = configs.load_data(config, arguments.data)
    metrics = (
        runs.read_metrics(arguments.run) if arguments.data is None else []
    )  # the saved metrics belong to the run's own data
    torch.manual_seed(config.seed)
    _check_shape(dataset.name, dataset.sample_shape, shape)
    result = training.evaluate(vae, dataset.test, arguments.num_samples, device)
    result["test_gap"] = result["test_log_px"] - result["test_elbo"]
    if metrics:
        result["first_epoch_test_elbo"] = metrics[0]["test_elbo"]
    if arguments.json:
        print(json.dumps(result))
        return
    rows = [
        ("test ELBO", result["test_elbo"]),
        ("  log-likelihood", result["test_log_likelihood"]),
        ("  KL(q(z|x) || p(z))", result["test_kl"]),
        (f"test log p(x), {arguments.num_samples} samples", result["test_log_px"]),
        ("gap, KL(q(z|x) || p(z|x))", result["test_gap"]),
    ]
    if metrics:
        rows.append(("test ELBO after the first epoch", result["first_epoch_test_elbo"]))
    print("\n".join(f"{name:36}{value:12.4f} nats" for name, value in rows))


def _report(arguments: argparse.Namespace) -> None:
    from . import config as configs
    from . import runs, training
    from .report.write import write as write_report

    device = training.choose_device(arguments.device)
    config, shape, vae = runs.load_run(arguments.run, device)
    dataset = configs.load_data(config, arguments.data)
    _check_shape(dataset.name, dataset.sample_shape, shape)
    out = arguments.out or arguments.run / "report.html"
    _check_place(out)
    metrics = runs.read_metrics(arguments.run)
    write_report(out, arguments.run, config, vae, metrics, dataset, arguments.num_samples)
    print(out)


def _check_shape(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        raise ValueError(f"{name}: samples have shape {shape}, but the run's model makes {expected}")


def _check_place(out: Path) -> None:
    """Raises ValueError if the folder of `out` is missing, or if `out` could overwrite a run's own pictures."""
    if not out.parent.is_dir():
        raise ValueError(f"--out {out}: there is no folder {out.parent}")
    if out.suffix == ".png" and (out.parent / "config.json").exists():
        raise ValueError(f"--out {out}: a run keeps its own pictures there; name a file in another folder")


def _sample(arguments: argparse.Namespace) -> None:
    from . import outputs, runs, training

    _check_place(arguments.out)
    _, _, vae = runs.load_run(arguments.run, training.choose_device(arguments.device))
    outputs.sample(vae, arguments.n, arguments.seed, arguments.out)
    print(f"{arguments.n} samples in {arguments.out}")


def _reconstruct(arguments: argparse.Namespace) -> None:
    from . import outputs, runs, training

    _check_place(arguments.out)
    config, shape, vae = runs.load_run(arguments.run, training.choose_device(arguments.device))
    found, shown = outputs.reconstruct(vae, config, shape, arguments.files, arguments.out)
    rest = f", the first of {found}; a .npy file takes all" if shown < found else ""
    print(f"{shown} reconstructions in {arguments.out}{rest}")


def _export(arguments: argparse.Namespace) -> None:
    from . import outputs, runs, training

    _, shape, vae = runs.load_run(arguments.run, training.choose_device(arguments.device))
    out = arguments.out or arguments.run / "exported"
    outputs.export(vae, shape, out)
    print(f"{out / 'encoder.pt2'}: x to (mu, logvar)\n{out / 'decoder.pt2'}: z to E[x|z]")
    print("load them with torch.export.load(FILE).module()")


def _info(arguments: argparse.Namespace) -> None:
    build = vaefast.build_info()
    info = {
        **build,
        "vaefast": vaefast.__version__,
        "torch": torch.__version__,
        "built_for_torch": build["torch"],
    }
    info |= {"cpu_isa": vaefast.cpu_isa(), "threads": torch.get_num_threads()}
    if arguments.json:
        print(json.dumps(info))
        return
    print(f"vaefast {vaefast.__version__} on torch {torch.__version__}, built for {info['built_for_torch']}")
    print(f"CUDA architectures: {info['cuda_archs'] or 'none; built for the CPU only'}")
    print(f"CPU instruction sets: {', '.join(info['cpu_isas'])}; in use: {info['cpu_isa']}, {info['threads']} threads")
    print(f"terms: {', '.join(info['terms'])}")


_COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "train": _train,
    "evaluate": _evaluate,
    "report": _report,
    "sample": _sample,
    "reconstruct": _reconstruct,
    "export": _export,
    "info": _info,
}


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit code. Bad input prints one line on stderr and returns 2."""
    arguments = options.parser().parse_args(argv)
    try:
        _COMMANDS[arguments.command](arguments)
    except ModuleNotFoundError as error:
        print(_EXTRA.format(command=arguments.command, package=error.name), file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"vaefast {arguments.command}: {error}", file=sys.stderr)
        return 2
    except torch.OutOfMemoryError as error:
        lacking = str(error).split(". ")[0]
        print(f"vaefast {arguments.command}: {lacking}; train with a smaller --batch-size", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"vaefast {arguments.command}: {interrupt or 'interrupted'}", file=sys.stderr)
        return 130
    return 0
