"""The base classes of likelihoods. `Likelihood` is the interface. One term of the kernels computes a `FusedLikelihood`.
Plain torch computes a `CompositeLikelihood`, unless it has a `log_prob` of its own."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import _checks
from ..ops import row_sum
from ..reference import reduced


class Likelihood(nn.Module):
    """The interface of a likelihood p(x|z), which interprets a decoder's output. ELBOLoss and VAE need only the methods
    log_prob, mean and sample, so an object of any class that has them can be used.

    Args:
        target_scale: factor that multiplies x; with 1 / 255, uint8 images need no conversion.
    """

    fused = False  # whether one term of the kernels computes log_prob
    elementwise = False  # whether elements are independent, each of one element of recon_x, so their shape is free
    normalized = True  # whether exp(log_prob) is a density or a probability of x
    numbers: tuple[float, ...] | None = None  # fixed scalar parameters; None disables the fast path
    probs = False  # whether recon_x holds probabilities
    mixture = False  # whether parameters have an extra dimension, of classes or components
    component_dim = 1  # its place: 1 is the first dimension after the batch, -1 is the last
    support: tuple[float, float] | None = None  # range of x after target_scale; None if it is unbounded
    integral = False  # whether x must be whole numbers
    defaults: dict[str, Any] = {"target_scale": 1.0}  # default options; repr shows only other values

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
        """log p(x|z) in nats.

        Args:
            recon_x: the decoder's output, shape (B, D), or a tuple of such tensors.
            x: data, shape (B, D).
            mask: bool, broadcastable to x; elements that are False are missing.
            batch_dims: number of leading dimensions that are the batch.
            reduction: "none", "sum", "mean" or "elementwise".

        Returns:
            shape (B,), () or (B, D) according to `reduction`.
        """
        raise NotImplementedError

    def mean(self, recon_x: Any) -> Tensor:
        """E[x|z], shape (B, D), on the scale that x has after target_scale. recon_x has one batch dimension."""
        raise NotImplementedError

    def sample(self, recon_x: Any, *, generator: torch.Generator | None = None) -> Tensor:
        """One draw of x, shape (B, D), on the scale that x has after target_scale. recon_x has one batch dimension.
        Counts and grid points are at least float32."""
        raise NotImplementedError


class FusedLikelihood(Likelihood):
    """A likelihood that one term of the kernels computes."""

    term: str  # its name in csrc/math/terms
    parameters_expected: tuple[str, ...]  # the decoder's tensors, for `split`

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.fused = cls.elementwise = cls.log_prob is FusedLikelihood.log_prob  # a class with its own is not fused
        cls.numbers = vars(cls).get("numbers")  # not inherited, because a subclass may have other operands

    def split(self, recon_x: Any) -> tuple[Tensor, ...]:
        """Returns the decoder's tensors, checked. The first has the shape of x. Each other one may be a number, or keep a
        shape that is broadcastable to the first: the kernel reads it by stride and sums its gradient."""
        expected = self.parameters_expected
        given = tuple(recon_x) if isinstance(recon_x, (tuple, list)) else (recon_x,)
        if len(given) != len(expected):
            raise ValueError(f"{self.name}: recon_x must be ({', '.join(expected)}), got {len(given)} tensors")
        first = given[0]
        _checks.tensor(self.name, expected[0], first)
        others = zip(expected[1:], given[1:], strict=True)
        return first, *(_checks.parameter(self.name, n, v, expected[0], first, expand=False) for n, v in others)

    def operands(self, recon_x: Any, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """Returns the operands of `term`, checked. A scale that is estimated from x uses only elements with `mask` True."""
        raise NotImplementedError

    def log_prob(
        self, recon_x: Any, x: Tensor, *, mask: Tensor | None = None, batch_dims: int = 1, reduction: str = "none"
    ) -> Tensor:
        operands = self.operands(recon_x, x, mask)
        _checks.reduction(self.name, reduction, _checks.ALL_REDUCTIONS)
        batch_dims = _checks.batch_dims(self.name, batch_dims, "x", x)
        mask = _checks.mask(self.name, mask, "x", x)
        return row_sum(self.term, operands, mask, reduction, batch_dims, self.target_scale)


class CompositeLikelihood(Likelihood):
    """A likelihood of independent elements that plain torch computes.

    A subclass names the decoder's tensors in `parameters_expected` and defines `element`. Arithmetic has the dtype
    `compute`. If the first parameter is float64, arithmetic and results are float64. Else results are float32.
    """

    parameters_expected: tuple[str, ...]
    compute = torch.float32

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.elementwise = not cls.mixture and cls.log_prob is CompositeLikelihood.log_prob

    def element(self, parameters: Sequence[Tensor], x: Tensor) -> Tensor:
        """log p of each element of x."""
        raise NotImplementedError

    def split(self, recon_x: Any) -> tuple[Tensor, ...]:
        """Returns the decoder's tensors, checked. The others are expanded to the shape of the first."""
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

    def component_at(self, parameter: Tensor, batch_dims: int) -> int:
        """The index of a parameter's dimension of classes or components."""
        k, count = self.component_dim, parameter.dim() - batch_dims
        if count < 1:
            got = f"got shape {tuple(parameter.shape)} with batch_dims={batch_dims}"
            raise ValueError(f"{self.name}: recon_x must have dimensions after the batch, {got}")
        if abs(k) > count:
            raise ValueError(
                f"{self.name}: class_dim must be from 1 to {count} or from -{count} to -1 for recon_x of shape "
                f"{tuple(parameter.shape)} with batch_dims={batch_dims}, got {k}"
            )
        return batch_dims + k - 1 if k > 0 else parameter.dim() + k

    def mask_of(self, mask: Tensor, parameter: Tensor, batch_dims: int) -> Tensor:
        """The mask of data, of the shape of x, in a shape that broadcasts to a parameter's."""
        return mask.unsqueeze(self.component_at(parameter, batch_dims)) if self.mixture else mask

    def checked(self, first: Tensor, x: Tensor, reduction: str, batch_dims: int) -> tuple[int, int]:
        """Checks x and the options. Returns batch_dims, and the index of the components or -1 if there are none."""
        _checks.same_device(self.name, "x", x, self.parameters_expected[0], first)
        _checks.reduction(self.name, reduction, _checks.ALL_REDUCTIONS)
        batch_dims = _checks.batch_dims(self.name, batch_dims, "x", x)
        shape, at = tuple(first.shape), -1
        if self.mixture:
            at = self.component_at(first, batch_dims)
            shape = (*shape[:at], *shape[at + 1 :])
        if x.shape != torch.Size(shape):
            advice = self.advice(first, x, batch_dims)
            raise ValueError(f"{self.name}: recon_x is for data of shape {shape}, got {tuple(x.shape)}{advice}")
        return batch_dims, at

    def advice(self, first: Tensor, x: Tensor, batch_dims: int) -> str:
        """What the error of a wrong shape says besides the shapes."""
        return ""

    def log_prob(
        self, recon_x: Any, x: Tensor, *, mask: Tensor | None = None, batch_dims: int = 1, reduction: str = "none"
    ) -> Tensor:
        parameters = self.split(recon_x)
        if isinstance(x, Tensor) and x.dtype in _checks.INTEGERS:
            x = x.double()  # counts and labels
        _checks.tensor(self.name, "x", x, target=True)
        first = parameters[0]
        batch_dims, at = self.checked(first, x, reduction, batch_dims)
        mask = _checks.mask(self.name, mask, "x", x)
        wide = torch.promote_types(first.dtype, torch.float32)
        compute = torch.promote_types(wide, self.compute)
        parameters = tuple(t.to(compute) for t in parameters)
        x = x.to(compute) * self.target_scale
        if mask is not None:  # replaced before the formula, so that a masked NaN reaches neither value nor gradient
            mask = mask.expand(x.shape)
            parameters = tuple(torch.where(self.mask_of(mask, t, batch_dims), t, 0.0) for t in parameters)
            x = torch.where(mask, x, 0.0)
        if self.mixture:
            parameters = tuple(t.movedim(at, -1) for t in parameters)
        value = self.element(parameters, x)
        if mask is not None:
            value = torch.where(mask, value, 0.0)
        return reduced(value, reduction, batch_dims).to(wide)
