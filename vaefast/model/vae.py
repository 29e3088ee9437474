"""The VAE as a module: encoder, decoder and likelihood, trained by the ELBO and evaluated by log p(x)."""

from collections.abc import Sequence
from itertools import chain
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from .. import _checks, functional
from ..functional import ELBO
from ..functional.weights import check_model
from ..likelihoods import Likelihood
from ..losses import ELBOLoss, IWAELoss
from .importance import ImportanceSampling, given


class VAE(ImportanceSampling):
    """A variational autoencoder.

    Sampling does not depend on `.training`: each method says whether it samples. A method that samples takes a `generator`,
    a torch.Generator on the model's device. Without one it uses the device's default generator.

    Args:
        encoder: maps x to (mu, logvar), or to one tensor that is split in two along dimension 1.
        decoder: maps z to the likelihood's parameters.
        likelihood: as for ELBOLoss.
        beta: weight of the KL in `loss`.
        prior: p(z), an object with log_prob(z) of shape (B,) and sample(n), such as vaefast.priors.VampPrior of this
            model's encoder, or a torch.distributions object on the model's device with one z as its event. If the prior is
            a module, its parameters become the model's. The KL is then estimated as log q(z|x) - log p(z) at the sample of
            z. If None, p(z) is the standard normal and the KL is in closed form.
        latent_shape: shape of one z, such as (20,), which `sample` needs. If None, the first `encode` sets it.

    Attributes:
        criterion: the ELBOLoss that `loss` calls. It owns likelihood, beta and prior. Assign another ELBOLoss to replace
            all three; ELBOLoss(vae.likelihood, free_bits=0.1) keeps the likelihood.

    Raises:
        TypeError: prior has no log_prob or no sample.

    Example:
        >>> vae = VAE(nn.Linear(6, 4), nn.Linear(2, 6))
        >>> recon_x, mu, logvar = vae(torch.rand(3, 6))
        >>> recon_x.shape, mu.shape
        (torch.Size([3, 6]), torch.Size([3, 2]))
        >>> from vaefast.priors import VampPrior
        >>> VAE(vae.encoder, vae.decoder, prior=VampPrior(vae.encoder, torch.rand(10, 6))).loss(torch.rand(3, 6)).shape
        torch.Size([])
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        likelihood: str | Likelihood = "bernoulli",
        beta: float | Tensor = 1.0,
        prior: Any = None,
        latent_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if prior is not None:
            _checks.prior("vaefast.VAE", prior, ("log_prob", "sample"))
        self.encoder = encoder
        self.decoder = decoder
        estimator = "analytic" if prior is None else "mc"
        self.criterion = ELBOLoss(likelihood, beta=beta, estimator=estimator, prior=prior)
        self.latent_shape = None if latent_shape is None else _checks.sizes("vaefast.VAE", "latent_shape", latent_shape)

    @property
    def likelihood(self) -> Any:
        return self.criterion.likelihood

    @property
    def beta(self) -> float | Tensor:
        return self.criterion.beta

    @property
    def prior(self) -> Any:
        """p(z), or None for the standard normal."""
        return getattr(self.criterion, "prior", None)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("likelihood", "prior", "beta"):  # nn.Module would keep it, but no loss would use it
            raise AttributeError(f"vaefast.VAE: {name} belongs to the criterion; give it to VAE or to a new criterion")
        if name == "criterion" and isinstance(value, IWAELoss):
            raise TypeError(
                "vaefast.VAE: IWAELoss takes several samples; call it with decode_samples(z), x, z, mu, logvar"
            )
        super().__setattr__(name, value)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (mu, logvar) of q(z|x) for x of shape (B, D), each of shape (B, L).

        Raises:
            TypeError, ValueError: the encoder returns neither two tensors nor one that splits in two along dimension 1.
        """
        mu, logvar = _checks.encoded("vaefast.VAE", self.encoder(x))
        if self.latent_shape is None:
            self.latent_shape = tuple(mu.shape[1:])
        return mu, logvar

    def reparameterize(self, mu: Tensor, logvar: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """One sample of z, of the shape of mu."""
        return functional.reparameterize(mu, logvar, generator=generator)

    def decode(self, z: Tensor) -> Any:
        """The likelihood's parameters given z of shape (B, L): the decoder's output, shape (B, D) or a tuple of such."""
        return self.decoder(z)

    def forward(self, x: Tensor, *, generator: torch.Generator | None = None) -> tuple[Any, Tensor, Tensor]:
        """Returns (recon_x, mu, logvar), which ELBOLoss takes with x."""
        mu, logvar = self.encode(x)
        return self.decode(self.reparameterize(mu, logvar, **given(generator=generator))), mu, logvar

    @overload
    def loss(
        self,
        x: Tensor,
        *,
        beta: float | Tensor | None = ...,
        weight: Tensor | None = ...,
        mask: Tensor | None = ...,
        return_parts: Literal[False] = ...,
        generator: torch.Generator | None = ...,
    ) -> Tensor: ...

    @overload
    def loss(
        self,
        x: Tensor,
        *,
        beta: float | Tensor | None = ...,
        weight: Tensor | None = ...,
        mask: Tensor | None = ...,
        return_parts: Literal[True],
        generator: torch.Generator | None = ...,
    ) -> tuple[Tensor, ELBO]: ...

    def loss(
        self,
        x: Tensor,
        *,
        beta: float | Tensor | None = None,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
        return_parts: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor | tuple[Tensor, ELBO]:
        """The mean over the batch of -log p(x|z) + beta * KL, a scalar in nats; see ELBOLoss for the arguments' errors.

        Args:
            x: data, shape (B, D).
            beta: replaces the criterion's beta in this call, for instance by a value of vaefast.schedules.
            weight: weight of each sample's loss, shape (B,).
            mask: bool, broadcastable to x; the loss leaves out elements that are False. The encoder sees all of x.
            return_parts: also return the parts, per sample.

        Returns:
            The loss in nats. With return_parts: (loss, ELBO(elbo, log_likelihood, kl)), where elbo includes beta and each
            part has shape (B,).

        Raises:
            TypeError, ValueError: as `ELBOLoss.forward`.

        Example:
            >>> from vaefast import schedules
            >>> vae = VAE(nn.Linear(6, 4), nn.Linear(2, 6))
            >>> loss, parts = vae.loss(torch.rand(3, 6), beta=schedules.linear(10, 1000), return_parts=True)
            >>> loss.shape, parts.kl.shape
            (torch.Size([]), torch.Size([3]))
        """
        recon_x, mu, logvar, z = self._decoded(x, generator)
        options = given(z=z, beta=beta, weight=weight, mask=mask, return_parts=return_parts or None)
        return self.criterion(recon_x, x, mu, logvar, **options)

    def elbo(self, x: Tensor, *, mask: Tensor | None = None, generator: torch.Generator | None = None) -> ELBO:
        """Returns the true bound (beta = 1) and its parts, each of shape (B,), from one sample of z. mask is as for `loss`.

        Raises:
            ValueError: the likelihood has optimal_scale, which depends on x, so there is no p(x|z).

        Example:
            >>> elbo = VAE(nn.Linear(6, 4), nn.Linear(2, 6)).elbo(torch.rand(3, 6))
            >>> bool((elbo.elbo == elbo.log_likelihood - elbo.kl).all())
            True
        """
        check_model("vaefast.VAE.elbo", self.likelihood)
        recon_x, mu, logvar, z = self._decoded(x, generator)
        if z is None:
            return functional.elbo(recon_x, x, mu, logvar, likelihood=self.likelihood, mask=mask)
        return self.criterion(recon_x, x, mu, logvar, z=z, beta=1.0, return_parts=True, **given(mask=mask))[1]

    def _decoded(self, x: Tensor, generator: torch.Generator | None) -> tuple[Any, Tensor, Tensor, Tensor | None]:
        """Returns (recon_x, mu, logvar, z). z is None if the criterion has the KL in closed form and takes no sample."""
        _checks.instance("vaefast.VAE", "x", x)
        if getattr(self.criterion, "estimator", "analytic") == "analytic":
            return *self(x, **given(generator=generator)), None
        mu, logvar = self.encode(x)
        z = self.reparameterize(mu, logvar, **given(generator=generator))
        return self.decode(z), mu, logvar, z

    def reconstruct(self, x: Tensor, *, sample: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Returns E[x|z] for z the mean of q(z|x), or with `sample` for z a sample of it."""
        mu, logvar = self.encode(x)
        z = self.reparameterize(mu, logvar, **given(generator=generator)) if sample else mu
        return self.likelihood.mean(self.decode(z))

    @torch.no_grad()
    def sample(self, n: int, *, draw: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Returns E[x|z] for n draws of z from the prior, or with `draw` samples of x. The result has no gradient.

        Args:
            n: number of samples.
            draw: also draw x from p(x|z) by the likelihood's `sample`, so the result includes the noise of p(x|z).

        Returns:
            shape (n, D), on the scale that x has after target_scale.

        Raises:
            RuntimeError: the shape of z is unknown, because VAE has no latent_shape and has encoded nothing yet.
            ValueError: a generator is given, but the prior is of torch.distributions, which takes none.

        Example:
            >>> vae = VAE(nn.Linear(6, 4), nn.Linear(2, 6), latent_shape=(2,))
            >>> vae.sample(3).shape, vae.sample(3, draw=True).unique()
            (torch.Size([3, 6]), tensor([0., 1.]))
        """
        recon_x = self.decode(self._draw_z(_checks.integer("vaefast.VAE.sample: n", n, 0), generator))
        if draw:
            return self.likelihood.sample(recon_x, **given(generator=generator))
        return self.likelihood.mean(recon_x)

    def _draw_z(self, n: int, generator: torch.Generator | None) -> Tensor:
        """n samples of the prior."""
        if isinstance(self.prior, torch.distributions.Distribution):
            if generator is not None:
                raise ValueError(f"vaefast.VAE: {type(self.prior).__name__}.sample takes no generator; seed torch")
            return self.prior.sample((n,))
        if self.prior is not None:
            return self.prior.sample(n, **given(generator=generator))
        if self.latent_shape is None:
            raise RuntimeError(
                "vaefast.VAE.sample: the shape of z is unknown; give VAE its latent_shape, or encode something first"
            )
        # A model without parameters or buffers has no device of its own, so torch's default is used.
        own = next(filter(Tensor.is_floating_point, chain(self.parameters(), self.buffers())), torch.empty(0))
        zero = torch.zeros(n, *self.latent_shape, device=own.device, dtype=own.dtype)
        return functional.reparameterize(zero, zero, generator=generator)
