"""A row of the table: a loss as people write it, its inputs, and the line that takes its place."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

import vaefast
from vaefast import functional as VF
from vaefast import likelihoods

OBJECTS = (
    "Categorical",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "Gaussian",
    "Laplace",
    "NegativeBinomial",
    "ZeroInflatedNegativeBinomial",
)
NAMES = {"F": F, "VF": VF, "log": math.log, **{name: getattr(vaefast, name) for name in ("ELBOLoss", "IWAELoss")}}
NAMES |= {name: getattr(likelihoods, name) for name in OBJECTS}


class Row(NamedTuple):
    by_hand: Callable[..., Tensor]  # its name is the row's, and its docstring says who writes it
    inputs: Callable[..., dict[str, Any]]  # of both, from a generator; by default at the script's own sizes
    line: str  # the expression that takes the call's place. The page shows it, and this text is what runs
    criterion: str = ""  # what the line calls `criterion`, made once before the loop
    small: dict[str, int] = {}  # sizes for the test, where the script's own take seconds

    @property
    def name(self) -> str:
        return self.by_hand.__name__

    def vaefast(self) -> Callable[..., Tensor]:
        """The line as a function of the inputs."""
        names = NAMES | ({"criterion": eval(self.criterion, dict(NAMES))} if self.criterion else {})
        code = compile(self.line, self.name, "eval")
        return lambda **inputs: eval(code, names | inputs)


def leaves(inputs: dict[str, Any]) -> list[Tensor]:
    """The inputs that require gradients."""
    return [each for each in pytree.tree_leaves(inputs) if isinstance(each, Tensor) and each.requires_grad]


def doubled(inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs in float64; integers, labels and numbers as they are."""

    def convert(each: Any) -> Any:
        real = isinstance(each, Tensor) and each.is_floating_point()
        return each.detach().double().requires_grad_(each.requires_grad) if real else each

    return pytree.tree_map(convert, inputs)


def leaf(g: torch.Generator, *shape: int) -> Tensor:
    """What a network returns: normal numbers."""
    return torch.randn(shape, generator=g).requires_grad_()


def spread(g: torch.Generator, *shape: int) -> Tensor:
    """A logarithm of a scale or variance, near -1/2."""
    return (0.5 * torch.randn(shape, generator=g) - 0.5).requires_grad_()


def scale(g: torch.Generator, *shape: int) -> Tensor:
    """A standard deviation."""
    return F.softplus(torch.randn(shape, generator=g)).requires_grad_()


def probabilities(g: torch.Generator, *shape: int) -> Tensor:
    """The end of a decoder's sigmoid."""
    return torch.sigmoid(torch.randn(shape, generator=g)).requires_grad_()


def image(g: torch.Generator, *shape: int) -> Tensor:
    """Data in [0, 1]."""
    return torch.rand(shape, generator=g)


def binary(g: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=g).round()
