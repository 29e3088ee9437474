"""Runs of `vaefast train` that are killed, interrupted, or find the disk full: what is left loads and goes on. Each is a fork of
this process, which has one thread. `python -m tests.battery._runs [--quick]`, a process of its own."""

import dataclasses
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

from tests.support.native import ROOT
from vaefast import cli
from vaefast.cli import runs, training

from . import Row
from ._processes import Child

SMALL = ["--hidden-dims", "1024", "--latent-dim", "2", "--num-samples", "2"]


def command(*arguments: object, before: Callable[[], object] = lambda: None) -> Child:
    def body() -> int:
        before()
        return cli.main([str(a) for a in arguments])

    return Child(body)


def one_line(err: str) -> bool:
    said = [line for line in err.splitlines() if line.startswith("vaefast ")]
    return len(said) == 1 and "Traceback" not in err and "Error:" not in err.replace(said[0], "")


def unloadable(run: Path) -> str:
    """What keeps a run from being evaluated and resumed."""
    code, err = command("evaluate", run, "--num-samples", 2).wait()
    if code == 0:
        done = len((run / "metrics.jsonl").read_text().splitlines())
        code, err = command("train", "--resume", run, "--epochs", done + 1).wait()
    return "" if code == 0 else err.strip()[-200:] or f"exit {code}"


def started(run: Path, data: Path) -> Child:
    """A run that trains and writes again and again, after its first epoch."""
    child = command("train", "--data", data, *SMALL, "--epochs", 10**6, "--out", run)
    while not (run / "checkpoint.safetensors").exists():
        assert child.running(), child.wait()
        time.sleep(0.002)
    return child


def killed(folder: Path, data: Path, times: int) -> Iterator[Row]:
    rng, faults, writing = random.Random(2), [], 0
    for k in range(times):
        run = folder / f"killed-{k}"
        child = started(run, data)
        time.sleep(rng.uniform(0, 0.3))
        while k % 2 and not any(run.glob("*.partial")) and child.running():
            pass  # every second one in the middle of a file
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        writing += any(run.glob("*.partial"))
        faults.append(unloadable(run))
    bad = [f for f in faults if f]
    figure = f"{times - len(bad)} of {times} ({writing} while a file was written){'; ' + bad[0] if bad else ''}"
    yield Row("runs that load and go on after SIGKILL", figure, f"{times} of {times}", not bad)

    def torn() -> None:
        """A writer that writes in place, and dies halfway."""

        def half(path: Path, content: bytes) -> None:
            with open(path, "wb") as file:
                file.write(content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

        runs.replaced, Path.write_bytes = nullcontext, half

    run = folder / "killed-0"
    done = len((run / "metrics.jsonl").read_text().splitlines())
    command("train", "--resume", run, "--epochs", done + 1, before=torn).wait()
    fault = unloadable(run)
    yield Row("planted: a writer without a second file", "caught" if fault else "missed", "caught", bool(fault))


def interrupted(folder: Path, data: Path, times: int) -> Iterator[Row]:
    rng, bad = random.Random(3), []
    for k in range(times):
        run = folder / f"interrupted-{k}"
        child = started(run, data)
        time.sleep(rng.uniform(0, 0.3))
        os.kill(child.pid, signal.SIGINT)
        code, err = child.wait()
        if code != 130 or not one_line(err):
            bad.append(f"exit {code}: {err[-200:]!r}")
        elif fault := unloadable(run):
            bad.append(fault)
    figure = f"{times - len(bad)} of {times}{'; ' + bad[0] if bad else ''}"
    yield Row("Ctrl-C: exit code 130, one line, and the run goes on", figure, f"{times} of {times}", not bad)


def full_disk(folder: Path, data: Path) -> Row:
    """A limit to the size of files, which fails a write as a full disk does, at each of the files of an epoch."""
    run, bad = folder / "full", []
    code, err = command("train", "--data", data, *SMALL, "--epochs", 2, "--out", run).wait()
    assert code == 0, err
    model, checkpoint = ((run / f"{name}.safetensors").stat().st_size for name in ("model", "checkpoint"))
    limits = (0, 100, 700, model - 1, model + 1, checkpoint - 1)
    for limit in limits:
        epochs = len((run / "metrics.jsonl").read_text().splitlines()) + 2

        def small(limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        code, err = command("train", "--resume", run, "--epochs", epochs, before=small).wait()
        if code != 2 or not one_line(err):
            bad.append(f"{limit} bytes: exit {code}: {err[-200:]!r}")
        elif fault := unloadable(run):
            bad.append(f"{limit} bytes: {fault}")
    figure = f"{len(limits) - len(bad)} of {len(limits)}{'; ' + bad[0] if bad else ''}"
    return Row("a full disk: one line, and the run goes on", figure, f"{len(limits)} of {len(limits)}", not bad)


def terminal(folder: Path) -> Row:
    """Ctrl-C once more, on the command itself."""
    run = folder / "terminal"
    command = [sys.executable, "-m", "vaefast", "train", *SMALL, "--epochs", "9999", "--out", str(run)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))  # fmt: skip
    while not (run / "checkpoint.safetensors").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    met = process.returncode == 130 and one_line(err) and not unloadable(run)
    return Row("Ctrl-C on the command itself", f"exit {process.returncode}", "exit 130, one line", met)


def rows(quick: bool) -> Iterator[Row]:
    torch.set_num_threads(1)
    training.draw = lambda *_: None  # pictures are no part of a run's state
    times = 2 if quick else 20
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(data := folder / "x.npy", np.random.default_rng(0).integers(0, 256, (12, 16, 16), dtype=np.uint8))
        code = cli.main(["train", "--data", str(data), *SMALL, "--epochs", "1", "--out", str(folder / "first")])
        assert code == 0  # and what a run imports, its forks have
        yield from killed(folder, data, times)
        yield from interrupted(folder, data, times)
        yield full_disk(folder, data)
        if not quick:
            yield terminal(folder)


if __name__ == "__main__":
    for row in rows("--quick" in sys.argv):
        print(json.dumps(dataclasses.asdict(row)), flush=True)
