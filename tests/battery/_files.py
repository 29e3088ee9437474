"""Mutated files of runs and data through the command line, in this process: each ends in success or in one clear line and exit
code 2. `python -m tests.battery._files COUNT [FIRST]` runs cases FIRST to FIRST + COUNT - 1, a process of its own."""

import contextlib
import dataclasses
import gzip
import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vaefast import cli
from vaefast.cli import training

from . import Row

SMALL = ["--hidden-dims", "8", "--latent-dim", "2", "--num-samples", "2", "--epochs", "1"]
MIB = 128  # what reading a damaged file may take beyond what reading whole ones takes
# A number that asks for much work is no damage.
WORK = ("epochs", "num_samples", "train_samples")
ODD = (None, True, -1, 0, 0.5, 10**12, -(10**30), 1e308, float("nan"), float("inf"), "", "x", "\0", [], [[]], {}, [0], [-3],
       ["a"], [10**6] * 3, {"a": 1}, [1] * 200, "../nowhere")  # fmt: skip


def command(*arguments: object) -> tuple[int, str, str]:
    """cli.main's exit code and what it wrote to stderr, and the traceback of an exception that left it."""
    err, trace, code = io.StringIO(), "", -1
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = cli.main([str(a) for a in arguments])
        except (Exception, SystemExit):
            trace = traceback.format_exc()
    return code, err.getvalue(), trace


def wrong(code: int, err: str, trace: str) -> str:
    """What is wrong with how a command ended; nothing is wrong with success, or with one line and exit code 2."""
    lines = [line for line in err.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("vaefast ")]
    if trace:
        return trace.strip().splitlines()[-1]
    if code == 0:
        return "success, and an error" if said else ""
    if code != 2:
        return f"exit code {code}"
    before = 0 if said and said[0].startswith("vaefast evaluate") else len(lines) - 1  # train speaks of its data first
    return "" if len(said) == 1 and lines[before:] == said else f"{len(lines)} lines: {err!r}"


class Originals:
    """A run and a data set of every kind, whole."""

    def __init__(self, folder: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
        self.folder, self.run = folder, folder / "run"
        self.data = {name: folder / name for name in ("x.npy", "x.npz", "x.idx", "x.gz", "images/3.png")}
        np.save(self.data["x.npy"], pixels)
        np.savez_compressed(self.data["x.npz"], x=pixels)
        idx = bytes([0, 0, 8, 3]) + struct.pack(">3I", *pixels.shape) + pixels.tobytes()
        self.data["x.idx"].write_bytes(idx)
        self.data["x.gz"].write_bytes(gzip.compress(idx))
        (folder / "images").mkdir()
        for k, each in enumerate(pixels):
            Image.fromarray(each).save(folder / "images" / f"{k}.png")
        ended = command("train", "--data", self.data["x.npy"], *SMALL, "--out", self.run)
        assert ended[0] == 0, ended
        self.whole = {path: path.read_bytes() for path in [*self.run.iterdir(), *self.data.values()]}

    def kinds(self) -> dict[str, tuple[Path, list[object]]]:
        """What is mutated, and the command that reads it."""
        evaluate = ["evaluate", self.run, "--num-samples", 2]
        resume = ["train", "--resume", self.run, "--epochs", 2]
        kinds: dict[str, tuple[Path, list[object]]] = {
            "config.json": (self.run / "config.json", evaluate),
            "config.json, resumed": (self.run / "config.json", resume),
            "metrics.jsonl": (self.run / "metrics.jsonl", evaluate),
            "model.safetensors": (self.run / "model.safetensors", evaluate),
            "checkpoint.safetensors": (self.run / "checkpoint.safetensors", resume),
        }
        for name, path in self.data.items():
            kinds[name] = (path, [*evaluate, "--data", path.parent if path.suffix == ".png" else path])
        return kinds

    def restore(self) -> None:
        for path, content in self.whole.items():
            path.write_bytes(content)


def mutate_json(content: bytes, rng: random.Random) -> bytes:
    """Another value, no value, or a value of another field."""
    *_, last = content.decode().strip().split("\n}\n")
    record = json.loads(last)
    for _ in range(rng.randint(1, 2)):
        name = rng.choice(list(record))
        if rng.random() < 0.15:
            del record[name]
        elif name in WORK:
            record[name] = rng.choice((None, -1, 0, 2, "2", 1.5, [2], True))
        else:
            record[name] = rng.choice((*ODD, rng.choice(list(record.values()) or [0])))
        if not record:
            break
    return json.dumps(record).encode() + b"\n"


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Bytes changed, cut out, put in or doubled, most often near the start, where a header stands."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        size = len(data)
        at = rng.randrange(min(size, rng.choice((16, 128, 512, size))) or 1) if size else 0
        length = rng.choice((1, 1, 2, 4, 8, 64))
        kind = rng.randrange(7)
        if kind == 0:
            data[at : at + 1] = bytes([data[at] ^ 1 << rng.randrange(8)]) if size else b""
        elif kind == 1:
            data[at : at + length] = rng.randbytes(length)
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length]
        elif kind == 4:
            data[at : at + length] = rng.choice((b"\xff", b"\0", b"\x7f", b"9", b"{", b"[", b'"', b"-")) * length
        elif kind == 5:
            digits = [i for i, b in enumerate(data[:2048]) if 48 <= b < 58]
            if digits:
                data[rng.choice(digits) :][:1] = b""
                data[rng.choice(digits)] = 48 + rng.randrange(10)
        elif rng.random() < 0.3:
            del data[at:]
    return bytes(data)


def check(originals: Originals, index: int) -> tuple[str, str, int]:
    """One case: its kind, what is wrong with how it ended, and the exit code."""
    rng = random.Random(index)
    kinds = originals.kinds()
    name = list(kinds)[index % len(kinds)]
    path, arguments = kinds[name]
    originals.restore()
    structured = path.suffix in (".json", ".jsonl") and rng.random() < 0.7
    path.write_bytes((mutate_json if structured else mutate)(originals.whole[path], rng))
    signal.alarm(60)  # one that hangs ends this process
    ended = command(*arguments)
    signal.alarm(0)
    return name, wrong(*ended), ended[0]


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable, tuple]:
        return os.mkdir, (str(self.path),)


def bombs(originals: Originals) -> Row:
    """Pickles in the place of every file; one that ran would leave a folder."""
    mark, ran, ended = originals.folder / "ran", 0, []
    objects = np.array([[Bomb(mark)]] * 3, dtype=object)
    as_npy, as_npz = io.BytesIO(), io.BytesIO()
    np.save(as_npy, objects, allow_pickle=True)
    np.savez(as_npz, x=objects)
    as_torch = io.BytesIO()
    torch.save({"x": Bomb(mark)}, as_torch)
    for path, arguments in originals.kinds().values():
        for content in (pickle.dumps(Bomb(mark)), as_npy.getvalue(), as_npz.getvalue(), as_torch.getvalue()):
            originals.restore()
            path.write_bytes(content)
            ended.append(wrong(*(said := command(*arguments))) or ("" if said[0] else "success"))
            ran += mark.exists()
    fault = next(filter(None, ended), "")
    figure = f"{ran} of {len(ended)} ran{', ' + fault if fault else ''}"
    pickle.loads(pickle.dumps(Bomb(mark)))
    return Row(
        "planted pickles that run (they do where unpickled)", figure, "0", not ran and not fault and mark.exists()
    )


def rows(count: int, first: int) -> Iterator[Row]:
    torch.set_num_threads(1)
    training.draw = lambda *_: None  # pictures are made of nothing that is read
    with tempfile.TemporaryDirectory() as folder:
        originals = Originals(Path(folder))
        for index in range(10):  # whole files, and what reading them takes
            _, arguments = list(originals.kinds().values())[index]
            originals.restore()
            ended = command(*arguments)
            assert ended[0] == 0, (arguments, ended)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        bad, codes = [], Counter()
        for index in range(first, first + count):
            kind, fault, code = check(originals, index)
            codes[code] += 1
            if fault:
                bad.append(kind)
                print(f"case {index}, {kind}: {fault}", file=sys.stderr)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
        named = ", ".join(f"{n} {kind}" for kind, n in Counter(bad).items())
        figure = f"{len(bad)} of {count:,} ({codes[0]:,} read, {codes[2]:,} refused{'; ' + named if named else ''})"
        yield Row("mutated files that end otherwise than in success or one line", figure, "0", not bad)
        yield Row("memory that mutated files take beyond whole ones", f"{grown} MiB", f"{MIB} MiB", grown <= MIB)
        yield bombs(originals)
        shutil.rmtree(originals.run)
        seen = (wrong(1, "", ""), wrong(2, "a\nb", ""), wrong(2, "", ""), wrong(-1, "", "ValueError: x"))
        yield Row("planted: ends of other kinds", f"{sum(map(bool, seen))} of 4 seen", "4 of 4", all(seen))


if __name__ == "__main__":
    for row in rows(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0):
        print(json.dumps(dataclasses.asdict(row)), flush=True)
