"""The parser of the command line. Files of settings are read by the same rules."""

import argparse
import math
import re
from pathlib import Path
from typing import Any, NoReturn

import vaefast

from .config import CHOICES

_LOADING = """\
RUN/exported then holds two programs that need only torch and take batches of any size:

  encoder = torch.export.load("encoder.pt2").module()
  decoder = torch.export.load("decoder.pt2").module()
  mu, logvar = encoder(x)      x: (B, *sample shape), scaled as in training (images in [0, 1])
  mean = decoder(mu)           E[x|z] for z of shape (B, latent_dim)
"""


def _positive(kind: type) -> Any:
    def parse(text: str) -> Any:
        value = kind(text)
        if not 0 < value < math.inf:
            raise ValueError
        return value

    parse.__name__ = {int: "a positive whole number", float: "a positive number"}[kind]
    return parse


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError
    return value


_not_negative.__name__ = "a number from 0 on"


def _seed(text: str) -> int:
    value = int(text)
    if not -(2**63) <= value < 2**64:  # what torch.manual_seed takes
        raise ValueError
    return value


_seed.__name__ = "a whole number of 64 bits"


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(_positive(int)(part) for part in text.split(",") if part)


_sizes.__name__ = "positive whole numbers, with commas between"


def _source(text: str) -> str:
    if not text:
        raise ValueError
    return text


_source.__name__ = "digits, a file or a folder"


def _ending(*suffixes: str) -> Any:
    """Parses the name of a file to write. It must end in one of `suffixes`, so that a slip cannot overwrite a run's
    files."""

    def parse(text: str) -> Path:
        if not text.endswith(suffixes):
            raise ValueError
        return Path(text)

    parse.__name__ = f"a file name that ends in {' or '.join(suffixes)}"
    return parse


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in one sentence, in the same words as --config, instead of printing the usage."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            command = f"{self.prog} {parsed.command}"
            self.exit(2, f"{command}: does not know {' '.join(rest)}; {command} --help shows the usage\n")
        return parsed

    def error(self, message: str) -> NoReturn:
        message = re.sub(
            r"^argument (.*?): invalid (.*) value: (.*)$", r"\1 must be \2, got \3", message, flags=re.DOTALL
        )
        message = re.sub(
            r"^argument (.*?): invalid choice: (.*) \(choose from (.*)\)$", r"\1 must be one of \3, got \2", message
        )
        self.exit(2, f"{self.prog}: {message}; {self.prog} --help shows the usage\n")


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    top = _Parser(prog="vaefast", description="Train and examine variational autoencoders.")
    top.add_argument("--version", action="version", version=f"vaefast {vaefast.__version__}")
    commands = top.add_subparsers(dest="command", required=True)
    _add_train(commands)
    _add_those_of_a_run(commands)
    info = commands.add_parser("info", help="version and build")
    info.add_argument("--json", action="store_true", help="print as JSON")
    return top


def _add_train(commands: Any) -> None:
    # An option that is not given is left out, because the defaults are those of Config.
    suppress = argparse.SUPPRESS
    train = commands.add_parser("train", help="train a VAE and write a run folder", argument_default=suppress)
    train.add_argument(
        "--data", type=_source, help="digits (scikit-learn's), a .npy, .npz or IDX file, or a folder of images"
    )
    train.add_argument("--likelihood", choices=CHOICES["likelihood"], help="default: bernoulli")
    train.add_argument("--objective", choices=CHOICES["objective"], help="default: elbo")
    train.add_argument(
        "--train-samples", type=_positive(int), metavar="K", help="samples of z for each x, only for iwae; default: 8"
    )
    train.add_argument(
        "--gradient",
        choices=CHOICES["gradient"],
        help="gradient of the encoder, only for iwae; default: standard",
    )
    train.add_argument("--model", choices=CHOICES["model"], help="default: mlp")
    train.add_argument("--latent-dim", type=_positive(int), help="default: 16")
    train.add_argument(
        "--hidden-dims", type=_sizes, metavar="N,N,...", help="widths of the mlp's layers, '' for none; default: 400"
    )
    train.add_argument("--channels", type=_sizes, metavar="N,N,...", help="channels of the conv model; default: 32,64")
    train.add_argument("--beta", type=_not_negative, help="weight of the KL; default: 1")
    train.add_argument("--epochs", type=_positive(int), help="default: 100")
    train.add_argument("--batch-size", type=_positive(int), help="default: 64")
    train.add_argument("--lr", type=_positive(float), help="learning rate of Adam; default: 0.001")
    train.add_argument("--seed", type=_seed, help="default: 0")
    train.add_argument(
        "--num-samples", type=_positive(int), help="importance samples for each epoch's log p(x); default: 200"
    )
    train.add_argument("--device", default="auto", help="such as cuda:1; default: auto, a GPU if there is one")
    train.add_argument(
        "--config",
        type=Path,
        default=None,
        metavar="FILE",
        help="settings from a .toml file or a run's config.json; options on the command line override them",
    )
    train.add_argument(
        "--out", type=Path, default=None, help="a new folder for the run; default: vaefast-run, vaefast-run-2, ..."
    )
    train.add_argument(
        "--resume", type=Path, default=None, metavar="RUN", help="continue a run, up to --epochs if that is given"
    )
    train.add_argument(
        "--tensorboard", action="store_true", default=False, help="also write scalars for tensorboard --logdir RUN"
    )


def _add_those_of_a_run(commands: Any) -> None:
    """Adds the commands that use a run: evaluate, report, sample, reconstruct, export."""

    def of_a_run(name: str, help: str, **more: Any) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, **more)
        command.add_argument("run", type=Path, metavar="RUN", help="a folder that vaefast train has written")
        command.add_argument("--device", default="auto", help="such as cuda:1; default: auto, a GPU if there is one")
        return command

    evaluate = of_a_run("evaluate", "test ELBO, log p(x) and their gap of a run")
    other = "measure on all of this file or folder instead of the run's own held-out samples"
    evaluate.add_argument("--data", type=_source, help=other)
    evaluate.add_argument(
        "--num-samples", type=_positive(int), default=5000, help="importance samples for log p(x); default: 5000"
    )
    evaluate.add_argument("--json", action="store_true", help="print as JSON")

    report = of_a_run("report", "one HTML page about a run: curves, pictures, codes, bounds, settings")
    report.add_argument("--data", type=_source, help=other)
    report.add_argument(
        "--num-samples", type=_positive(int), default=500, help="importance samples for log p(x); default: 500"
    )
    report.add_argument("--out", type=_ending(".html"), metavar="FILE.html", help="default: RUN/report.html")

    sample = of_a_run("sample", "pictures of what a run's model makes: E[x|z] for z drawn from the prior")
    sample.add_argument("-n", type=_positive(int), default=64, help="number of samples; default: 64")
    sample.add_argument("--seed", type=_seed, default=0, help="default: 0")
    sample.add_argument("--out", type=_ending(".png", ".npy"), default=Path("samples.png"), metavar="FILE",
                        help="default: samples.png; a .npy file gets numbers instead")  # fmt: skip

    reconstruct = of_a_run(
        "reconstruct", "your data beside what a run's model makes of it: E[x|z] at the mean of q(z|x)"
    )
    reconstruct.add_argument("files", nargs="+", type=Path, metavar="FILE",
                             help="images, folders of images, or .npy, .npz or IDX files")  # fmt: skip
    reconstruct.add_argument("--out", type=_ending(".png", ".npy"), default=Path("reconstructions.png"), metavar="FILE",
                             help="default: reconstructions.png; a .npy file gets numbers instead")  # fmt: skip

    export = of_a_run("export", "a run's encoder and decoder as programs that need only torch", epilog=_LOADING,
                      formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    export.add_argument("--out", type=Path, metavar="FOLDER", help="default: RUN/exported")
