"""Settings of a run: read from a file, merged with the command line, and written as a command."""

import argparse
import difflib
import json
import os
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from .config import Config
from .options import parser


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".toml":
        if sys.version_info < (3, 11):
            raise ValueError(f"--config {path}: reading TOML needs Python 3.11 or newer; write it as JSON")
        import tomllib

        load = tomllib.loads
    else:
        load = json.loads
    try:
        record = load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"--config {path}: no such file") from None
    except OSError as error:
        raise ValueError(f"--config {path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # errors of both decoders, and of bytes that are not text
        raise ValueError(f"--config {path}: is not {path.suffix[1:] or 'json'} ({error})") from None
    if not isinstance(record, dict):
        raise ValueError(f"--config {path}: expected names and values, got a {type(record).__name__}")
    return record


def read_settings(path: Path) -> dict[str, Any]:
    """Returns the settings of a file, each checked like its option. A path to data is relative to the file."""
    commands = next(a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    actions = {action.dest: action for action in commands.choices["train"]._actions}
    kinds = {field.name: type(field.default) for field in fields(Config)}
    settings: dict[str, Any] = {}
    for key, value in _read(path).items():
        name = key.replace("-", "_")
        if name in ("vaefast", "sample_shape"):  # entries of config.json that are not settings
            continue
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(kinds)}"
            raise ValueError(f"--config {path}: {key!r} is not a setting; {hint}")
        action = actions[name]
        parse: Any = action.type or str
        try:
            if kinds[name] is tuple:
                settings[name] = parse(",".join(map(str, value if isinstance(value, list) else [value])))
            elif isinstance(value, str) != (kinds[name] is str):
                raise ValueError
            else:
                settings[name] = parse(str(value))
            if action.choices is not None and settings[name] not in action.choices:
                raise ValueError
        except ValueError:
            expected = "one of " + ", ".join(action.choices) if action.choices else parse.__name__
            raise ValueError(f"--config {path}: {key} must be {expected}, got {value!r}") from None
    if settings.get("data", "digits") != "digits":
        settings["data"] = os.path.join(os.path.dirname(os.path.abspath(path)), settings["data"])
    return settings


def make_config(given: dict[str, Any], settings: dict[str, Any]) -> Config:
    """Returns the Config. Options `given` on the command line override the `settings` of a file."""
    if given.get("data", "digits") != "digits":
        given = {**given, "data": os.path.abspath(given["data"])}
    objective = given.get("objective", settings.get("objective", "elbo"))
    if objective != settings.get("objective", objective):  # settings for the file's objective do not apply
        settings = {k: v for k, v in settings.items() if k not in ("train_samples", "gradient", "beta")}
    config = Config(**{**settings, **given})
    if config.objective == "elbo" and ("train_samples" in given or config.train_samples != Config().train_samples):
        raise ValueError("--train-samples is for --objective iwae")
    if config.objective == "elbo" and config.gradient != "standard":
        raise ValueError("--gradient is for --objective iwae")
    if config.model == "conv" and not config.channels:
        raise ValueError("--channels needs one number for each stage")
    if config.objective == "iwae" and config.beta != 1:
        raise ValueError("--beta is for --objective elbo; the importance-weighted bound has no KL to weigh")
    return config


def command(config: Config) -> str:
    """Returns the shell command that trains the same model again."""
    words = ["vaefast", "train"]
    for field in fields(config):
        value = getattr(config, field.name)
        if value != field.default or field.name in ("data", "epochs", "seed"):
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            option = f"--{field.name.replace('_', '-')}"
            words += [f"{option}={text}"] if text.startswith("-") else [option, text]
    return shlex.join(words)
