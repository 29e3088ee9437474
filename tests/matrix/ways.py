"""The ways of calling an operation: of a function and its arguments, to what is compared."""

import copy
import io
import pickle
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.checkpoint import checkpoint

from .operations import BATCH, Function


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


def _pulled_back(f: Function, args: tuple[Tensor, ...]) -> tuple[Callable[[Tensor], tuple[Tensor, ...]], Tensor]:
    """The backward pass as a function of the gradient from above, and such a gradient."""
    inputs = leaves(args)
    value = f(*inputs)
    upstream = torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view(value.shape)
    return lambda v: torch.autograd.grad(value, inputs, v, retain_graph=True), upstream


def jvp_over_autograd(f: Function, args: tuple[Tensor, ...]) -> object:
    pull_back, upstream = _pulled_back(f, args)
    return torch.func.jvp(pull_back, (upstream,), (upstream.cos(),))


def forward_mode_over_autograd(f: Function, args: tuple[Tensor, ...]) -> object:
    pull_back, upstream = _pulled_back(f, args)
    with forward_ad.dual_level():
        return [tuple(forward_ad.unpack_dual(t)) for t in pull_back(forward_ad.make_dual(upstream, upstream.cos()))]


def linear_over_autograd(f: Function, args: tuple[Tensor, ...]) -> object:
    """A backward pass is linear in the gradient from above, so its derivative is itself."""
    pull_back, upstream = _pulled_back(f, args)
    return pull_back(upstream), pull_back(upstream.cos())


def pairs_over_autograd(f: Function, args: tuple[Tensor, ...]) -> object:
    return list(zip(*linear_over_autograd(f, args), strict=True))


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
    vmap_over_autograd: vmap_over_autograd, jvp_over_autograd: linear_over_autograd,
    forward_mode_over_autograd: pairs_over_autograd, twice_in_one_graph: three_times,
    retained_graph: retained_graph, expanded_gradient: expanded_gradient, strided_arguments: backward,
    inference_mode: forward, functionalize: forward, linearize: jvp, meta: meta, fake: meta, two_tensor: two_tensor,
    torch_function_subclass: parameters, parameters: parameters, sharded: unsharded, deep_copied: backward,
    pickled: backward, autocast(torch.bfloat16): rounded(torch.bfloat16), autocast(torch.float16): rounded(torch.float16),
}  # fmt: skip
