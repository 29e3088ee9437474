"""Builders of VAEs: fully connected and convolutional."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from .. import _checks, likelihoods
from ..likelihoods import Likelihood
from .vae import VAE


class _Chunk(nn.Module):
    """The last layer of a decoder whose likelihood takes several parameters: splits dimension 1 into that many tensors."""

    def __init__(self, chunks: int) -> None:
        super().__init__()
        self.chunks = chunks

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.chunk(self.chunks, 1)


def _parameters_per_element(likelihood: str | Likelihood) -> int:
    p = likelihoods.by_name(likelihood)
    if getattr(p, "mixture", False):
        raise ValueError(f"{p.name}: its parameters have one dimension more than x; build the decoder by hand")
    if not getattr(p, "log_parameters", True):
        raise ValueError(f"{p.name}: log_parameters=False needs a decoder of positive numbers; build it by hand")
    return len(getattr(p, "parameters_expected", ("one",)))


def _outputs(likelihood: str | Likelihood) -> Callable[[nn.Module], nn.Module]:
    """Returns a function that appends the layers that the likelihood needs to a decoder."""
    if getattr(likelihoods.by_name(likelihood), "probs", False):
        return lambda last: nn.Sequential(last, nn.Sigmoid())
    count = _parameters_per_element(likelihood)
    return lambda last: last if count == 1 else nn.Sequential(last, _Chunk(count))


def mlp_vae(
    input_shape: Sequence[int],
    latent_dim: int = 20,
    hidden_dims: Sequence[int] = (400,),
    likelihood: str | Likelihood = "bernoulli",
    *,
    beta: float | Tensor = 1.0,
) -> VAE:
    """A VAE of fully connected layers with ReLU; the default sizes are those of the VAE in pytorch/examples.

    Args:
        input_shape: shape of one sample, such as (1, 28, 28).
        latent_dim: L, the number of latent dimensions.
        hidden_dims: widths of the encoder's hidden layers; the decoder mirrors them. Without any, the VAE is linear.
        likelihood, beta: as for ELBOLoss.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a size is not positive, or the likelihood is a mixture.

    Example:
        >>> mlp_vae((1, 28, 28)).loss(torch.rand(4, 1, 28, 28)).shape
        torch.Size([])
    """
    name = "vaefast.mlp_vae"
    input_shape = _checks.sizes(name, "input_shape", input_shape, empty=False)
    hidden_dims = _checks.sizes(name, "hidden_dims", hidden_dims)
    latent_dim = _checks.integer(f"{name}: latent_dim", latent_dim, 1)
    size = math.prod(input_shape)

    def layers(sizes: Sequence[int]) -> list[nn.Module]:
        chain: list[nn.Module] = []
        for narrow, wide in pairwise(sizes):
            chain += [nn.Linear(narrow, wide), nn.ReLU()]
        return chain[:-1]

    encoder = nn.Sequential(nn.Flatten(), *layers((size, *hidden_dims, 2 * latent_dim)))
    count = _parameters_per_element(likelihood)
    made = (count * input_shape[0], *input_shape[1:])
    decoder = nn.Sequential(*layers((latent_dim, *reversed(hidden_dims), count * size)), nn.Unflatten(1, made))
    return VAE(encoder, _outputs(likelihood)(decoder), likelihood=likelihood, beta=beta, latent_shape=(latent_dim,))


def conv_vae(
    input_shape: Sequence[int] = (1, 28, 28),
    latent_dim: int = 20,
    channels: Sequence[int] = (32, 64),
    likelihood: str | Likelihood = "bernoulli",
    *,
    beta: float | Tensor = 1.0,
) -> VAE:
    """A VAE of strided convolutions: each stage halves the image and the decoder mirrors it.

    Args:
        input_shape: (channels, height, width) of one sample, both sides divisible by 2 ** len(channels).
        latent_dim: L, the number of latent dimensions.
        channels: numbers of channels of the encoder's stages.
        likelihood, beta: as for ELBOLoss.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a size is not positive, a side is not divisible, or the likelihood is a mixture.

    Example:
        >>> conv_vae((1, 8, 8), latent_dim=2).loss(torch.rand(4, 1, 8, 8)).shape
        torch.Size([])
    """
    name = "vaefast.conv_vae"
    input_shape = _checks.sizes(name, "input_shape", input_shape, empty=False)
    channels = _checks.sizes(name, "channels", channels, empty=False)
    latent_dim = _checks.integer(f"{name}: latent_dim", latent_dim, 1)
    if len(input_shape) != 3 or any(side % 2 ** len(channels) for side in input_shape[1:]):
        raise ValueError(
            f"{name}: input_shape must be (channels, height, width) with sides divisible by "
            f"{2 ** len(channels)}, got {input_shape}"
        )
    widths = (input_shape[0], *channels)
    outputs = (_parameters_per_element(likelihood) * input_shape[0], *channels)
    small = (widths[-1], *(side // 2 ** len(channels) for side in input_shape[1:]))
    down: list[nn.Module] = []
    up: list[nn.Module] = []
    for narrow, wide, out in zip(widths, channels, outputs, strict=False):
        down += [nn.Conv2d(narrow, wide, 4, 2, 1), nn.ReLU()]
        up = [nn.ReLU(), nn.ConvTranspose2d(wide, out, 4, 2, 1), *up]
    encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(math.prod(small), 2 * latent_dim))
    decoder = nn.Sequential(nn.Linear(latent_dim, math.prod(small)), nn.Unflatten(1, small), *up)
    return VAE(encoder, _outputs(likelihood)(decoder), likelihood=likelihood, beta=beta, latent_shape=(latent_dim,))
