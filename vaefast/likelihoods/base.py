"""What a likelihood is, and the two kinds of them: computed by one term of the kernels, or by plain torch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import _checks
from ..ops import row_sum


class Likelihood(nn.Module):
    """p(x|z): knows the meaning of a decoder's output. What ELBOLoss and VAE ask of a likelihood; an object of any class
    that has these three methods will do.

    Args:
        target_scale: what x is multiplied by; 1 / 255 reads uint8 images as they are.
    """

    fused = False  # whether log_prob is the kernels' `term` of `operands`
    numbers: tuple[float, ...] | None = None  # where `operands` are recon_x and x as they come: the others, numbers
    probs = False  # whether recon_x are probabilities
    mixture = False  # whether the parameters have a dimension of their own after the batch
    support: tuple[float, float] | None = None  # of x after target_scale, where it is bounded
    integral = False  # whether x is made of whole numbers
    defaults: dict[str, Any] = {"target_scale": 1.0}  # of the options; repr shows those with another value

    def __init__(self, target_scale: float = 1.0) -> None:
        super().__init__()
        self.name = f"vaefast.likelihoods.{type(self).__name__}"
        self.target_scale = float(_checks.number(self.name, "target_scale", target_scale))

    def extra_repr(self) -> str:
        values = {name: getattr(self, name, default) for name, default in self.defaults.items()}
        return ", ".join(f"{name}={value!r}" for name, value in values.items() if value != self.defaults[name])

    def log_prob(
        self, recon_x: Any, x: Tensor, *, mask: Tensor | None = None, batch_dims: int = 1, reduction: str = "none"
    ) -> Tensor:
        """log p(x) of shape (B,) in nats, for the decoder's output `recon_x`."""
        raise NotImplementedError

    def mean(self, recon_x: Any) -> Tensor:
        """E[x], on the scale that x has after target_scale."""
        raise NotImplementedError

    def sample(self, recon_x: Any, *, generator: torch.Generator | None = None) -> Tensor:
        """One draw of x, on the scale that x has after target_scale; counts and points of a grid are at least float32."""
        raise NotImplementedError


class FusedLikelihood(Likelihood):
    """A likelihood that one term of the kernels computes."""

    term: str  # of the kernels' list

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.fused = cls.log_prob is FusedLikelihood.log_prob  # a class with its own is not
        cls.numbers = vars(cls).get("numbers")  # a class says so of itself alone: its subclass may have other operands

    def operands(self, recon_x: Any, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """The operands of `term`, checked; a mask says which elements a scale may be estimated from."""
        raise NotImplementedError

    def log_prob(
        self, recon_x: Any, x: Tensor, *, mask: Tensor | None = None, batch_dims: int = 1, reduction: str = "none"
    ) -> Tensor:
        operands = self.operands(recon_x, x, mask)
        _checks.reduction(self.name, reduction, _checks.ALL_REDUCTIONS)
        batch_dims = _checks.batch_dims(self.name, batch_dims, "x", x)
        mask = _checks.mask(self.name, mask, "x", x)
        return row_sum(self.term, operands, mask, reduction, batch_dims, self.target_scale)


_INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64)


class CompositeLikelihood(Likelihood):
    """A likelihood of independent elements whose log-probability is plain torch.

    Subclasses say how many tensors a decoder returns and give `element`. Arithmetic is in `compute`, or in float64 where a
    parameter is; results are float32, or float64.
    """

    parameters_expected: tuple[str, ...]
    compute = torch.float32

    def element(self, parameters: Sequence[Tensor], x: Tensor) -> Tensor:
        """log p of each element of x."""
        raise NotImplementedError

    def split(self, recon_x: Any) -> tuple[Tensor, ...]:
        """The decoder's output as so many tensors, checked; the first gives the shape, the others broadcast to it."""
        expected = self.parameters_expected
        given = tuple(recon_x) if isinstance(recon_x, (tuple, list)) else (recon_x,)
        if len(given) != len(expected):
            raise ValueError(f"{self.name}: recon_x must be ({', '.join(expected)}), got {len(given)} tensors")
        for name, value in zip(expected, given, strict=True):
            _checks.tensor(self.name, name, value)
        others = (
            _checks.broadcast(self.name, n, v, expected[0], given[0])
            for n, v in zip(expected[1:], given[1:], strict=True)
        )
        return given[0], *(each.expand(given[0].shape) for each in others)

    def log_prob(
        self, recon_x: Any, x: Tensor, *, mask: Tensor | None = None, batch_dims: int = 1, reduction: str = "none"
    ) -> Tensor:
        parameters = self.split(recon_x)
        if isinstance(x, Tensor) and x.dtype in _INTEGERS:
            x = x.double()  # counts and labels
        _checks.tensor(self.name, "x", x, target=True)
        first = parameters[0]
        _checks.same_device(self.name, "x", x, self.parameters_expected[0], first)
        _checks.reduction(self.name, reduction, _checks.ALL_REDUCTIONS)
        batch_dims = _checks.batch_dims(self.name, batch_dims, "x", x)
        shape = tuple(first.shape)
        if self.mixture:
            shape = (*shape[:batch_dims], *shape[batch_dims + 1 :]) if first.dim() > batch_dims else (-1,)
        if x.shape != torch.Size(shape):
            raise ValueError(f"{self.name}: recon_x is for data of shape {tuple(shape)}, got {tuple(x.shape)}")
        mask = _checks.mask(self.name, mask, "x", x)
        wide = torch.promote_types(first.dtype, torch.float32)
        compute = torch.promote_types(wide, self.compute)
        parameters = tuple(t.to(compute) for t in parameters)
        x = x.to(compute) * self.target_scale
        if mask is not None:  # replaced before the formula, so that a masked NaN reaches neither value nor gradient
            mask = mask.expand(x.shape)
            kept = mask.unsqueeze(batch_dims) if self.mixture else mask
            parameters = tuple(torch.where(kept, t, 0.0) for t in parameters)
            x = torch.where(mask, x, 0.0)
        if self.mixture:
            parameters = tuple(t.movedim(batch_dims, -1) for t in parameters)
        value = self.element(parameters, x)
        if mask is not None:
            value = torch.where(mask, value, 0.0)
        if reduction != "elementwise":
            value = value.flatten(batch_dims).sum(-1) if value.dim() > batch_dims else value
            if reduction != "none":
                value = value.sum() if reduction == "sum" else value.mean()
        return value.to(wide)
