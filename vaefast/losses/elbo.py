"""ELBOLoss: the negative ELBO as a module. Runs as one fused call when the options allow."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from .. import _checks, likelihoods, ops
from ..functional import ELBO, free_bits_kl, gaussian_kl, gaussian_log_prob
from ..functional.kl import FREE_BITS
from ..likelihoods import Likelihood
from .call import Call, checked_call
from .reduction import reduce
from .validate import check_values

_NAME = "vaefast.ELBOLoss"


class ELBOLoss(nn.Module):
    """The negative evidence lower bound, -E_q[log p(x|z)] + beta * KL(q(z|x) || p(z)) (Kingma and Welling 2014).

    Pixels and latent dimensions are always summed. `reduction` applies to the batch only: "mean" is the MEAN OVER SAMPLES
    OF PER-SAMPLE SUMS, "sum" adds the samples (as pytorch/examples does), and "none" gives one loss per sample. With "mean"
    and beta = 1 the loss is minus a lower bound on the mean log p(x), in nats.

    Args:
        likelihood: "bernoulli" (the decoder returns logits), "bernoulli_probs" (probabilities), "gaussian" (a mean, with
            unit variance, or a pair (mean, logvar)), another name that `likelihoods.by_name` knows, or an object of
            vaefast.likelihoods.
        beta: weight of the KL (Higgins et al. 2017): a number, or a 0-dimensional tensor on the CPU or the loss's device. A
            tensor is not a buffer: `.to()` does not move it, and state_dict() does not contain it.
        reduction: "mean", "sum" or "none".
        free_bits: nats of KL that are not penalized (Kingma et al. 2016). `free_bits_per` is "dimension", "element" or
            "total", see `functional.free_bits_kl`. By default each latent dimension's KL, averaged over the batch, counts
            as at least free_bits. `parts.kl` stays the true KL.
        estimator: "analytic" is the KL in closed form. "mc" is the estimate log q(z|x) - log p(z) at the sample z that the
            decoder turned into recon_x; the call then takes this z.
        prior: for "mc": p(z), an object with log_prob(z) of shape (B,), such as vaefast.priors.VampPrior.
        inplace: overwrite the decoder's output with its gradient where that is possible, which saves a tensor of its size.
            Compute metrics from the output before the call. A later backward pass that needs the output
            raises torch's version error.
        validate: check the values of every call. On CUDA this waits for the device.
        target_scale: factor that multiplies x; 1 / 255 for uint8 images. Only for likelihoods given by name.

    Raises:
        TypeError: an argument is of the wrong type, for instance a prior without log_prob.
        ValueError: an option is unknown or out of range, or two options exclude each other.

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
        """Returns the loss.

        Args:
            recon_x: the decoder's output, shape (B, D), or a tuple of tensors if the likelihood takes several.
            x: data of the same shape.
            mu, logvar: mean and log sigma^2 of q(z|x), both of shape (B, L).
            z: only for estimator="mc": the sample that the decoder turned into recon_x, of the shape of mu.
            prior_mu, prior_logvar: of p(z), broadcastable to mu; standard normal if None.
            beta: replaces the module's beta in this call.
            weight: weight of each sample's loss, shape (B,). "mean" still divides by B.
            mask: bool, broadcastable to x; elements that are False are missing and may hold anything.
            return_parts: also return the parts, per sample.

        Returns:
            The loss in nats, a scalar or of shape (B,). With return_parts: (loss, ELBO(elbo, log_likelihood, kl)), where
            elbo includes beta.

        Raises:
            TypeError: an argument is not a tensor, or has a dtype that is not supported.
            ValueError: shapes or devices do not match, or z is missing or not expected. With validate=True also: an
                argument holds NaN or infinite values, or x has values that the likelihood does not allow.
            NotImplementedError: a tensor is sparse, nested or quantized.
        """
        # self.likelihood goes through nn.Module.__getattr__, which takes as long as a small kernel.
        likelihood: Any = self._modules.get("likelihood") or self.likelihood
        if (
            (beta is weight is mask is prior_mu is prior_logvar is z is None)
            and return_parts is False
            and (loss := self._fast_path(likelihood, recon_x, x, mu, logvar)) is not None
        ):
            return loss
        beta = self.beta if beta is None else beta
        options = ops.LossOptions(mask, weight, beta, self.reduction, 1, getattr(likelihood, "target_scale", 1.0))
        _checks.flag(_NAME, "return_parts", return_parts)
        latent = mu, logvar, prior_mu, prior_logvar
        call = checked_call(_NAME, likelihood, recon_x, x, latent, z, options, self.estimator, self.prior)
        plain = self.free_bits is None and self.reduction != "none" and z is None
        fused = call.operands is not None and plain
        number = weight is None and not (return_parts or self.validate or isinstance(call.options.beta, Tensor))
        if type(likelihood) is likelihoods.Categorical and plain and number:
            return self._of_labels(likelihood, recon_x, x, call)
        fit = None if fused else self._log_likelihood(likelihood, recon_x, x, call)
        if self.validate:  # after all other checks, which those of a likelihood's own log_prob belong to
            named: dict[str, Any] = dict(zip(("mu", "logvar", "prior_mu", "prior_logvar"), call.latent, strict=False))
            named |= {"z": z, "beta": call.options.beta, "weight": weight}
            check_values(_NAME, likelihood, recon_x, x, call.options.mask, named)
        if fit is None:
            loss, *parts = self._fused(likelihood, call, return_parts)
        else:
            loss, *parts = self._composed(call, fit, return_parts)
        if not return_parts:
            return loss
        log_likelihood, kl = parts
        return loss, ELBO(log_likelihood - call.options.beta * kl, log_likelihood, kl)

    def _fast_path(self, likelihood: Any, recon_x: Any, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor | None:
        """Fast path: checks and runs the common loss in one C++ call, because on a small batch the Python checks take as
        long as the kernel. Returns None if an option or a tensor needs the general path."""
        if (
            not (self.inplace or self.validate or torch.compiler.is_compiling())
            and (self.free_bits is None and self.reduction in ("mean", "sum") and self.estimator == "analytic")
            and (numbers := likelihood.numbers if isinstance(likelihood, Likelihood) else None) is not None
            and (isinstance(self.beta, (int, float)) and 0 <= self.beta < math.inf)
        ):
            return ops.fast_elbo_loss(
                likelihood.term, recon_x, x, mu, logvar, self.beta, self.reduction, likelihood.target_scale, numbers
            )
        return None

    def _fused(self, likelihood: Any, call: Call, return_parts: bool) -> tuple[Tensor, ...]:
        """Returns (loss,) or (loss, log-likelihood, KL) from one fused call."""
        assert call.operands is not None
        return ops.elbo_loss(likelihood.term, call.operands, call.latent, call.options, self.inplace, return_parts)

    def _of_labels(self, likelihood: likelihoods.Categorical, recon_x: Any, x: Tensor, call: Call) -> Tensor:
        """The loss from two sums. A loss of few tokens takes half as long again if both are computed per sample first."""
        kl = gaussian_kl(*call.latent, reduction=self.reduction)
        kl = kl if call.options.beta == 1 else call.options.beta * kl
        return kl + likelihood.cost(recon_x, x, mask=call.options.mask, reduction=self.reduction)

    def _log_likelihood(self, likelihood: Any, recon_x: Any, x: Tensor, call: Call) -> Tensor:
        """The log-likelihood per sample, shape (B,)."""
        mask, *_, target_scale = call.options
        if call.operands is None:
            return likelihood.log_prob(recon_x, x, mask=mask)
        return ops.row_sum(likelihood.term, call.operands, mask, target_scale=target_scale)

    def _composed(self, call: Call, fit: Tensor, return_parts: bool) -> tuple[Any, ...]:
        """Returns (loss, log-likelihood, KL) from the log-likelihood, the KL or its estimate at z, and free bits. With free
        bits the KL itself is computed only for return_parts."""
        _checks.per_sample(_NAME, "likelihood", fit, call.batch)
        kl: Any = None
        if call.z is not None:
            mu, logvar, *prior = call.latent
            log_p = gaussian_log_prob(call.z, *prior) if self.prior is None else self.prior.log_prob(call.z)
            _checks.per_sample(_NAME, "prior", log_p, call.batch)
            kl = gaussian_log_prob(call.z, mu, logvar) - log_p
        elif self.free_bits is None or return_parts:
            kl = gaussian_kl(*call.latent)
        counted = kl
        if self.free_bits is not None:
            each = gaussian_kl(*call.latent, reduction="elementwise")
            counted = free_bits_kl(each, self.free_bits, self.free_bits_per)
        return reduce(call.options.beta * counted - fit, call.options.weight, self.reduction), fit, kl

    def extra_repr(self) -> str:
        options = {
            "free_bits": self.free_bits,
            "free_bits_per": None if self.free_bits is None else self.free_bits_per,
            "estimator": None if self.estimator == "analytic" else self.estimator,
            "inplace": self.inplace or None,
            "validate": self.validate or None,
        }
        named = "".join(f", {name}={value!r}" for name, value in options.items() if value is not None)
        return f"beta={self.beta}, reduction={self.reduction!r}{named}"
