"""Forks, threads and exhausted memory, which forks of this process meet; it has one thread until the last of them.
`python -m tests.battery._processes [--quick]`, a process of its own."""

import dataclasses
import json
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vaefast import ELBOLoss
from vaefast import functional as VF

from . import Row

ALARM = 15  # seconds after which a child hangs


class Child:
    """A fork that runs `body` and ends with what it returns, its stderr piped here."""

    def __init__(self, body: Callable[[], int], seconds: int = 120) -> None:
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                os.dup2(writer, 2)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                signal.alarm(seconds)
                code = body()
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        os.close(writer)
        self.stderr = os.fdopen(reader, errors="replace")

    def wait(self) -> tuple[int, str]:
        """The exit code, or minus the signal that ended it, and stderr."""
        with self.stderr:
            err = self.stderr.read()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]), err

    def running(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def memory() -> Row:
    """Each call asks for more than the limit leaves; after it, a small one is right."""
    point, four = torch.zeros(1, 1), torch.zeros(1, 1, requires_grad=True)
    many, rows = point.expand(1 << 13, 1 << 16), point.expand(1 << 27, 1)
    calls: list[Callable[[], Tensor]] = [
        lambda: VF.reparameterize(many, many),
        lambda: VF.gaussian_kl(many, many, reduction="elementwise"),
        lambda: VF.gaussian_kl(rows, rows, reduction="sum"),  # the rows' sums, which are no tensor
        lambda: VF.gaussian_kl(four.expand(1 << 13, 1 << 16), many, reduction="sum").backward(),
        lambda: ELBOLoss()(four.expand(1 << 13, 1 << 16), many, point.expand(1 << 13, 1), point.expand(1 << 13, 1)).backward(),
    ]  # fmt: skip

    def body() -> int:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (512 << 20), used + (512 << 20)))
        survived = 0
        for k, call in enumerate(calls):
            try:
                call()
                print(f"call {k} did not raise", file=sys.stderr)
            except (MemoryError, RuntimeError) as error:
                if "memory" in str(error) or "alloc" in str(error):
                    survived += VF.gaussian_kl(torch.ones(2, 3), torch.zeros(2, 3)).tolist() == [1.5, 1.5]
                else:
                    print(f"call {k}: {error}", file=sys.stderr)
        return survived

    code, err = Child(body).wait()
    figure = f"{code} of {len(calls)}{'; ' + err.strip()[-200:] if err else ''}"
    return Row("memory that runs out: an exception, and the next call is right", figure, f"{len(calls)} of {len(calls)}", code == len(calls))  # fmt: skip


def calls_of_a_step(seed: int, generator: torch.Generator | None = None) -> list[Tensor]:
    """A loss and a sample with its KL, forward and backward, large enough for several threads."""
    g = torch.Generator().manual_seed(seed)
    logits, x = torch.randn(128, 784, generator=g), torch.rand(128, 784, generator=g)
    mu, logvar = torch.randn(2, 512, 64, generator=g)
    leaves = [t.requires_grad_() for t in (logits, mu, logvar)]
    z, kl = VF.rsample_kl(mu, logvar, generator=generator or g)
    value = ELBOLoss()(logits, x, mu[:128], logvar[:128]) + (z * z).sum() + kl.sum()
    return [value.detach(), z.detach(), *torch.autograd.grad(value, leaves)]


def same(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    """Without torch, whose own comparison hangs in a fork as its other operators do."""
    return all(s.numpy().tobytes() == t.numpy().tobytes() for s, t in zip(a, b, strict=True))


class Losses(Dataset):
    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Tensor:
        return calls_of_a_step(index)[0]


def threads(calls: int) -> Iterator[Row]:
    serial = [calls_of_a_step(k) for k in range(8)]

    def count(generator: torch.Generator | None = None) -> int:
        def thread(k: int) -> int:
            return sum(not same(calls_of_a_step(k, generator), serial[k]) for _ in range(calls))

        with ThreadPoolExecutor(8) as pool:
            return sum(pool.map(thread, range(8)))

    yield Row(f"8 Python threads, {calls:,} calls each: not the bits of one", f"{(n := count())}", "0", n == 0)
    n = count(torch.Generator())
    yield Row("planted: calls of other noise", f"{n} of {8 * calls:,} seen", "some", n > 0)


def forks(times: int) -> Iterator[Row]:
    torch.set_num_threads(2)
    expected = [calls_of_a_step(k) for k in range(16)]  # and OpenMP has its threads
    warnings.simplefilter("ignore")  # of more workers than cores
    loaded = torch.cat(list(DataLoader(Losses(), batch_size=4, num_workers=4, timeout=60)))
    right = int((loaded == torch.stack([e[0] for e in expected])).sum())
    yield Row("a DataLoader's 4 workers, after use: right losses", f"{right} of 16", "16 of 16", right == 16)
    ended = []
    for k in range(times):
        ended.append(Child(lambda k=k: 0 if same(calls_of_a_step(k % 16), expected[k % 16]) else 1, ALARM).wait()[0])
        if ended.count(-signal.SIGALRM) == 2:
            break  # it is known by now
    hung, wrong = ended.count(-signal.SIGALRM), sum(code > 0 for code in ended)
    figure = f"{hung} hang, {wrong} wrong, of {len(ended)}"
    yield Row("forks after use", figure, f"0 of {times}", ended == [0] * times)
    hung, _ = Child(lambda: time.sleep(60) or 0, 1).wait()
    yield Row(
        "planted: a child that waits for ever", "caught" if hung == -signal.SIGALRM else "missed", "caught", hung < 0
    )


def rows(quick: bool) -> Iterator[Row]:
    torch.set_num_threads(1)
    yield memory()
    yield from threads(50 if quick else 1000)
    yield from forks(3 if quick else 20)


if __name__ == "__main__":
    for row in rows("--quick" in sys.argv):
        print(json.dumps(dataclasses.asdict(row)), flush=True)
