"""Random calls against float64: every value and gradient within the published bounds, NaN exactly where the formula has
one, inputs left alone. `python -m tests.battery fuzz --case N` runs one call again and says everything about it."""

import itertools
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from tests.support.native import ROOT
from vaefast.ops import library

from . import Row
from ._calls import make
from ._draw import EMPTY, Call
from ._expect import EXPECT
from ._truth import APART, LONG, UNIT, Exact, exact

SEED = 20
CHUNK = 400  # calls whose truth is computed together


def truths(calls: Sequence[Call]) -> dict[int, list[Exact]]:
    """The truth of every use of every call, a term and a type at a time."""
    groups: dict[tuple, list] = {}
    found: dict[int, list] = {c.index: [None] * len(c.uses) for c in calls}
    for call in calls:
        for slot, use in enumerate(call.uses):
            groups.setdefault((use.term, call.compute), []).append((call.index, slot, use))
    for (term, compute), members in groups.items():
        whole = exact(
            term, [np.concatenate(columns) for columns in zip(*(u.operands for *_, u in members), strict=True)], compute
        )
        start = 0
        for index, slot, use in members:
            part = slice(start, start + use.operands[0].size)
            start = part.stop
            lists = ([t[part] for t in each] for each in (whole.outputs, whole.bounds))
            found[index][slot] = Exact(*lists, whole.promised[part], whole.huge[part], whole.lost[part])
    return found


def faults(call: Call, truth: Sequence[Exact]) -> Iterator[str]:
    """What is wrong with a call, in words."""
    u = UNIT[call.compute]
    wide = LONG if call.compute is np.float64 else np.float64
    up = call.upstream.get("loss", call.upstream.get("value"))
    factor = 1.0 if call.once or up is None else abs(up[0])
    unseen = {*call.outputs, *(name for name in call.grads if call.notes.get("num_samples") != 0)}
    for name, expected in EXPECT[call.kind](call, truth, u):
        unseen.discard(name)
        got = call.grads.get(name) if name in call.grads else call.outputs[name]
        kind, n = got.dtype, expected.true.size
        roundings = 1 if name in call.outputs or call.once else 3 if kind == torch.float32 else 2
        if got.numel() != n:  # an operand, or a beta, that elements share
            shape = call.inputs[0].tensor.shape if name.startswith("operand") else (n,)
            if got.dim() > 0:  # torch sums what it has expanded, each element rounded to its type
                expected = expected.stored(kind, u, roundings, factor)
            expected = expected.summed_to(shape, got.shape, u)
        values = got.double().contiguous().numpy().ravel().astype(wide)
        expected = expected.stored(kind, u, roundings, factor)
        wrong = expected.wrong(values)
        if wrong.any():
            i = int(np.argmax(wrong))
            off, bound = abs(values[i] - expected.true[i]), expected.bound[i]
            yield f"{name}[{i}] is {values[i]:.9g}, not {expected.true[i]:.9g}: off by {off:.3g}, bound {bound:.3g}"
    for each in call.inputs:
        if not each.untouched():
            yield f"{each.name} was written to"
        g = call.grads.get(each.name)
        if g is not None and (g.shape != each.tensor.shape or g.dtype != each.tensor.dtype):
            yield f"the gradient of {each.name} is {g.dtype} of shape {tuple(g.shape)}"
    for name, t in call.outputs.items():
        if t.dtype != (call.inputs[0].tensor.dtype if name == "z" else getattr(torch, call.compute.__name__)):
            yield f"{name} is {t.dtype}"
    if unseen:
        yield f"nothing is known of {', '.join(unseen)}"


def run(indices: Sequence[int]) -> Iterator[tuple[Call, list[str]]]:
    isa = library.cpu_isa()
    with np.errstate(all="ignore"):
        for start in range(0, len(indices), CHUNK):
            calls = [make(SEED, i) for i in indices[start : start + CHUNK]]
            exact_values = truths(calls)
            for call in calls:
                yield call, list(faults(call, exact_values[call.index]))
    library.set_cpu_isa(isa)


def rows(quick: bool) -> Iterator[Row]:
    count, kinds, failed = 20_000 if quick else 1_000_000, Counter(), []
    APART.clear()
    for call, wrong in run(range(count)):
        kinds[call.kind] += 1
        if wrong:
            failed.append(call.index)
            if len(failed) <= 5:
                print(f"  case {call.index}: {'; '.join(wrong)}", file=sys.stderr)
    shown = f"; first cases: {', '.join(map(str, failed[:5]))}" if failed else ""
    made = ", ".join(f"{n:,} {kind}" for kind, n in sorted(kinds.items()))
    yield Row("calls outside the bounds", f"{len(failed)} of {count:,} ({made}){shown}", "0", not failed)
    name = "elements where only one of reference.py and formula is finite, or NaN"
    yield Row(name, str(sum(APART.values())), "0", not APART)
    for (term, k), n in APART.items():
        yield Row(f"of them: {term}{f' by operand {k - 1}' if k else ''}", str(n), "0", False)
    yield empty(count // 20)


def empty(count: int) -> Row:
    """Tensors without elements, in a process that may crash."""
    code = f"from tests.battery.fuzz import walk; walk({EMPTY}, {count})"
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    *_, last = child.stdout.split("\n")[:-1] or [""]
    figure = f"0 of {count:,}" if last == "done" and child.returncode == 0 else f"{last}, exit {child.returncode}"
    return Row("calls without elements that fail or crash", figure, "0", figure.startswith("0 of"))


def walk(start: int, count: int) -> None:
    """One call at a time, saying which before it is made; ends at the first that fails."""
    torch.set_num_threads(1)
    for index in range(start, start + count):
        print(f"case {index}", flush=True)
        for _, wrong in run([index]):
            if wrong:
                print(f"case {index}: {wrong[0]}", flush=True)
                sys.exit(1)
    print("done", flush=True)


def explain(index: int) -> int:
    for call, wrong in run([index]):
        print(f"{call.kind}, seed {SEED}, case {index}")
        for name, value in call.notes.items():
            print(f"  {name}: {value}")
        for each in call.inputs:
            print(f"  {each.name} = {each.wide[:12].tolist()}{' ...' if each.wide.size > 12 else ''}")
        for name, g in call.upstream.items():
            print(f"  {'eps' if name == 'eps' else f'upstream of {name}'} = {g[:12].tolist()}")
        for name, t in itertools.chain(call.outputs.items(), ((f"gradient of {k}", g) for k, g in call.grads.items())):
            print(f"  {name} -> {t.flatten()[:12].tolist()} {t.dtype}")
        print("\n".join(wrong) or "within the bounds")
    return int(bool(wrong))
