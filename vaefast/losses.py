"""The loss as a module: composition, weights and reduction. What can be one sweep is one."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from . import _checks, autograd, likelihoods
from ._likelihood import Likelihood
from .functional import ELBO, free_bits_kl, gaussian_kl, gaussian_log_prob
from .kl import FREE_BITS

__all__ = ["ELBOLoss"]

_NAME = "vaefast.ELBOLoss"


class ELBOLoss(nn.Module):
    """The negative evidence lower bound, -E_q[log p(x|z)] + beta * KL(q(z|x) || p(z)) (Kingma and Welling 2014).

    The sum over pixels and the sum over latent dimensions are always sums; `reduction` says what happens over the batch:
    "mean" is the MEAN OVER SAMPLES OF PER-SAMPLE SUMS, "sum" adds the samples (as pytorch/examples does), "none" gives
    one loss per sample. With "mean" and beta = 1 the loss is minus a lower bound on the mean log p(x), in nats.

    Args:
        likelihood: "bernoulli" (the decoder returns logits), "bernoulli_probs" (probabilities), "gaussian" (a mean, with
            unit variance, or a pair (mean, logvar)), another name that `likelihoods.by_name` knows, or an object of
            vaefast.likelihoods.
        beta: weight of the KL (Higgins et al. 2017): a number, or a 0-dimensional tensor of the same device or the CPU,
            which is no buffer: `.to()` does not move it, and state_dict() does not hold it.
        reduction: "mean", "sum" or "none".
        free_bits: nats of KL that are free (Kingma et al. 2016), in the meaning that `free_bits_per` names, see
            `functional.free_bits_kl`; by default each latent dimension's KL, averaged over the batch, counts as at least
            free_bits. `parts.kl` stays the true KL.
        estimator: "analytic", the KL in closed form, or "mc", log q(z|x) - log p(z) at the sample z that recon_x was made
            of and that the call is then given.
        prior: for "mc": p(z), an object with log_prob(z) of shape (B,), such as vaefast.priors.VampPrior.
        inplace: write the gradient over the decoder's output where that is possible, which saves a tensor of its size.
            The output is then spent: it holds its gradient, so take metrics before, and using it afterwards in a backward
            pass raises torch's version error.
        validate: look at the values of every call, which on CUDA waits for the device.
        target_scale: what x is multiplied by; 1 / 255 reads uint8 images as they are. For likelihoods given by name.

    Raises:
        TypeError: an argument is of the wrong type, for instance a prior without log_prob.
        ValueError: an option is unknown or out of its range, or two of them exclude each other.

    Example:
        >>> criterion = ELBOLoss(likelihood="bernoulli")
        >>> loss = criterion(torch.zeros(8, 784), torch.rand(8, 784).round(), torch.zeros(8, 20), torch.zeros(8, 20))
        >>> round(loss.item(), 2)  # 784 log 2
        543.43
    """

    def __init__(
        self,
        likelihood: str | Likelihood = "bernoulli",
        *,
        beta: float | Tensor = 1.0,
        reduction: str = "mean",
        free_bits: float | None = None,
        free_bits_per: str = "dimension",
        estimator: str = "analytic",
        prior: Any = None,
        inplace: bool = False,
        validate: bool = False,
        target_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.beta = _checks.beta(_NAME, beta)
        _checks.reduction(_NAME, reduction)
        _checks.choice(_NAME, "free_bits_per", free_bits_per, FREE_BITS)
        _checks.choice(_NAME, "estimator", estimator, ("analytic", "mc"))
        if free_bits is not None:
            free_bits = _checks.number(_NAME, "free_bits", free_bits, minimum=0.0)
            if estimator == "mc":
                raise ValueError(f"{_NAME}: free_bits needs estimator='analytic', which knows each dimension's KL")
        if prior is not None:
            _checks.prior(_NAME, prior)
            if estimator != "mc":
                raise ValueError(f"{_NAME}: prior needs estimator='mc', got {estimator!r}")
        self.likelihood = likelihoods.by_name(likelihood, target_scale=target_scale)
        self.reduction = reduction
        self.free_bits = free_bits
        self.free_bits_per = free_bits_per
        self.estimator = estimator
        self.prior = prior
        self.inplace = _checks.flag(_NAME, "inplace", inplace)
        self.validate = _checks.flag(_NAME, "validate", validate)

    def forward(
        self,
        recon_x: Any,
        x: Tensor,
        mu: Tensor,
        logvar: Tensor,
        *,
        z: Tensor | None = None,
        prior_mu: Tensor | None = None,
        prior_logvar: Tensor | None = None,
        beta: float | Tensor | None = None,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
        return_parts: bool = False,
    ) -> Tensor | tuple[Tensor, ELBO]:
        """The loss.

        Args:
            recon_x: the decoder's output, shape (B, D).
            x: data of the same shape.
            mu, logvar: of q(z|x), of one shape (B, L).
            z: for estimator="mc" alone: the sample that recon_x was made of, of the shape of mu.
            prior_mu, prior_logvar: of p(z), broadcastable to mu; standard normal if None.
            beta: instead of the module's, for this call.
            weight: weight of each sample's loss, shape (B,). "mean" still divides by B.
            mask: bool, broadcastable to x; elements that are False are missing and may hold anything.
            return_parts: also return the parts, per sample.

        Returns:
            The loss, a scalar or of shape (B,); or (loss, ELBO(elbo, log_likelihood, kl)), elbo with beta as used.

        Raises:
            TypeError: an argument is not a tensor, or of a dtype that is not computed with.
            ValueError: shapes or devices do not fit together, z is missing or not expected, or, with validate=True, an
                argument holds NaN or infinite values, or x has values that the likelihood gives no probability.
            NotImplementedError: a tensor is sparse, nested or quantized.
        """
        # self.likelihood goes through nn.Module.__getattr__, which takes as long as a small kernel.
        likelihood: Any = self._modules.get("likelihood") or self.likelihood
        if (
            (beta is weight is mask is prior_mu is prior_logvar is None)
            and return_parts is False
            and not (self.inplace or self.validate or torch.compiler.is_compiling())
            and (self.free_bits is None and self.reduction in ("mean", "sum"))
            and (numbers := likelihood.numbers if isinstance(likelihood, Likelihood) else None) is not None
            and (z is None and self.estimator == "analytic")
            and (isinstance(self.beta, (int, float)) and 0 <= self.beta < math.inf)
        ):
            # The checks below take as long as the kernel on a small batch. So the usual call is checked and run in one
            # step in C++, which returns None if anything about the tensors is unusual.
            loss = autograd.fast_elbo_loss(
                likelihood.term, recon_x, x, mu, logvar, self.beta, self.reduction, likelihood.target_scale, numbers
            )
            if loss is not None:
                return loss
        latent = _checks.latent(_NAME, mu, logvar, prior_mu, prior_logvar)
        beta = _checks.beta(_NAME, self.beta if beta is None else beta, "mu", mu)
        _checks.reduction(_NAME, self.reduction)
        _checks.flag(_NAME, "return_parts", return_parts)
        _checks.instance(_NAME, "x", x)
        fused = getattr(likelihood, "fused", False)
        operands = likelihood.operands(recon_x, x, mask) if fused else ()
        if mu.device != x.device:
            _checks.same_device(_NAME, "mu", mu, "x", x)
        batch = x.shape[:1]
        if batch != mu.shape[:1] or not batch:
            raise ValueError(
                f"{_NAME}: x has shape {tuple(x.shape)} but mu has shape {tuple(mu.shape)}; "
                "the first dimension of both is the batch"
            )
        if mask is not None:
            mask = _checks.mask(_NAME, mask, "x", x)
        if weight is not None:
            _checks.weight(_NAME, weight, batch, "x", x)
        if (z is None) != (self.estimator == "analytic"):
            got = "got none" if z is None else f"got one for estimator={self.estimator!r}"
            raise ValueError(f"{_NAME}: z must be given for estimator='mc' and only then, {got}")
        if self.prior is not None and not (prior_mu is prior_logvar is None):
            raise ValueError(f"{_NAME}: the module has a prior; prior_mu and prior_logvar would be another one")
        if z is not None:
            _checks.sample(_NAME, z)
            _checks.same_shape(_NAME, "z", z, "mu", mu)
        in_one_sweep = fused and self.free_bits is None and self.reduction != "none" and z is None
        if not in_one_sweep:
            fit = likelihood.log_prob(recon_x, x, mask=mask)
        if self.validate:  # after the other checks, so that their errors stay the same
            named = zip(("mu", "logvar", "prior_mu", "prior_logvar"), latent, strict=False)
            self._check_values(recon_x, x, mask, {**dict(named), "z": z, "beta": beta, "weight": weight})

        if in_one_sweep:
            loss, *parts = autograd.elbo_loss(
                likelihood.term,
                operands,
                latent,
                mask,
                weight,
                beta,
                self.reduction,
                target_scale=likelihood.target_scale,
                inplace=self.inplace,
                parts=return_parts,
            )
            if not return_parts:
                return loss
            fit, kl = parts
        else:
            _checks.per_sample(_NAME, "likelihood", fit, batch)
            if z is None:
                kl = gaussian_kl(mu, logvar, prior_mu, prior_logvar)
            else:
                log_p = gaussian_log_prob(z, prior_mu, prior_logvar) if self.prior is None else self.prior.log_prob(z)
                _checks.per_sample(_NAME, "prior", log_p, batch)
                kl = gaussian_log_prob(z, mu, logvar) - log_p
            counted = kl
            if self.free_bits is not None:
                counted = free_bits_kl(
                    gaussian_kl(*latent, reduction="elementwise"), self.free_bits, self.free_bits_per
                )
            loss = beta * counted - fit
            if weight is not None:
                loss = weight.to(loss.dtype) * loss
            if self.reduction != "none":
                loss = loss.sum() if self.reduction == "sum" else loss.mean()
        return (loss, ELBO(fit - beta * kl, fit, kl)) if return_parts else loss

    def _check_values(self, recon_x: Any, x: Tensor, mask: Tensor | None, others: dict[str, Any]) -> None:
        def kept(t: Tensor, target: bool = False) -> Tensor:
            if mask is None:
                return t
            wide = getattr(self.likelihood, "mixture", False) and not target and mask.dim() == x.dim()
            return torch.where(mask.unsqueeze(1) if wide else mask, t, torch.zeros_like(t))

        several = isinstance(recon_x, (tuple, list))
        named = {f"recon_x[{k}]": t for k, t in enumerate(recon_x)} if several else {"recon_x": recon_x}
        named = {name: kept(t) for name, t in named.items() if isinstance(t, Tensor)}
        learned = self.likelihood.named_parameters() if isinstance(self.likelihood, nn.Module) else ()
        targets = kept(x, True)
        for name, t in {**named, "x": targets, **others, **{f"likelihood.{k}": t for k, t in learned}}.items():
            if isinstance(t, Tensor) and t.is_floating_point() and not torch.isfinite(t).all():
                raise ValueError(f"{_NAME}: {name} holds NaN or infinite values")
        beta = others["beta"]
        if isinstance(beta, Tensor) and beta < 0:
            raise ValueError(f"{_NAME}: beta must be at least 0, got {beta.item():g}")
        if x.numel() == 0:
            return
        kind = type(self.likelihood).__name__
        if getattr(self.likelihood, "integral", False) and bool(
            (targets * self.likelihood.target_scale % 1 != 0).any()
        ):
            raise ValueError(f"{_NAME}: {kind} targets must be whole numbers")
        support = getattr(self.likelihood, "support", None)
        if support is None:
            return
        bounded = {f"{kind} targets": (targets, self.likelihood.target_scale, support)}
        if getattr(self.likelihood, "probs", False):
            bounded["recon_x, of probabilities,"] = (named["recon_x"], 1.0, (0.0, 1.0))
        for name, (tensor, scale, (least, most)) in bounded.items():
            low, high = (bound.item() * scale for bound in tensor.aminmax())
            if low < least or high > most:
                raise ValueError(
                    f"{_NAME}: {name} must lie in [{least:g}, {most:g}], got values from {low:g} to {high:g}"
                )

    def extra_repr(self) -> str:
        options = {
            "free_bits": self.free_bits,
            "free_bits_per": self.free_bits is not None and self.free_bits_per,
            "estimator": self.estimator == "mc" and "mc",
            "inplace": self.inplace,
            "validate": self.validate,
        }
        named = "".join(f", {name}={value!r}" for name, value in options.items() if value not in (None, False))
        return f"beta={self.beta}, reduction={self.reduction!r}{named}"
