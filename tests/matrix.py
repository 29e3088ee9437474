"""Every way that torch may call an operation, times every operation, each cell held against the same call of the
composite in plain torch: `python -m tests.matrix` prints the table (--inductor compiles with torch's default backend).

A cell is right, or it raises one of the sentences in RAISES. What it must never be is silently wrong."""

import argparse
import copy
import functools
import io
import math
import pickle
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.checkpoint import checkpoint

from vaefast import ELBOLoss, IWAELoss, likelihoods, reference
from vaefast import functional as VF

BATCH, D, L = 6, 11, 3
Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Operation:
    """A function of floating-point tensors, the same in plain torch, and what it is called with."""

    name: str
    function: Function
    composite: Function
    inputs: tuple[str, ...]
    sampled: tuple[str, ...] = ()  # the inputs with a sample dimension before the batch

    def draw(self, batch: int = BATCH, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
        g = torch.Generator().manual_seed(batch)
        shapes = {"probs": (batch, D), "x": (batch, D), "logits": (batch, D), "scale": (batch, D), "weight": (batch,),
                  "beta": (), "head": (D, L), "bias": (D,), "z": (batch, L)}  # fmt: skip
        drawn = []
        for name in self.inputs:
            shape = (2,) * (name in self.sampled) + shapes.get(name, (batch, L))
            uniform = name in ("probs", "x", "weight", "beta")
            t = (torch.rand if uniform else torch.randn)(shape, generator=g, dtype=torch.float64)
            drawn.append((0.1 + 0.8 * t if uniform else t).to(dtype))
        return tuple(drawn)


def _composite_loss(likelihood: str = "bernoulli", reduction: str = "mean") -> Function:
    def loss(recon_x: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, *prior: Tensor) -> Tensor:
        operands = (recon_x, x) if likelihood != "gaussian" else (recon_x, x, x.new_zeros(()))
        rows = reference.row_sum("gaussian_kl" + "_pair" * bool(prior), (mu, logvar, *prior))
        rows = rows - reference.row_sum(likelihood, operands)
        return {"mean": rows.mean, "sum": rows.sum, "none": lambda: rows}[reduction]()

    return loss


def _heteroscedastic(recon_x: Tensor, scale: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return (reference.gaussian_kl(mu, logvar).sum() - reference.gaussian(recon_x, x, scale).sum()) / len(x)


def _free_bits(recon_x: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    kl = reference.gaussian_kl(mu, logvar).mean(0).clamp(min=0.1).sum()
    return kl - reference.row_sum("bernoulli", (recon_x, x), reduction="mean")


def _weighted(recon_x: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, weight: Tensor, beta: Tensor) -> Tensor:
    mask = _mask(x)
    return reference.elbo_loss("bernoulli", (recon_x, x), (mu, logvar), mask, weight, beta, "sum")[0]


def _mask(x: Tensor) -> Tensor:
    return x.detach() > 0.3


def _log_w(recon_x: Tensor, x: Tensor, z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    fit = reference.row_sum("bernoulli", (recon_x, x.expand(recon_x.shape)), batch_dims=2)
    prior = reference.row_sum("gaussian", (torch.zeros_like(z), z, torch.zeros_like(z)), batch_dims=2)
    q = reference.row_sum("gaussian", (mu.expand(z.shape), z, logvar.expand(z.shape)), batch_dims=2)
    return fit + prior - q


def _iwae(*args: Tensor) -> Tensor:
    return math.log(2) - _log_w(*args).logsumexp(0).mean()


def _term(name: str, reduction: str = "none") -> Function:
    return lambda *operands: reference.row_sum(name, operands, reduction=reduction)


def _flat(rsample_kl: Function) -> Function:
    """One tensor of a pair, so that every operation returns one."""

    def function(*args: Tensor) -> Tensor:
        z, kl = rsample_kl(*args)
        return z.sum(-1) + 2 * kl

    return function


def _decoded(head: Tensor, bias: Tensor, z: Tensor) -> Tensor:
    return (z.tanh()[..., None, :] * head).sum(-1) + bias  # torch.compile has a linear layer under vmap fail


def _dreg_loss(head: Tensor, bias: Tensor, x: Tensor, z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    z = 1.0 * z  # a sample of this loss alone
    return IWAELoss(gradient="dreg")(_decoded(head, bias, z), x, z, mu, logvar) + 0 * (mu + logvar).sum()


def _dreg(head: Tensor, bias: Tensor, x: Tensor, z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """The gradient that reaches z, weighted once more by v_k = w_k / sum_j w_j; q's own parameters are constants."""
    q = mu.detach(), logvar.detach()
    v = _log_w(_decoded(head, bias, z), x, z, *q).detach().softmax(0).unsqueeze(-1)
    z = v * z + ((1 - v) * z).detach()
    return _iwae(_decoded(head, bias, z), x, z, *q) + 0 * (mu + logvar).sum()


LOSS = ("logits", "x", "mu", "logvar")
OPERATIONS = (
    Operation("ELBOLoss", ELBOLoss(), _composite_loss(), LOSS),
    Operation("ELBOLoss none", ELBOLoss(reduction="none"), _composite_loss(reduction="none"), LOSS),
    Operation(
        "ELBOLoss weight, mask, beta",
        lambda r, x, m, v, w, b: ELBOLoss(reduction="sum")(r, x, m, v, weight=w, beta=b, mask=_mask(x)),
        _weighted, (*LOSS, "weight", "beta"),
    ),
    Operation(
        "ELBOLoss prior", lambda r, x, m, v, *p: ELBOLoss()(r, x, m, v, prior_mu=p[0], prior_logvar=p[1]),
        _composite_loss(), (*LOSS, "prior_mu", "prior_logvar"),
    ),
    Operation("ELBOLoss gaussian", ELBOLoss("gaussian"), _composite_loss("gaussian"), LOSS),
    Operation(
        "ELBOLoss (mean, logvar)", lambda r, s, *rest: ELBOLoss("gaussian")((r, s), *rest),
        _heteroscedastic, ("logits", "scale", *LOSS[1:]),
    ),
    Operation("ELBOLoss free bits", ELBOLoss(free_bits=0.1), _free_bits, LOSS),
    Operation("ELBOLoss inplace", lambda r, *a: ELBOLoss(inplace=True)(1.0 * r, *a), _composite_loss(), LOSS),
    Operation("elbo", lambda *a: VF.elbo(*a).elbo, lambda *a: -_composite_loss(reduction="none")(*a), LOSS),
    Operation("bernoulli", VF.bernoulli_log_likelihood, _term("bernoulli"), LOSS[:2]),
    Operation(
        "bernoulli sum", functools.partial(VF.bernoulli_log_likelihood, reduction="sum"),
        _term("bernoulli", "sum"), LOSS[:2],
    ),
    Operation("bernoulli_probs", VF.bernoulli_probs_log_likelihood, _term("bernoulli_probs"), ("probs", "x")),
    Operation("gaussian", VF.gaussian_log_likelihood, _term("gaussian"), ("logits", "x", "scale")),
    Operation("laplace", lambda m, x, s: likelihoods.Laplace().log_prob((m, s), x), _term("laplace"), ("logits", "x", "scale")),
    Operation("continuous_bernoulli", likelihoods.ContinuousBernoulli().log_prob, _term("continuous_bernoulli"), LOSS[:2]),
    Operation("gaussian_kl", VF.gaussian_kl, _term("gaussian_kl"), LOSS[2:]),
    Operation("gaussian_kl prior", VF.gaussian_kl, _term("gaussian_kl_pair"), (*LOSS[2:], "prior_mu", "prior_logvar")),
    Operation("reparameterize", lambda m, v, e: VF.reparameterize(m, v, eps=e), reference.reparameterize, (*LOSS[2:], "eps")),
    Operation(
        "rsample_kl", _flat(lambda m, v, e: VF.rsample_kl(m, v, eps=e)),
        _flat(lambda m, v, e: (reference.reparameterize(m, v, e), reference.row_sum("gaussian_kl", (m, v)))), (*LOSS[2:], "eps"),
    ),
    Operation(
        "linear_bernoulli", lambda h, w, b, x: VF.linear_bernoulli_log_likelihood(h, w, b, x, reduction="mean"),
        lambda h, w, b, x: reference.row_sum("bernoulli", (nn.functional.linear(h, w, b), x), reduction="mean"),
        ("h", "head", "bias", "x"),
    ),
    Operation(
        "IWAELoss", IWAELoss(), _iwae,
        ("logits", "x", "z", *LOSS[2:]), sampled=("logits", "z"),
    ),
    Operation("IWAELoss dreg", _dreg_loss, _dreg, ("head", "bias", "x", "z", *LOSS[2:]), sampled=("z",)),
)  # fmt: skip


def scalar(function: Function) -> Function:
    """A sum with unequal weights, so that a gradient which ignores what comes from above is wrong."""

    def weighted(*args: Tensor) -> Tensor:
        value = function(*args)
        return (
            value
            * torch.linspace(0.5, 2, max(1, value.numel()), dtype=value.dtype, device=value.device).view(value.shape)
        ).sum()

    return weighted


def leaves(args: tuple[Tensor, ...]) -> list[Tensor]:
    return [a.detach().clone().requires_grad_() for a in args]


# The transforms: of a function and its arguments, to what is compared. INSIDE ones can be compiled with the function.


def forward(f: Function, args: tuple[Tensor, ...]) -> object:
    return f(*args)


def backward(f: Function, args: tuple[Tensor, ...]) -> object:
    inputs = leaves(args)
    return torch.autograd.grad(scalar(f)(*inputs), inputs)


def double_backward(f: Function, args: tuple[Tensor, ...]) -> object:
    """Of the loss and a penalty on its gradient together."""
    inputs = leaves(args)
    value = scalar(f)(*inputs)
    first = torch.autograd.grad(value, inputs, create_graph=True)
    return torch.autograd.grad(value + sum(g.square().sum() for g in first), inputs, allow_unused=True)


def _numbers(args: tuple[Tensor, ...]) -> tuple[int, ...]:
    return tuple(range(len(args)))


def _stacked(args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.stack([a, 0.5 * a]) for a in args)


def vmap(f: Function, args: tuple[Tensor, ...]) -> object:
    return torch.func.vmap(f)(*_stacked(args))


def grad(f: Function, args: tuple[Tensor, ...]) -> object:
    return torch.func.grad(scalar(f), _numbers(args))(*args)


def vmap_of_grad(f: Function, args: tuple[Tensor, ...]) -> object:
    return torch.func.vmap(torch.func.grad(scalar(f), _numbers(args)))(*_stacked(args))


def jvp(f: Function, args: tuple[Tensor, ...]) -> object:
    return torch.func.jvp(f, args, tuple(a.cos() for a in args))


def forward_mode(f: Function, args: tuple[Tensor, ...]) -> object:
    with forward_ad.dual_level():
        return tuple(forward_ad.unpack_dual(f(*(forward_ad.make_dual(a, a.cos()) for a in args))))


def hessian(f: Function, args: tuple[Tensor, ...]) -> object:
    return torch.func.hessian(scalar(f))(*args)


def jacrev_of_jacrev(f: Function, args: tuple[Tensor, ...]) -> object:
    return torch.func.jacrev(torch.func.jacrev(scalar(f)))(*args)


INSIDE = (forward, vmap, grad, vmap_of_grad, jvp, forward_mode, hessian, jacrev_of_jacrev)
OUTSIDE = (backward, double_backward)  # of the compiled function


# Ways that are not transforms.


def reentrant_checkpoint(f: Function, args: tuple[Tensor, ...]) -> object:
    inputs = leaves(args)
    scalar(lambda *a: checkpoint(f, *a, use_reentrant=True))(*inputs).backward()  # it does not allow autograd.grad
    return [t.grad for t in inputs]


def plain_checkpoint(f: Function, args: tuple[Tensor, ...]) -> object:
    return backward(lambda *a: checkpoint(f, *a, use_reentrant=False), args)


def saved_tensor_hooks(f: Function, args: tuple[Tensor, ...]) -> object:
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.numpy(force=True).copy(), torch.from_numpy):
        return backward(f, args)


def compiled_autograd(f: Function, args: tuple[Tensor, ...]) -> object:
    inputs = leaves(args)
    value = scalar(f)(*inputs)
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager")):
        value.backward()
    return [t.grad for t in inputs]


class Module(nn.Module):
    def __init__(self, f: Function) -> None:
        super().__init__()
        self.f = f

    def forward(self, *args: Tensor) -> Tensor:
        return self.f(*args)


def export(f: Function, args: tuple[Tensor, ...]) -> object:
    return torch.export.export(Module(f), args, strict=False).module()(*args)


def export_strict(f: Function, args: tuple[Tensor, ...]) -> object:
    return torch.export.export(Module(f), args, strict=True).module()(*args)


def batched_gradients(f: Function, args: tuple[Tensor, ...]) -> object:
    inputs = leaves(args)
    value = f(*inputs)
    upstream = torch.linspace(-1, 1, 4 * value.numel(), dtype=value.dtype).view(4, *value.shape)
    return torch.autograd.grad(value, inputs, upstream, is_grads_batched=True)


def vmap_over_autograd(f: Function, args: tuple[Tensor, ...]) -> object:
    """Rows of a Jacobian, as people write them: torch.func.vmap of torch.autograd.grad."""
    inputs = leaves(args)
    value = f(*inputs)
    upstream = torch.linspace(-1, 1, 4 * value.numel(), dtype=value.dtype).view(4, *value.shape)
    return torch.func.vmap(lambda v: torch.autograd.grad(value, inputs, v, retain_graph=True))(upstream)


def twice_in_one_graph(f: Function, args: tuple[Tensor, ...]) -> object:
    torch._dynamo.reset()
    both = torch.compile(lambda *a: f(*a) + 2 * f(*a), fullgraph=True, dynamic=True, backend="aot_eager")
    return backward(both, args)


def three_times(f: Function, args: tuple[Tensor, ...]) -> object:
    return backward(lambda *a: 3 * f(*a), args)


def retained_graph(f: Function, args: tuple[Tensor, ...]) -> object:
    inputs = leaves(args)
    value = scalar(f)(*inputs)
    first = torch.autograd.grad(value, inputs, retain_graph=True)
    return first, torch.autograd.grad(3 * value, inputs)


def expanded_gradient(f: Function, args: tuple[Tensor, ...]) -> object:
    inputs = leaves(args)
    value = f(*inputs)
    return torch.autograd.grad(value, inputs, torch.full((), 0.7, dtype=value.dtype).expand(value.shape))


def strided_arguments(f: Function, args: tuple[Tensor, ...]) -> object:
    return backward(f, tuple(torch.stack([a, a], -1)[..., 0] for a in args))


def inference_mode(f: Function, args: tuple[Tensor, ...]) -> object:
    with torch.inference_mode():
        return f(*(a.clone() for a in args)).clone()


def functionalize(f: Function, args: tuple[Tensor, ...]) -> object:
    return torch.func.functionalize(f)(*args)


def linearize(f: Function, args: tuple[Tensor, ...]) -> object:
    value, pushforward = torch.func.linearize(f, *args)
    return value, pushforward(*(a.cos() for a in args))


def meta(f: Function, args: tuple[Tensor, ...]) -> object:
    return _shapes(backward(f, tuple(a.to("meta") for a in args)))


def fake(f: Function, args: tuple[Tensor, ...]) -> object:
    with FakeTensorMode() as mode:
        grads = backward(f, tuple(mode.from_tensor(a) for a in args))
    return _shapes(grads)


def _shapes(tensors: object) -> object:
    return [torch.tensor([*t.shape, *t.stride(), t.element_size()]) for t in tensors]


def two_tensor(f: Function, args: tuple[Tensor, ...]) -> object:
    """A subclass of torch's own that runs everything twice."""
    inputs = [TwoTensor(a.detach().clone(), 0.5 * a.detach()).requires_grad_() for a in args]
    value = f(*inputs)
    grads = torch.autograd.grad(value.sum(), inputs)
    return [(t.a, t.b) for t in (value.detach(), *grads)]


class Tagged(Tensor):
    """A subclass by __torch_function__."""


def torch_function_subclass(f: Function, args: tuple[Tensor, ...]) -> object:
    inputs = [a.detach().clone().as_subclass(Tagged).requires_grad_() for a in args]
    grads = torch.autograd.grad(f(*inputs).sum(), inputs)
    return [g.as_subclass(Tensor) for g in grads]


def parameters(f: Function, args: tuple[Tensor, ...]) -> object:
    inputs = [nn.Parameter(a.detach().clone()) for a in args]
    f(*inputs).sum().backward()
    return [t.grad for t in inputs]


def sharded(f: Function, args: tuple[Tensor, ...]) -> object:
    """DTensors, sharded over the batch on a mesh of this one process, as of any number."""
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh

    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    inputs = []
    for a in args:
        dim = next((k for k, size in enumerate(a.shape) if size == BATCH), None)
        placement = Replicate() if dim is None else Shard(dim)
        inputs.append(distribute_tensor(a.detach(), mesh, [placement]).requires_grad_())
    value = f(*inputs)
    grads = torch.autograd.grad(value.sum(), inputs)
    return [t.full_tensor() for t in (value.detach(), *grads)]


def unsharded(f: Function, args: tuple[Tensor, ...]) -> object:
    inputs = leaves(args)
    value = f(*inputs)
    return value, torch.autograd.grad(value.sum(), inputs)


def deep_copied(f: Function, args: tuple[Tensor, ...]) -> object:
    return backward(copy.deepcopy(f), args)


def pickled(f: Function, args: tuple[Tensor, ...]) -> object:
    if not isinstance(f, nn.Module):
        return backward(f, args)
    file = io.BytesIO()
    pickle.dump(f, file)
    file.seek(0)
    again = pickle.load(file)
    again.load_state_dict(f.state_dict())
    return backward(again, args)


def autocast(dtype: torch.dtype) -> Callable[[Function, tuple[Tensor, ...]], object]:
    """Inputs as the layers of an autocast region leave them: what comes out is float32, as of torch's own losses."""

    def mode(f: Function, args: tuple[Tensor, ...]) -> object:
        inputs = [a.to(dtype).requires_grad_() for a in args]
        with torch.autocast("cpu", dtype):
            value = scalar(f)(*inputs)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        scaler.scale(value).backward()
        return value.detach().float(), [t.grad.float() / 8 for t in inputs]

    mode.__name__ = f"autocast {str(dtype)[6:]}, GradScaler"
    return mode


def rounded(dtype: torch.dtype) -> Callable[[Function, tuple[Tensor, ...]], object]:
    """The same inputs in double precision."""

    def transform(f: Function, args: tuple[Tensor, ...]) -> object:
        inputs = [a.to(dtype).double().requires_grad_() for a in args]
        value = scalar(f)(*inputs)
        return value.detach().float(), [g.float() for g in torch.autograd.grad(value, inputs)]

    return transform


# With what the composite is asked for; where it is the same call, the way itself.
WAYS = {
    reentrant_checkpoint: backward, plain_checkpoint: backward, saved_tensor_hooks: backward,
    compiled_autograd: backward, export: forward, export_strict: forward, batched_gradients: batched_gradients,
    vmap_over_autograd: vmap_over_autograd, twice_in_one_graph: three_times,
    retained_graph: retained_graph, expanded_gradient: expanded_gradient, strided_arguments: backward,
    inference_mode: forward, functionalize: forward, linearize: jvp, meta: meta, fake: meta, two_tensor: two_tensor,
    torch_function_subclass: parameters, parameters: parameters, sharded: unsharded, deep_copied: backward,
    pickled: backward, autocast(torch.bfloat16): rounded(torch.bfloat16), autocast(torch.float16): rounded(torch.float16),
}  # fmt: skip

# (mode, operation) -> what it says; a pattern for either. Such a cell may be right (torch moves on), never wrong.
RAISES = {
    ("double_backward, compile.*", ".*"): "not currently support double backward|requires create_graph=False",
    # torch.func.vmap looks at the name of what it maps; a module's is its repr, which prints beta.
    ("vmap, compile dynamic", "ELBOLoss.*|IWAELoss"): "BUILD_STRING type error",
    (".*", "IWAELoss dreg"): "acts in the backward pass and knows nothing of torch.func",
    (".*", "ELBOLoss inplace"): "with inplace=True the prediction holds its gradient now",
    ("compiled_autograd", "ELBOLoss inplace"): "any_leaf=True",  # torch's words for a leaf's alias that was written to
}


@dataclass(frozen=True)
class Mode:
    name: str
    run: Callable[[Function, tuple[Tensor, ...]], object]
    transform: Callable[[Function, tuple[Tensor, ...]], object]  # what the composite is asked for
    loose: bool = False


def modes(backend: str = "aot_eager") -> Iterator[Mode]:
    for transform in (*INSIDE, *OUTSIDE):
        yield Mode(f"{transform.__name__}, eager", transform, transform)
    for dynamic in (False, True):
        compiled = functools.partial(torch.compile, fullgraph=True, dynamic=dynamic, backend=backend)
        label = "compile dynamic" if dynamic else "compile"
        for transform in INSIDE:

            def inside(
                f: Function, args: tuple[Tensor, ...], t: Callable = transform, c: Callable = compiled
            ) -> object:
                torch._dynamo.reset()
                return c(lambda *a: t(f, a))(*args)

            yield Mode(f"{transform.__name__}, {label}", inside, transform)
        for transform in OUTSIDE:

            def outside(
                f: Function, args: tuple[Tensor, ...], t: Callable = transform, c: Callable = compiled
            ) -> object:
                torch._dynamo.reset()
                return t(c(f), args)

            yield Mode(f"{transform.__name__}, {label}", outside, transform)
    for way, expected in WAYS.items():
        yield Mode(way.__name__, way, expected, loose=way.__name__.startswith("autocast"))


def flatten(result: object) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return [t for part in result if part is not None for t in flatten(part)]


def cell(mode: Mode, operation: Operation) -> str:
    """ "right", or what was raised; AssertionError where the result is wrong."""
    args = operation.draw()
    expected = flatten(mode.transform(operation.composite, args))
    try:
        got = flatten(mode.run(operation.function, args))
    except Exception as error:
        if isinstance(error, AssertionError):
            raise
        return f"{type(error).__name__}: {error}"
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if mode.loose else {"rtol": 1e-9, "atol": 1e-11}
    torch.testing.assert_close(got, expected, **tolerance)
    return "right"


def outcome(mode: Mode, operation: Operation) -> tuple[str, str]:
    """("right" or "raises" or "wrong", what was said)."""
    try:
        said = cell(mode, operation)
    except AssertionError as error:
        return "wrong", str(error)
    if said == "right":
        return "right", ""
    allowed = any(
        re.fullmatch(where, mode.name) and re.fullmatch(what, operation.name) and re.search(sentence, said)
        for (where, what), sentence in RAISES.items()
    )
    return "raises" if allowed else "wrong", said


def one_process() -> None:
    """What DTensor needs."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inductor", action="store_true", help="compile to machine code, which takes long")
    parser.add_argument("--only", default="", help="part of a mode's name")
    options = parser.parse_args()
    one_process()
    counts: Counter[str] = Counter()
    said: dict[str, list[str]] = {}
    print("columns: " + ", ".join(f"{k} {operation.name}" for k, operation in enumerate(OPERATIONS, 1)))
    for mode in modes("inductor" if options.inductor else "aot_eager"):
        if options.only not in mode.name:
            continue
        line = ""
        for number, operation in enumerate(OPERATIONS, 1):
            kind, sentence = outcome(mode, operation)
            counts[kind] += 1
            line += {"right": ".", "raises": "r", "wrong": "X"}[kind]
            if kind != "right":
                said.setdefault(f"[{kind}] {' '.join(sentence.split())[:240]}", []).append(f"{mode.name} {number}")
        print(f"{mode.name:36} {line}", flush=True)
    for sentence, cells in sorted(said.items()):
        print(f"{sentence}\n    {'; '.join(cells)}")
    print(f"{sum(counts.values())} cells: {counts['right']} right, {counts['raises']} raise, {counts['wrong']} wrong")
    return int(counts["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())
