"""Log-likelihoods of Bernoulli and Gaussian data. Public as part of vaefast.functional, whose docstring states the
conventions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _checks
from ..ops import linear_row_sum, row_sum


def _log_likelihood(
    function: str,
    term: str,
    operands: Sequence[Tensor],
    reduction: str,
    batch_dims: int,
    mask: Tensor | None,
    target_scale: float,
) -> Tensor:
    _checks.reduction(function, reduction, _checks.ALL_REDUCTIONS)
    _checks.number(function, "target_scale", target_scale)
    batch_dims = _checks.batch_dims(function, batch_dims, "x", operands[1])
    mask = _checks.mask(function, mask, "x", operands[1])
    return row_sum(term, operands, mask, reduction, batch_dims, float(target_scale))


def bernoulli_log_likelihood(
    logits: Tensor,
    x: Tensor,
    *,
    reduction: str = "none",
    batch_dims: int = 1,
    mask: Tensor | None = None,
    target_scale: float = 1.0,
) -> Tensor:
    """log p(x) of a Bernoulli given by logits: the sum over D of x * l - log(1 + exp(l)).

    The computation depends on the sign of l, so that its two parts have the same sign and never cancel. For x in (0, 1) the
    result is the cross entropy, which is not a normalized density; likelihoods.ContinuousBernoulli is one (Loaiza-Ganem and
    Cunningham 2019).

    Args:
        logits: shape (B, D).
        x: targets in [0, 1] of the shape of logits: floating point, bool or uint8.
        reduction: "none", "sum", "mean" or "elementwise".
        batch_dims: number of leading dimensions that are the batch.
        mask: bool, broadcastable to logits; an element that is False does not count, even if it is NaN.
        target_scale: factor that multiplies x; with 1 / 255, uint8 images need no conversion.

    Returns:
        nats, shape (B,), () or (B, D) according to `reduction`.

    Example:
        >>> image = torch.tensor([[0, 128, 255]], dtype=torch.uint8)
        >>> bernoulli_log_likelihood(torch.zeros(1, 3), image, target_scale=1 / 255)
        tensor([-2.0794])
    """
    name = "vaefast.functional.bernoulli_log_likelihood"
    operands = _checks.prediction(name, "logits", logits, x)
    return _log_likelihood(name, "bernoulli", operands, reduction, batch_dims, mask, target_scale)


def bernoulli_probs_log_likelihood(
    probs: Tensor,
    x: Tensor,
    *,
    reduction: str = "none",
    batch_dims: int = 1,
    mask: Tensor | None = None,
    target_scale: float = 1.0,
) -> Tensor:
    """`bernoulli_log_likelihood` from probabilities, for decoders that end in a sigmoid.

    Logarithms are clamped at -100, as in torch.nn.functional.binary_cross_entropy. Prefer logits: unlike probabilities they
    lose no precision near 0 and 1.

    Args:
        probs: in [0, 1], shape (B, D).
        x, reduction, batch_dims, mask, target_scale: as in `bernoulli_log_likelihood`.

    Returns:
        nats, shape (B,), () or (B, D) according to `reduction`.

    Example:
        >>> bernoulli_probs_log_likelihood(torch.tensor([[0.5, 0.0]]), torch.ones(1, 2))
        tensor([-100.6931])
    """
    name = "vaefast.functional.bernoulli_probs_log_likelihood"
    operands = _checks.prediction(name, "probs", probs, x)
    return _log_likelihood(name, "bernoulli_probs", operands, reduction, batch_dims, mask, target_scale)


def gaussian_log_likelihood(
    mean: Tensor,
    x: Tensor,
    logvar: Tensor | float = 0.0,
    *,
    reduction: str = "none",
    batch_dims: int = 1,
    mask: Tensor | None = None,
    target_scale: float = 1.0,
) -> Tensor:
    """log N(x; mean, exp(logvar)): the sum over D of -(log(2 pi) + logvar + (x - mean)^2 / exp(logvar)) / 2.

    Args:
        mean: shape (B, D).
        x: of the shape of mean: floating point, bool or uint8.
        logvar: log sigma^2: a number, a tensor of one element, or one broadcastable to mean. Not clamped.
        reduction, batch_dims, mask, target_scale: as in `bernoulli_log_likelihood`.

    Returns:
        nats, shape (B,), () or (B, D) according to `reduction`.

    Example:
        >>> gaussian_log_likelihood(torch.zeros(1, 2), torch.zeros(1, 2))
        tensor([-1.8379])
    """
    name = "vaefast.functional.gaussian_log_likelihood"
    mean, x = _checks.prediction(name, "mean", mean, x)
    operands = (mean, x, _checks.parameter(name, "logvar", logvar, "mean", mean, expand=False))
    return _log_likelihood(name, "gaussian", operands, reduction, batch_dims, mask, target_scale)


def gaussian_log_prob(
    z: Tensor, mu: Tensor | None = None, logvar: Tensor | None = None, *, batch_dims: int = 1
) -> Tensor:
    """log N(z; mu, exp(logvar)), summed over all but the batch dimensions.

    Args:
        z: shape (B, D), or (K, B, D) with batch_dims=2.
        mu, logvar: broadcastable to z; 0 if None.
        batch_dims: number of leading dimensions that the result keeps.

    Returns:
        nats, shape (B,), or (K, B) with batch_dims=2.

    Example:
        >>> gaussian_log_prob(torch.zeros(7, 4, 2), batch_dims=2).shape
        torch.Size([7, 4])
    """
    name = "vaefast.functional.gaussian_log_prob"
    _checks.tensor(name, "z", z)
    parameters = [
        _checks.parameter(name, parameter, 0.0 if value is None else value, "z", z)
        for parameter, value in (("mu", mu), ("logvar", logvar))
    ]
    batch_dims = _checks.batch_dims(name, batch_dims, "z", z)
    if any(t.dtype == torch.float64 for t in parameters):
        z = z.double()  # the term takes its second operand for data, which do not decide the dtype; here that is mu
    return row_sum("gaussian", (z, *parameters), batch_dims=batch_dims)


def linear_bernoulli_log_likelihood(
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    x: Tensor,
    *,
    reduction: str = "none",
    mask: Tensor | None = None,
    target_scale: float = 1.0,
) -> Tensor:
    """`bernoulli_log_likelihood` of the logits h @ weight.T + bias, for wide data. The logits are never all in memory.

    The call computes one block of columns at a time: its logits, their sum and, for "sum" and "mean", their gradients. So
    besides the gradients it holds only a few blocks of 8 MB (or 256 columns, if that is more). With "none" the backward
    pass computes the logits once more. Half precision, autocast, torch.compile, torch.func and an x that requires a
    gradient are exceptions: there all logits are computed at once.

    Args:
        h: the decoder's last hidden layer, shape (B, H).
        weight, bias: of the linear layer that follows h, shapes (D, H) and (D,); bias may be None.
        x: targets in [0, 1], shape (B, D): floating point, bool or uint8.
        reduction: "none", "sum" or "mean".
        mask, target_scale: as in `bernoulli_log_likelihood`.

    Returns:
        nats, shape (B,) or () according to `reduction`.

    Example:
        >>> head, h, x = torch.nn.Linear(8, 30_000), torch.rand(4, 8), torch.ones(4, 30_000, dtype=torch.bool)
        >>> mu, logvar = torch.zeros(4, 2), torch.zeros(4, 2)
        >>> from vaefast.functional import gaussian_kl
        >>> fit = linear_bernoulli_log_likelihood(h, head.weight, head.bias, x, reduction="mean")
        >>> (gaussian_kl(mu, logvar, reduction="mean") - fit).backward()  # minus the ELBO
    """
    name = "vaefast.functional.linear_bernoulli_log_likelihood"
    for argument, tensor, dims in (("h", h, 2), ("weight", weight, 2), ("bias", bias, 1), ("x", x, 2)):
        if argument == "bias" and tensor is None:
            continue
        _checks.tensor(name, argument, tensor, target=argument == "x")
        assert tensor is not None
        if tensor.dim() != dims:
            raise ValueError(f"{name}: {argument} must have {dims} dimensions, got shape {tuple(tensor.shape)}")
        _checks.same_device(name, argument, tensor, "h", h)
        if argument != "x" and tensor.dtype != h.dtype and not torch.is_autocast_enabled(h.device.type):
            raise TypeError(f"{name}: {argument} must have the dtype of h, {h.dtype}, got {tensor.dtype}")
    width = x.shape[1]
    expected = {"weight": (width, h.shape[1]), "bias": (width,), "x": (h.shape[0], width)}
    for argument, tensor in (("weight", weight), ("bias", bias), ("x", x)):
        if tensor is not None and tuple(tensor.shape) != expected[argument]:
            raise ValueError(f"{name}: {argument} must have shape {expected[argument]}, got {tuple(tensor.shape)}")
    _checks.reduction(name, reduction)
    _checks.number(name, "target_scale", target_scale)
    mask = _checks.mask(name, mask, "x", x)
    if mask is not None:
        mask = mask.expand(x.shape)
    return linear_row_sum("bernoulli", (h, weight, bias, x, mask), reduction, float(target_scale))
