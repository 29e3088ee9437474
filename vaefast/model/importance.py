"""log p(x) and the ELBO by importance sampling, a few samples at a time, so that memory does not grow with their number."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor, nn

from .. import _checks, functional
from ..functional.weights import fit_and_ratio


class Bounds(NamedTuple):
    """Estimates from importance samples, each of shape (B,). All but ess are in nats."""

    log_px: Tensor
    elbo: Tensor
    log_likelihood: Tensor  # E_q[log p(x|z)]
    kl: Tensor  # KL(q(z|x) || p(z)), in closed form where the prior is the standard normal
    ess: Tensor  # the effective sample size


def bounds_of(chunks: Iterable[tuple[Tensor, Tensor]], kl: Tensor | None) -> Bounds:
    """Computes Bounds from chunks of log p(x|z_k) and log p(z_k) - log q(z_k|x), each of shape (K, B). `kl` is the KL if it
    is known in closed form.

    Both bounds use the same samples. So the ELBO is never above log p(x), and with one sample they are equal."""
    count = 0
    total = squares = torch.full((), -math.inf, dtype=torch.float64)  # running logsumexps
    elbo = ratios = torch.zeros((), dtype=torch.float64)
    for fit, ratio in chunks:
        log_w = fit.double() + ratio.double()
        count += len(log_w)
        total = torch.logaddexp(total.to(log_w.device), log_w.logsumexp(0))
        squares = torch.logaddexp(squares.to(log_w.device), (2 * log_w).logsumexp(0))
        elbo = elbo + log_w.sum(0)
        ratios = ratios + ratio.double().sum(0)
    elbo, dtype = elbo / count, fit.dtype
    kl = -ratios / count if kl is None else kl.double()
    found = (total - math.log(count), elbo, elbo + kl, kl, (2 * total - squares).exp())
    return Bounds(*(t.to(dtype) for t in found))


def flatten(z: object) -> Tensor:
    """Returns samples of shape (K, B, ...) as the K * B rows that a decoder takes."""
    z = _checks.dense("vaefast.VAE.decode_samples", "z", z)
    if z.dim() < 2:
        raise ValueError(f"vaefast.VAE.decode_samples: z must have shape (K, B, L), got {tuple(z.shape)}")
    return z.flatten(0, 1)


def unflatten(recon_x: object, shape: Sequence[int]) -> Any:
    """Returns a decoder's output for K * B rows with K and B as its first dimensions."""
    several: Sequence[Any] = recon_x if isinstance(recon_x, (tuple, list)) else [recon_x]
    if not several or not all(isinstance(t, Tensor) for t in several):
        kinds = ", ".join(type(t).__name__ for t in several)
        got = f"({kinds})" if several is recon_x else kinds
        raise TypeError(f"vaefast.VAE: a decoder must return a torch.Tensor or a tuple of them, got {got}")
    first, rows = several[0], shape[0] * shape[1]
    if first.dim() == 0 or first.shape[0] != rows:
        raise ValueError(f"vaefast.VAE: a decoder must return {rows} rows for {rows} of z, got {tuple(first.shape)}")
    if several is not recon_x:
        return first.unflatten(0, shape)
    # A parameter that all samples share has fewer dimensions than the others, or a first dimension of 1. It stays as it is.
    return tuple(t.unflatten(0, shape) if t.dim() == first.dim() and t.shape[0] == rows else t for t in several)


def given(**arguments: Any) -> dict[str, Any]:
    """Returns the arguments that are not None, so that a method that a subclass overrides need not accept the others."""
    return {name: value for name, value in arguments.items() if value is not None}


class ImportanceSampling(nn.Module):
    """The methods of VAE that estimate log p(x) by importance sampling with q(z|x) as proposal. VAE encodes and decodes."""

    likelihood: Any
    prior: Any

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, logvar) of q(z|x)."""
        raise NotImplementedError

    def decode(self, z: Tensor) -> Any:
        """The likelihood's parameters given z."""
        raise NotImplementedError

    @overload
    def log_likelihood(
        self,
        x: Tensor,
        num_samples: int = ...,
        *,
        chunk_size: int = ...,
        mask: Tensor | None = ...,
        return_ess: Literal[False] = ...,
        generator: torch.Generator | None = ...,
    ) -> Tensor: ...

    @overload
    def log_likelihood(
        self,
        x: Tensor,
        num_samples: int = ...,
        *,
        chunk_size: int = ...,
        mask: Tensor | None = ...,
        return_ess: Literal[True],
        generator: torch.Generator | None = ...,
    ) -> tuple[Tensor, Tensor]: ...

    @torch.no_grad()
    def log_likelihood(
        self,
        x: Tensor,
        num_samples: int = 5000,
        *,
        chunk_size: int = 50,
        mask: Tensor | None = None,
        return_ess: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """log p(x) by importance sampling with q(z|x) as proposal (Burda et al. 2016): log mean_k p(x, z_k) / q(z_k|x).

        The expectation of the estimate is a lower bound on log p(x) and rises to it as num_samples grows. The samples are
        drawn chunk_size at a time and added to a running logsumexp, so memory does not grow with num_samples.

        Args:
            x: data, shape (B, D).
            num_samples: importance samples per datum.
            chunk_size: how many of them are decoded at once.
            mask: as for `loss`; the result is then about log p of the elements that are True.
            return_ess: also return the effective sample size, (sum w)^2 / sum w^2, of shape (B,). Do not trust an estimate
                whose effective sample size is small.

        Returns:
            nats, shape (B,); or (log p(x), effective sample size).

        Raises:
            ValueError: num_samples or chunk_size is not positive, the shapes do not match, or the likelihood has
                optimal_scale, which depends on x, so there is no p(x|z).

        Example:
            >>> from vaefast import VAE
            >>> vae, x = VAE(nn.Linear(6, 4), nn.Linear(2, 6)), torch.rand(3, 6).round()
            >>> log_px, ess = vae.log_likelihood(x, num_samples=100, return_ess=True)
            >>> log_px.shape, bool((ess > 1).all())
            (torch.Size([3]), True)
        """
        bounds = self.bounds(x, num_samples, chunk_size=chunk_size, mask=mask, generator=generator)
        return (bounds.log_px, bounds.ess) if return_ess else bounds.log_px

    @torch.no_grad()
    def bounds(
        self,
        x: Tensor,
        num_samples: int = 5000,
        *,
        chunk_size: int = 50,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Bounds:
        """log p(x) and the ELBO from the same importance samples, drawn as by `log_likelihood`.

        The ELBO is the mean of log w, and log p(x) is the logarithm of the mean of w. So the ELBO is at most log p(x), and
        with one sample the two are equal.

        Args:
            x, num_samples, chunk_size, mask, generator: as for `log_likelihood`.

        Returns:
            Bounds(log_px, elbo, log_likelihood, kl, ess), each of shape (B,); elbo = log_likelihood - kl.

        Raises:
            ValueError: as `log_likelihood`.

        Example:
            >>> from vaefast import VAE
            >>> bounds = VAE(nn.Linear(6, 4), nn.Linear(2, 6)).bounds(torch.rand(3, 6), num_samples=10)
            >>> bool((bounds.elbo < bounds.log_px).all())
            True
        """
        num_samples = _checks.integer("vaefast.VAE: num_samples", num_samples, 1)
        chunk_size = _checks.integer("vaefast.VAE: chunk_size", chunk_size, 1)
        _checks.instance("vaefast.VAE", "x", x)
        mu, logvar = self.encode(x)

        def chunk(samples: int) -> tuple[Tensor, Tensor]:
            z = functional.reparameterize(mu, logvar, num_samples=samples, generator=generator)
            recon_x = self.decode_samples(z)
            options = {"likelihood": self.likelihood, "prior": self.prior, "mask": mask}
            return fit_and_ratio("vaefast.VAE.bounds", recon_x, x, z, mu, logvar, **options)

        chunks = (chunk(min(chunk_size, num_samples - done)) for done in range(0, num_samples, chunk_size))
        return bounds_of(chunks, functional.gaussian_kl(mu, logvar) if self.prior is None else None)

    def decode_samples(self, z: Tensor) -> Any:
        """Returns the likelihood's parameters given z of shape (K, B, L), with K and B first, as IWAELoss takes them."""
        return unflatten(self.decode(flatten(z)), z.shape[:2])

    @torch.no_grad()
    def posterior_gap(self, x: Tensor, num_samples: int = 5000, **options: Any) -> Tensor:
        """log p(x) - ELBO(x) in nats, shape (B,): an estimate of KL(q(z|x) || p(z|x)), by importance sampling.

        Both terms come from the same samples, so the gap of an exact posterior is exactly 0, without noise. With one sample
        the gap is always 0. With more samples its expectation rises to the true value.

        Args:
            x, num_samples, options: chunk_size, mask and generator, as for `bounds`.

        Raises:
            ValueError: as `log_likelihood`.

        Example:
            >>> from vaefast import VAE
            >>> vae = VAE(nn.Linear(6, 4), nn.Linear(2, 6))
            >>> bool((vae.posterior_gap(torch.rand(3, 6).round(), num_samples=100) > 0).all())
            True
        """
        bounds = self.bounds(x, num_samples, **options)
        return bounds.log_px - bounds.elbo
