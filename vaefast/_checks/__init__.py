"""Checks of arguments, shared by the whole package. Each message names the function, the argument, what was expected and
what was given."""

from .operands import encoded, latent, parameter, prediction, same_batch, sample
from .options import (
    ALL_REDUCTIONS,
    REDUCTIONS,
    batch_dims,
    beta,
    choice,
    flag,
    generator,
    integer,
    num_samples,
    number,
    positive,
    prior,
    reduction,
    sizes,
)
from .tensors import broadcast, dense, instance, mask, per_sample, same_device, same_shape, tensor, weight

__all__ = [
    "ALL_REDUCTIONS",
    "REDUCTIONS",
    "batch_dims",
    "beta",
    "broadcast",
    "choice",
    "dense",
    "encoded",
    "flag",
    "generator",
    "instance",
    "integer",
    "latent",
    "mask",
    "num_samples",
    "number",
    "parameter",
    "per_sample",
    "positive",
    "prediction",
    "prior",
    "reduction",
    "same_device",
    "same_shape",
    "sample",
    "same_batch",
    "sizes",
    "tensor",
    "weight",
]
