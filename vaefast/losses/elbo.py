"""ELBOLoss: the negative ELBO as a module. Runs as one fused call when the options allow."""

import math
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from .. import _checks, likelihoods, ops
from ..functional import ELBO, free_bits_kl, gaussian_log_prob
from ..functional.kl import latent_kl
from ..functional.penalties import FREE_BITS
from ..functional.sampling import as_logvars
from ..likelihoods import Likelihood
from .call import Call, checked_call
from .reduction import reduce
from .validate import check_values

_NAME = "vaefast.ELBOLoss"
_TWO_SUMS = (likelihoods.Categorical, likelihoods.DiscretizedLogisticMixture)


class ELBOLoss(nn.Module):
    """The negative evidence lower bound, -E_q[log p(x|z)] + beta * KL(q(z|x) || p(z)) (Kingma and Welling 2014).

    Pixels and latent dimensions are always summed. `reduction` applies to the batch only: "mean" is the MEAN OVER SAMPLES
    OF PER-SAMPLE SUMS, "sum" adds the samples (as pytorch/examples does), and "none" gives one loss per sample. With "mean"
    and beta = 1 the loss is minus a lower bound on the mean log p(x), in nats.

    Args:
        likelihood: "bernoulli" (the decoder returns logits), "bernoulli_probs" (probabilities), "gaussian" (a mean, with
            unit variance, or a pair (mean, logvar)), "mse" or "l1" (the plain sums of squared and absolute errors), another
            name that `likelihoods.by_name` knows, or an object of vaefast.likelihoods.
        beta: weight of the KL (Higgins et al. 2017): a number, or a 0-dimensional tensor on the CPU or the loss's device. A
            tensor is not a buffer: `.to()` does not move it, and state_dict() does not contain it.
        reduction: "mean", "sum" or "none".
        batch_dims: number of leading dimensions that are the batch: 2 for sequences (B, T, ...). Losses, beta and weight
            then have shape (B, T), and "mean" divides by B T, masked steps included.
        free_bits: nats of KL that are not penalized (Kingma et al. 2016). `free_bits_per` is "dimension", "element",
            "sample" or "total", see `functional.free_bits_kl`. By default each latent dimension's KL, averaged over the
            batch, counts as at least free_bits. `parts.kl` stays the true KL.
        estimator: "analytic" is the KL in closed form. "mc" is the estimate log q(z|x) - log p(z) at the sample z that the
            decoder turned into recon_x; the call then takes this z.
        prior: for "mc": p(z), an object with log_prob(z) of shape (B,), such as vaefast.priors.VampPrior.
        inplace: overwrite the decoder's output with its gradient where that is possible, which saves a tensor of its size.
            Compute metrics from the output before the call. A later backward pass that needs it raises a version error.
        validate: check the values of every call. On CUDA this waits for the device.
        target_scale: factor that multiplies x; 1 / 255 for uint8 images. Only for likelihoods given by name.

    Raises:
        TypeError: an argument is of the wrong type, for instance a prior without log_prob, or has an unknown name.
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
        batch_dims: int = 1,
        free_bits: float | None = None,
        free_bits_per: str = "dimension",
        estimator: str = "analytic",
        prior: Any = None,
        inplace: bool = False,
        validate: bool = False,
        target_scale: float = 1.0,
        **unknown: NoReturn,
    ) -> None:
        super().__init__()
        _checks.known(_NAME, unknown)
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
        self.batch_dims = _checks.integer(f"{_NAME}: batch_dims", batch_dims, 1)
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
        logvar: Tensor | None = None,
        *,
        log_scale: Tensor | None = None,
        scale: Tensor | None = None,
        z: Tensor | None = None,
        prior_mu: Tensor | None = None,
        prior_logvar: Tensor | None = None,
        prior_log_scale: Tensor | None = None,
        prior_scale: Tensor | None = None,
        beta: float | Tensor | None = None,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
        return_parts: bool = False,
        **unknown: NoReturn,
    ) -> Tensor | tuple[Tensor, ELBO]:
        """Returns the loss.

        Args:
            recon_x: the decoder's output, shape (B, D), or a tuple of tensors if the likelihood takes several.
            x: data of the same shape. If elements are independent, one of both may be flat, (B, D), and dimensions of size
                1 do not matter: images (B, 1, 28, 28) go with a decoder's (B, 784).
            mu, logvar: mean and log sigma^2 of q(z|x), both of shape (B, L).
            log_scale, scale: log sigma, or sigma, in place of logvar. The kernel reads it as it is.
            z: only for estimator="mc": the sample that the decoder turned into recon_x, of the shape of mu.
            prior_mu, prior_logvar: of p(z), broadcastable to mu; standard normal if None.
            prior_log_scale, prior_scale: log sigma, or sigma, in place of prior_logvar.
            beta: replaces the module's beta in this call. It may also have the losses' shape, (B,).
            weight: weight of each sample's loss, shape (B,). "mean" still divides by B.
            mask: bool, broadcastable to x; elements that are False are missing and may hold anything.
            return_parts: also return the parts, per sample.

        Returns:
            The loss in nats, a scalar or of shape (B,). With return_parts: (loss, ELBO(elbo, log_likelihood, kl)), where
            elbo includes beta.

        Raises:
            TypeError: an argument is missing, not a tensor, or of a dtype that is not supported, or has an unknown name.
            ValueError: shapes or devices do not match, or z is missing or not expected. With validate=True also: an
                argument holds NaN or infinite values, or x has values that the likelihood does not allow.
            NotImplementedError: a tensor is sparse, nested or quantized.
        """
        # self.likelihood goes through nn.Module.__getattr__, which takes as long as a small kernel.
        likelihood: Any = self._modules.get("likelihood") or self.likelihood
        if (
            (beta is weight is mask is z is log_scale is scale is None)
            and (prior_mu is prior_logvar is prior_log_scale is prior_scale is None)
            and return_parts is False
            and not unknown
            and (loss := self._fast_path(likelihood, recon_x, x, mu, logvar)) is not None
        ):
            return loss
        _checks.known(_NAME, unknown)
        _checks.flag(_NAME, "return_parts", return_parts)
        beta, target_scale = self.beta if beta is None else beta, getattr(likelihood, "target_scale", 1.0)
        options = ops.LossOptions(mask, weight, beta, self.reduction, self.batch_dims, target_scale)
        latent = mu, logvar, prior_mu, prior_logvar, log_scale, scale, prior_log_scale, prior_scale
        call = checked_call(_NAME, likelihood, recon_x, x, latent, z, options, self.estimator, self.prior)
        plain = self.free_bits is None and self.reduction != "none" and z is None
        number = weight is None and not (return_parts or self.validate or isinstance(call.options.beta, Tensor))
        if type(likelihood) in _TWO_SUMS and plain and number:
            return self._two_sums(likelihood, recon_x, call)
        fused = call.operands is not None and plain
        fit = None if fused else self._log_likelihood(likelihood, recon_x, call)
        if self.validate:  # after all other checks, which those of a likelihood's own log_prob belong to
            check_values(_NAME, likelihood, recon_x, call, z)
        if fit is None:
            loss, *parts = self._fused(likelihood, call, return_parts)
        else:
            loss, *parts = self._composed(call, fit, return_parts)
        if not return_parts:
            return loss
        log_likelihood, kl = parts
        return loss, ELBO(log_likelihood - call.options.beta * kl, log_likelihood, kl)

    def _fast_path(self, likelihood: Any, recon_x: Any, x: Tensor, mu: Tensor, logvar: Any) -> Tensor | None:
        """Fast path: checks and runs the common loss in one C++ call, because on a small batch the Python checks take as
        long as the kernel. Returns None if an option or a tensor needs the general path."""
        if (
            not (self.inplace or self.validate or self.batch_dims > 1 or torch.compiler.is_compiling())
            and (self.free_bits is None and self.reduction in ("mean", "sum") and self.estimator == "analytic")
            and (numbers := likelihood.numbers if isinstance(likelihood, Likelihood) else None) is not None
            and (isinstance(self.beta, (int, float)) and 0 <= self.beta < math.inf)
        ):
            options = self.beta, self.reduction, likelihood.target_scale, numbers
            loss = ops.fast_elbo_loss(likelihood.term, recon_x, x, mu, logvar, *options)
            if loss is None and (same := _checks.matched(_NAME, likelihood, recon_x, x, None)[0]) is not x:
                loss = ops.fast_elbo_loss(likelihood.term, recon_x, same, mu, logvar, *options)
            return loss
        return None

    def _fused(self, likelihood: Any, call: Call, return_parts: bool) -> tuple[Tensor, ...]:
        """Returns (loss,) or (loss, log-likelihood, KL) from one fused call."""
        assert call.operands is not None
        return ops.elbo_loss(likelihood.term, call.operands, call.latent, call.options, self.inplace, return_parts)

    def _two_sums(self, likelihood: Any, recon_x: Any, call: Call) -> Tensor:
        """The loss from two sums, whose forward pass makes the gradients. Per sample first, it takes half as long again."""
        mask, _, beta, reduction, batch_dims, _, spreads = call.options
        kl = latent_kl(call.latent, reduction, batch_dims, spreads)
        cost = likelihood.cost(recon_x, call.x, mask=mask, batch_dims=batch_dims, reduction=reduction)
        return (kl if beta == 1 else beta * kl) + cost

    def _log_likelihood(self, likelihood: Any, recon_x: Any, call: Call) -> Tensor:
        """The log-likelihood per sample, shape (B,)."""
        mask, *_, batch_dims, target_scale, _ = call.options
        if call.operands is not None:
            return ops.row_sum(likelihood.term, call.operands, mask, "none", batch_dims, target_scale)
        # A user's own likelihood need not know batch_dims.
        options = {"batch_dims": batch_dims} if batch_dims > 1 else {}
        return likelihood.log_prob(recon_x, call.x, mask=mask, **options)

    def _composed(self, call: Call, fit: Tensor, return_parts: bool) -> tuple[Any, ...]:
        """Returns (loss, log-likelihood, KL) from the log-likelihood, the KL or its estimate at z, and free bits. With free
        bits the KL itself is computed only for return_parts."""
        _checks.per_sample(_NAME, "likelihood", fit, call.batch)
        batch_dims, spreads = self.batch_dims, call.options.spreads
        kl: Any = None
        if call.z is not None:
            mu, logvar, *prior = as_logvars(call.latent, spreads)
            if self.prior is None:
                log_p = gaussian_log_prob(call.z, *prior, batch_dims=batch_dims)
            else:
                log_p = self.prior.log_prob(call.z.flatten(0, batch_dims - 1))
                _checks.per_sample(_NAME, "prior", log_p, torch.Size([math.prod(call.batch)]))
                log_p = log_p.reshape(call.batch)
            kl = gaussian_log_prob(call.z, mu, logvar, batch_dims=batch_dims) - log_p
        elif self.free_bits is None or return_parts:
            kl = latent_kl(call.latent, "none", batch_dims, spreads)
        counted = kl
        if self.free_bits is not None:
            each = latent_kl(call.latent, "elementwise", batch_dims, spreads)
            counted = free_bits_kl(each, self.free_bits, self.free_bits_per, batch_dims)
        return reduce(call.options.beta * counted - fit, call.options.weight, self.reduction, batch_dims), fit, kl

    def extra_repr(self) -> str:
        options = {
            "batch_dims": None if self.batch_dims == 1 else self.batch_dims,
            "free_bits": self.free_bits,
            "free_bits_per": None if self.free_bits is None else self.free_bits_per,
            "estimator": None if self.estimator == "analytic" else self.estimator,
            "inplace": self.inplace or None,
            "validate": self.validate or None,
        }
        named = "".join(f", {name}={value!r}" for name, value in options.items() if value is not None)
        return f"beta={self.beta}, reduction={self.reduction!r}{named}"
