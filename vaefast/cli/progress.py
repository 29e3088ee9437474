"""The display of a training run: the progress bar, and scalars for TensorBoard."""

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from .training import Watcher

_EVERY = 0.1  # seconds between two updates: as often as an eye can tell, and cheap next to the batches in between


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


class Scalars(Watcher):
    """Writes each epoch's row as scalars to the run's folder. A resumed run keeps the scalars of earlier epochs."""

    def __init__(self, out: Path, first_epoch: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError("--tensorboard needs the package tensorboard: pip install tensorboard") from None
        self.open = lambda: SummaryWriter(str(out / "tensorboard"), purge_step=first_epoch)
        self.writer: Any = None

    def finished(self, row: dict[str, Any]) -> None:
        self.writer = self.writer or self.open()  # opened when there is something to write
        for name, value in row.items():
            if name != "epoch":
                self.writer.add_scalar(name.replace("_", "/", 1), value, row["epoch"])  # test_elbo: test/elbo
        self.writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


class Bar(Watcher):
    """Progress bar with test ELBO, log p(x), training samples per second and remaining time. It moves within an epoch."""

    def __init__(self, console: Console, epochs: int, samples: int, scalars: Scalars | None = None) -> None:
        self.epochs, self.samples, self.scalars = epochs, samples, scalars
        self.results = ""
        self.due = self.rate = 0.0
        self.long = False  # whether an epoch takes more than 2 seconds
        self.first: tuple[float, int] | None = None  # start time and number of the first epoch of this process
        self.wide = console.width >= 100
        columns = (
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(30 if self.wide else 4),
            TextColumn("{task.fields[state]}"),
        )
        self.bar = Progress(*columns, console=console)
        self.task = self.bar.add_task("", total=epochs, state="", epoch=f"0/{epochs}")

    def __enter__(self) -> "Bar":
        self.bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.__exit__(*error)
        if self.scalars is not None:
            self.scalars.close()

    def batch(self, epoch: int, samples: int) -> None:
        now = time.perf_counter()
        if samples == 0:
            self.started = now
            self.first = self.first or (now, epoch)
        elif now >= self.due or samples == self.samples:
            self.rate = samples / max(1e-9, now - self.started)
        self.long = self.long or now - self.started > 2
        testing = self.long and samples == self.samples
        if now < self.due and not testing:
            return
        self.due = now + _EVERY
        self._show(now, epoch, samples / self.samples, "testing" if testing else "")

    def finished(self, row: dict[str, Any]) -> None:
        self.results = "test ELBO {test_elbo:.2f}  log p(x) {test_log_px:.2f}".format_map(row)
        self._show(time.perf_counter(), row["epoch"], 1.0)
        if self.scalars is not None:
            self.scalars.finished(row)

    def _show(self, now: float, epoch: int, part: float, doing: str = "") -> None:
        assert self.first is not None
        since, first = self.first
        done = epoch - first + part
        unit = " samples/s" if self.wide else "/s"
        parts = [self.results, doing or (f"{self.rate:,.0f}{unit}" if self.rate else "")]
        if done > 0 and (self.results or not doing):  # the first test's time is not known
            parts.append(_clock((now - since) / done * (self.epochs - epoch + 1 - part)))
        state = "  ".join(p for p in parts if p)
        at = f"{epoch}/{self.epochs}" + (f" {part:4.0%}" if self.long else "")
        self.bar.update(self.task, completed=epoch - 1 + part, epoch=at, state=state)
