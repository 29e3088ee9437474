"""The command `vaefast`, the same as `python -m vaefast`."""

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from . import __version__, _ops
from .likelihoods import NAMES

_EXTRA = "vaefast {command} needs {package}; pip install 'vaefast[cli]' brings everything it uses"


def _positive(kind: type) -> Any:
    def parse(text: str) -> Any:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise ValueError
        return value

    parse.__name__ = f"positive {kind.__name__}"
    return parse


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError
    return value


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(_positive(int)(part) for part in text.split(",") if part)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vaefast", description="Train and examine variational autoencoders.")
    parser.add_argument("--version", action="version", version=f"vaefast {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    # What is not given is not there: the defaults are runs.Config's.
    suppress = argparse.SUPPRESS
    train = commands.add_parser("train", help="train a VAE and write a run folder", argument_default=suppress)
    train.add_argument("--data", help="digits (scikit-learn's), a .npy, .npz or IDX file, or a folder of images")
    train.add_argument("--likelihood", choices=NAMES, help="bernoulli")
    train.add_argument("--objective", choices=("elbo", "iwae"), help="elbo")
    train.add_argument("--train-samples", type=_positive(int), metavar="K", help="of z for each x, for iwae; 8")
    train.add_argument("--gradient", choices=("standard", "stl", "dreg"), help="of iwae's encoder; standard")
    train.add_argument("--model", choices=("mlp", "conv"), help="mlp")
    train.add_argument("--latent-dim", type=_positive(int), help="16")
    train.add_argument("--hidden-dims", type=_sizes, metavar="N,N,...", help="of the mlp; 400")
    train.add_argument("--channels", type=_sizes, metavar="N,N,...", help="of the conv model; 32,64")
    train.add_argument("--beta", type=_not_negative, help="weight of the KL; 1")
    train.add_argument("--epochs", type=_positive(int), help="100")
    train.add_argument("--batch-size", type=_positive(int), help="64")
    train.add_argument("--lr", type=_positive(float), help="of Adam; 0.001")
    train.add_argument("--seed", type=int, help="0")
    train.add_argument("--num-samples", type=_positive(int), help="importance samples for each epoch's log p(x); 200")
    train.add_argument("--device", default="auto")
    train.add_argument(
        "--out", type=Path, default=None, help="a new folder; vaefast-run, vaefast-run-2, ... if not given"
    )
    train.add_argument(
        "--resume", type=Path, default=None, metavar="RUN", help="go on with a run, to --epochs if that is given"
    )

    evaluate = commands.add_parser("evaluate", help="test ELBO, log p(x) and their gap of a run")
    evaluate.add_argument("run", type=Path)
    evaluate.add_argument("--data", help="instead of the run's")
    evaluate.add_argument("--num-samples", type=_positive(int), default=5000, help="importance samples for log p(x)")
    evaluate.add_argument("--device", default="auto")
    evaluate.add_argument("--json", action="store_true")

    info = commands.add_parser("info", help="version and build")
    info.add_argument("--json", action="store_true")
    return parser


def _new_folder(wanted: Path | None) -> Path:
    if wanted is None:
        names = (Path("vaefast-run" if k == 1 else f"vaefast-run-{k}") for k in range(1, 10**6))
        return next(path for path in names if not path.exists())
    if wanted.exists() and (not wanted.is_dir() or any(wanted.iterdir())):
        raise ValueError(f"--out {wanted}: exists already; name a new folder")
    return wanted


def _config(kind: type, fields: dict[str, Any]) -> Any:
    if fields.get("data", "digits") != "digits":
        fields["data"] = os.path.abspath(fields["data"])
    config = kind(**fields)
    if config.objective == "elbo" and "train_samples" in fields:
        raise ValueError("--train-samples is for --objective iwae")
    if config.objective == "elbo" and config.gradient != "standard":
        raise ValueError("--gradient is for --objective iwae")
    if config.objective == "iwae" and config.beta != 1:
        raise ValueError("--beta is for --objective elbo; the importance-weighted bound has no KL to weigh")
    return config


def _train(arguments: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from . import runs, training

    first = int(os.environ.get("RANK", 0)) == 0
    fields = {name: vars(arguments)[name] for name in runs.Config.__dataclass_fields__ if name in arguments}
    device = training.choose_device(arguments.device)
    if arguments.resume is not None:
        out = arguments.resume
        config, shape = runs.load_config(out)
        if set(fields) - {"epochs"} or arguments.out is not None:
            raise ValueError("--resume goes on with the run's own settings; only --epochs and --device go with it")
        config = replace(config, **fields)
    else:
        config, shape = _config(runs.Config, fields), None
        out = _new_folder(arguments.out) if first else Path(os.devnull)
    dataset = training.load_data(config)
    if shape is not None and shape != dataset.sample_shape:
        raise ValueError(f"{dataset.name}: samples have shape {dataset.sample_shape}, the run's had {shape}")
    config.build(dataset.sample_shape)  # a size that cannot be built ends here, before anything is written

    console = Console(stderr=True, quiet=not first)
    sizes = f"{len(dataset.train)} samples to train on, {len(dataset.test)} held out, each {dataset.sample_shape}"
    console.print(f"{config.data}: {sizes}; {device}")
    columns = (
        TextColumn("epoch"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=config.epochs, state="")

        def progress(row: dict[str, Any]) -> None:
            bar.update(task, advance=1, state="test ELBO {test_elbo:.2f}  log p(x) {test_log_px:.2f}".format_map(row))

        metrics = training.train(config, dataset, out, device, progress, resume=arguments.resume is not None)
    if first:
        print(
            "test ELBO {test_elbo:.3f} nats, log p(x) {test_log_px:.3f}".format_map(metrics[-1])
            + f"; everything is in {out}"
        )


def _evaluate(arguments: argparse.Namespace) -> None:
    from . import runs, training

    device = training.choose_device(arguments.device)
    config, vae, metrics = runs.load_run(arguments.run, device)
    dataset = training.load_data(replace(config, data=arguments.data or config.data))
    torch.manual_seed(config.seed)
    made = tuple(vae.sample(1).shape[1:])
    if made != dataset.sample_shape:
        raise ValueError(f"{dataset.name}: samples have shape {dataset.sample_shape}, but the run's model makes {made}")
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


def _info(arguments: argparse.Namespace) -> None:
    build = _ops.build_info()
    info = {**build, "vaefast": __version__, "torch": torch.__version__, "built_for_torch": build["torch"]}
    info |= {"cpu_isa": _ops.cpu_isa(), "threads": torch.get_num_threads()}
    if arguments.json:
        print(json.dumps(info))
        return
    print(f"vaefast {__version__} on torch {torch.__version__}, built for {info['built_for_torch']}")
    print(f"CUDA architectures: {info['cuda_archs'] or 'none; built for the CPU only'}")
    print(f"CPU instruction sets: {', '.join(info['cpu_isas'])}; in use: {info['cpu_isa']}, {info['threads']} threads")
    print(f"terms: {', '.join(info['terms'])}")


def main(argv: list[str] | None = None) -> int:
    """Runs the command; bad input is one line on stderr and exit code 2."""
    arguments = _parser().parse_args(argv)
    try:
        {"train": _train, "evaluate": _evaluate, "info": _info}[arguments.command](arguments)
    except ModuleNotFoundError as error:
        print(_EXTRA.format(command=arguments.command, package=error.name), file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"vaefast {arguments.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"vaefast {arguments.command}: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
