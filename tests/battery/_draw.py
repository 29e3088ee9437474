"""Random inputs, and what is kept of a call: everything drawn is a function of (seed, index) alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tests.support.terms import OPTIONS, TERMS
from vaefast.ops import library

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
NAMES = [name for name in library.build_info()["terms"] if name in TERMS]
ISAS = library.build_info()["cpu_isas"]
_INF, _NAN, _TINY, _MOST = np.inf, np.nan, 2.0**-126, 2.0**128 * (1 - 2.0**-24)
_REAL = [0.0, -0.0, _INF, -_INF, _NAN, 1e-45, -1e-40, _TINY, _MOST, -_MOST, 1e20, -1e20, 88.7, -88.7, 104, -104, 1, -1]
_SCALE = [0.0, 1.0, 1e-45, _TINY, 1e-8, 1 - 2.0**-24, 2.0, 1e20, _INF, _NAN]
_COUNT = [0.0, -0.0, 1.0, 2.0, 255.0, 65504.0, 2.0**24, 1e9, -1.0, 0.5, _NAN, _INF, -_INF]
_UNIT = [0.0, -0.0, 1.0, 0.5, _NAN, 1e-45, _TINY, 1e-8, 1 - 2.0**-24, 2.0, -1.0, _INF]
EMPTY = 10**9  # calls from this index on have tensors without elements


@dataclass
class Use:
    """A term at operands that are to be looked up in the truth: everything in float64 and flat."""

    term: str
    operands: list[np.ndarray]
    rows: int
    mask: np.ndarray | None = None


@dataclass
class Call:
    index: int
    kind: str
    compute: type = np.float32
    notes: dict[str, object] = field(default_factory=dict)  # everything that was drawn, for a person to read
    inputs: list["Input"] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    grads: dict[str, Tensor] = field(default_factory=dict)
    upstream: dict[str, np.ndarray] = field(default_factory=dict)
    once: bool = True  # whether half gradients are rounded once; a one-pass buffer is rounded again when it is scaled


class Input:
    """A tensor, its values in float64, and what its memory holds before the call."""

    def __init__(self, name: str, t: Tensor, base: Tensor) -> None:
        self.name, self.tensor, self.base = name, t, base
        self.wide = t.detach().double().contiguous().numpy().ravel()
        self.bytes = base.reshape(-1).view(torch.uint8).clone() if base.numel() else None

    def untouched(self) -> bool:
        same = self.bytes is None or torch.equal(self.bytes, self.base.reshape(-1).view(torch.uint8))
        return same and self.tensor._version == 0


def arrange(t: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    """The values of t behind other strides (one row of them for "expanded"), and the memory that they stand in."""
    if layout == "contiguous" or t.dim() == 0 or t.numel() == 0:
        return t, t
    if layout == "chunk":
        base = torch.cat([t, t], -1)
        return base.chunk(2, -1)[1], base
    if layout == "column stride":
        base = torch.stack([t, t], -1)
        return base[..., 0], base
    if layout == "transposed":
        base = t.transpose(0, -1).contiguous()
        return base.transpose(0, -1), base
    if layout == "misaligned":
        base = torch.cat([t.new_zeros(1), t.flatten()])
        return base[1:].view(t.shape), base
    if layout == "channels last" and t.dim() == 4:
        base = t.permute(0, 2, 3, 1).contiguous()
        return base.permute(0, 3, 1, 2), base
    base = t.narrow(t.dim() // 2, 0, 1).contiguous()
    return base.expand(t.shape), base


LAYOUTS = (
    "contiguous",
    "contiguous",
    "chunk",
    "column stride",
    "transposed",
    "misaligned",
    "channels last",
    "expanded",
)


class Draw:
    """Draws one call."""

    def __init__(self, seed: int, index: int) -> None:
        self.rng = np.random.Generator(np.random.Philox(key=[seed, index]))
        kind = self.pick(["term"] * 14 + ["loss"] * 4 + ["sample"] * 2)
        self.call = Call(index, kind)
        self.special = self.chance(0.25)  # a fifth of such a call's numbers: 5 % of all
        self.isa = self.note("isa", self.pick(ISAS))

    def pick(self, choices: Sequence):
        return choices[self.rng.integers(len(choices))]

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def note(self, name: str, value):
        self.call.notes[name] = value
        return value

    def shape(self, least: int = 0, most: int = 5) -> tuple[int, ...]:
        dims = self.rng.integers(least, most + 1)
        sizes = [int(n) for n in self.rng.integers(1, 6 if dims < 4 else 4, dims)]
        if self.call.index >= EMPTY:
            sizes = sizes or [0]
            sizes[self.rng.integers(len(sizes))] = 0
        elif dims and self.chance(0.06):
            sizes = [min(n, 2) for n in sizes[:-1]]
            sizes.append(self.pick([17, 64, 255, 500, 1023, 1024, 1025]))
        return tuple(sizes)

    def values(self, shape: tuple[int, ...], kind: str) -> Tensor:
        if kind == "real":
            x = np.asarray(self.rng.standard_normal(shape)) * self.pick([1e-3, 0.03, 1.0, 1.0, 3.0, 30.0])
        elif kind == "option":
            return torch.from_numpy(np.asarray(np.exp(self.rng.standard_normal(shape))))
        elif kind == "count":
            x = np.asarray(self.rng.poisson(np.exp(self.rng.standard_normal(shape) * self.pick([1.0, 1.0, 3.0])))) * 1.0
        elif kind == "scale":
            x = np.exp(np.asarray(self.rng.standard_normal(shape)) * self.pick([1e-3, 0.3, 1.0, 5.0]))
        else:
            x = np.asarray(self.rng.random(shape))
            form = self.pick(["uniform", "binary", "k/255"])
            x = np.round(x) if form == "binary" else np.round(x * 255) / 255 if form == "k/255" else x
        if x.size == 0 and self.chance(0.7):  # numpy's empty arrays have strides of 0, which torch takes over
            return torch.empty(shape, dtype=torch.float64)
        if self.special:
            pool = np.array({"real": _REAL, "scale": _SCALE, "count": _COUNT}.get(kind, _UNIT))
            x = np.where(self.rng.random(shape) < 0.2, pool[self.rng.integers(len(pool), size=shape)], x)
        return torch.from_numpy(np.asarray(x))

    def input(self, name: str, t: Tensor) -> Input:
        layout = self.pick(LAYOUTS)
        view, base = arrange(t.contiguous(), layout)
        view = view.detach()
        self.note(name, f"{str(t.dtype)[6:]} {tuple(t.shape)} {layout}")
        self.call.inputs.append(Input(name, view, base))
        return self.call.inputs[-1]

    def target(self, shape: tuple[int, ...], drawn: str, dtype: torch.dtype) -> tuple[Input, float]:
        counts = drawn == "count data"
        integers = ["int16", "int32", "int64"] if counts else []
        kind = self.pick(["same", "same", "float32", "uint8", "bool", *integers])
        if kind in integers:
            x = np.asarray(self.rng.poisson(np.exp(self.rng.standard_normal(shape) * 2)))
            return self.input("x", torch.from_numpy(np.asarray(x)).to(getattr(torch, kind))), 1.0
        if kind in ("uint8", "bool"):
            image = torch.from_numpy(np.asarray(self.rng.integers(0, 256 if kind == "uint8" else 2, shape)))
            scale = 1 / 255 if kind == "uint8" and not counts else 1.0
            return self.input("x", image.to(getattr(torch, kind))), scale
        own = {"unit data": "unit", "count data": "count", "positive data": "scale"}.get(drawn, "real")
        x = self.values(shape, own).to(dtype if kind == "same" else torch.float32)
        return self.input("x", x), 0.5 if self.chance(0.2) and not counts else 1.0

    def operands(self, term: str, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[list[Input], float]:
        """Operands of a term, and the target's scale."""
        found: list[Input] = []
        scale = 1.0
        for k, drawn in enumerate(TERMS[term].kinds):
            if k == TERMS[term].target:
                x, scale = self.target(shape, drawn, dtype)
                found.append(x)
                continue
            own = torch.float32 if k and dtype != torch.float64 and self.chance(0.1) else dtype
            own_shape = self.small(shape) if k > 1 and self.chance(0.4) else shape
            options = dict.fromkeys(OPTIONS, "option")
            kind = {"probs": "unit", "scale": "scale", "rate": "scale", **options}.get(drawn, "real")
            found.append(self.input(f"operand {k}", self.values(own_shape, kind).to(own)))
        return found, self.note("target_scale", scale)

    def small(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A shape that is broadcastable to this one: one number, a number for each column, for each row, and so on."""
        kept = [n if self.chance(0.5) else 1 for n in shape]
        while kept and kept[0] == 1 and self.chance(0.7):
            del kept[0]
        return tuple(kept)

    def dtype(self) -> torch.dtype:
        chosen = self.pick(FLOATS)
        self.call.compute = np.float64 if chosen == torch.float64 else np.float32
        return chosen

    def use(self, term: str, inputs: list[Input], rows: int, mask: Tensor | None, scale: float) -> Use:
        shape = inputs[0].tensor.shape
        wide = [np.broadcast_to(i.wide.reshape(i.tensor.shape), shape).ravel() for i in inputs]
        if scale != 1:
            compute = self.call.compute
            wide[1] = (wide[1].astype(compute) * compute(scale)).astype(np.float64)
        flat = None if mask is None else mask.expand(inputs[0].tensor.shape).numpy().ravel()
        self.call.uses.append(Use(term, wide, rows, flat))
        return self.call.uses[-1]

    def mask(self, shape: tuple[int, ...]) -> Tensor | None:
        if not self.chance(0.25):
            return None
        own = [n if self.chance(0.7) else 1 for n in shape]
        return torch.from_numpy(np.asarray(self.rng.random(self.note("mask", own)) < 0.7))

    def require(self, inputs: list[Input]) -> list[Input]:
        floats = [i for i in inputs if i.tensor.is_floating_point()]
        every = self.chance(0.8)
        return [i for i in floats if every or self.chance(0.5)]

    def backward(self, outputs: dict[str, Tensor], wanted: list[Input]) -> None:
        """Gradients of the outputs under random upstream gradients; once or, over a retained graph, twice."""
        call = self.call
        call.outputs = {name: t.detach() for name, t in outputs.items()}
        if not wanted:
            return
        ups = []
        outputs = {name: t for name, t in outputs.items() if t.requires_grad}
        for name, t in outputs.items():
            g = np.asarray(self.rng.standard_normal(t.shape) * self.pick([1e-3, 1.0, 30.0]))
            g = np.where(self.rng.random(t.shape) < 0.05, 0.0, g)
            up = torch.ones_like(t) if self.chance(0.2) else torch.from_numpy(g).to(t.dtype)
            ups.append(arrange(up, self.pick(LAYOUTS))[0])
            call.upstream[name] = ups[-1].double().contiguous().numpy().ravel()
        leaves, twice = (
            [i.tensor for i in wanted],
            self.note("twice", self.chance(0.1) and not call.notes.get("inplace")),
        )
        for again in (True, False) if twice else (False,):
            got = torch.autograd.grad(list(outputs.values()), leaves, ups, retain_graph=again, materialize_grads=True)
        call.grads = {i.name: g.detach() for i, g in zip(wanted, got, strict=True)}
