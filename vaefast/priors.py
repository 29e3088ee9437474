"""Priors p(z) that are not a single Gaussian. A single Gaussian needs no object: pass its prior_mu and prior_logvar to the
loss, whether they are learned or computed by a layer above."""

import math

import torch
from torch import Tensor, nn

from . import _checks
from .functional import gaussian_log_prob, reparameterize

__all__ = ["VampPrior"]

_NAME = "vaefast.priors.VampPrior"


class VampPrior(nn.Module):
    """The variational mixture of posteriors, p(z) = 1/C sum_c q(z|u_c). The pseudo-inputs u_c are learned (Tomczak and
    Welling 2018).

    Args:
        encoder: the model's encoder. It returns (mu, logvar), or one tensor that is split in two along dimension 1. Its
            parameters stay the model's: the prior does not register them. Every call encodes the pseudo-inputs, so batch
            normalization includes them in its statistics.
        pseudo_inputs: first values of the u_c, shape (C, D), for instance C training samples. They become a parameter.

    Raises:
        TypeError: encoder is not callable, or pseudo_inputs is not a floating-point tensor.
        ValueError: pseudo_inputs has no samples, or fewer than two dimensions.

    Example:
        >>> prior = VampPrior(nn.Linear(6, 4), torch.rand(10, 6))
        >>> prior.log_prob(torch.zeros(3, 2)).shape, prior.sample(5).shape
        (torch.Size([3]), torch.Size([5, 2]))
    """

    def __init__(self, encoder: nn.Module, pseudo_inputs: Tensor) -> None:
        super().__init__()
        _checks.tensor(_NAME, "pseudo_inputs", pseudo_inputs)
        if pseudo_inputs.dim() < 2 or len(pseudo_inputs) == 0:
            raise ValueError(f"{_NAME}: pseudo_inputs must have shape (C, D), got {tuple(pseudo_inputs.shape)}")
        if not callable(encoder):
            raise TypeError(f"{_NAME}: encoder must be a module or a function, got {type(encoder).__name__}")
        self._encoder = (encoder,)  # in a tuple, so that nn.Module does not register it
        self.pseudo_inputs = nn.Parameter(pseudo_inputs.detach().clone())

    def components(self) -> tuple[Tensor, Tensor]:
        """Returns (mu, logvar) of the mixture's Gaussians, each of shape (C, L).

        Raises:
            TypeError, ValueError: the encoder returns neither (mu, logvar) nor one tensor that splits in two.
        """
        mu, logvar = _checks.encoded(_NAME, self._encoder[0](self.pseudo_inputs))
        _checks.latent(_NAME, mu, logvar)
        return mu, logvar

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) in nats, shape (B,), for z of shape (B, L).

        Raises:
            TypeError: z is not a floating-point tensor.
            ValueError: z does not have shape (B, L), where L is the encoder's number of latent dimensions.
        """
        _checks.tensor(f"{_NAME}.log_prob", "z", z)
        mu, logvar = self.components()
        if z.dim() != mu.dim() or z.shape[1:] != mu.shape[1:]:
            shape = ", ".join(map(str, ("B", *mu.shape[1:])))
            raise ValueError(f"{_NAME}.log_prob: z must have shape ({shape}), got {tuple(z.shape)}")
        pairs = (len(z), *mu.shape)
        each = gaussian_log_prob(z[:, None].expand(pairs), mu.expand(pairs), logvar.expand(pairs), batch_dims=2)
        return each.logsumexp(1) - math.log(len(mu))

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """n draws of z, shape (n, L).

        Raises:
            TypeError: n is not an int, or generator is not a torch.Generator.
            ValueError: n is negative, or generator is on another device.
        """
        _checks.integer(f"{_NAME}.sample: n", n, 0)
        mu, logvar = self.components()
        _checks.generator(f"{_NAME}.sample", generator, mu.device)
        which = torch.randint(len(mu), (n,), generator=generator, device=mu.device)
        return reparameterize(mu[which], logvar[which], generator=generator)
