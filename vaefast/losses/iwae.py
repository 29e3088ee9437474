"""IWAELoss: the importance-weighted bound as a module, with several estimators of the encoder's gradient."""

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.graph import get_gradient_edge

from .. import _checks, likelihoods
from ..functional import renyi_bound
from ..functional.weights import fit_and_ratio
from ..likelihoods import Likelihood
from ..ops import transformed
from .reduction import reduce

_NAME = "vaefast.IWAELoss"


class IWAELoss(nn.Module):
    """Minus the importance-weighted bound log (1/K sum_k w_k) on log p(x) (Burda et al. 2016), or minus a Renyi bound.

    Args:
        likelihood: as for ELBOLoss.
        alpha: order of the Renyi bound (Li and Turner 2016): 0 is IWAE, 1 the K-sample ELBO.
        gradient: estimator of the encoder's gradient. "standard" is the gradient of the bound; its signal-to-noise ratio
            falls as K grows. "stl" leaves out the score function of q; it is 0 where q is exact, and biased for K > 1
            (Roeder et al. 2017). "dreg" is doubly reparameterized; it is unbiased and improves as K grows (Tucker et al.
            2019).
        reduction: "mean" over the batch, "sum" or "none".
        prior: p(z), an object with log_prob(z) of shape (B,), such as vaefast.priors.VampPrior; if None, see `forward`.
        target_scale: factor that multiplies x, as for ELBOLoss.
        samples_dim: dimension of the K samples in z and recon_x: 0 for (K, B, ...), 1 for (B, K, ...). x, mu, logvar, mask
            and weight have no such dimension.

    Raises:
        TypeError: likelihood is neither a name nor an object with log_prob, prior has no log_prob, or alpha is not a
            number.
        ValueError: an option is unknown or not finite.

    Example:
        >>> encoder, decoder = nn.Linear(6, 4), nn.Linear(2, 6)
        >>> x = torch.rand(8, 6).round()
        >>> mu, logvar = encoder(x).chunk(2, 1)
        >>> z = mu + torch.exp(logvar / 2) * torch.randn(5, 8, 2)  # or functional.reparameterize(mu, logvar, num_samples=5)
        >>> loss = IWAELoss(gradient="dreg")(decoder(z), x, z, mu, logvar)
        >>> loss.backward()
    """

    def __init__(
        self,
        likelihood: str | Likelihood = "bernoulli",
        *,
        alpha: float = 0.0,
        gradient: str = "standard",
        reduction: str = "mean",
        prior: Any = None,
        target_scale: float = 1.0,
        samples_dim: int = 0,
    ) -> None:
        super().__init__()
        self.alpha = _checks.number(_NAME, "alpha", alpha)
        _checks.choice(_NAME, "gradient", gradient, ("standard", "stl", "dreg"))
        _checks.reduction(_NAME, reduction)
        if isinstance(samples_dim, bool) or not isinstance(samples_dim, int) or samples_dim not in (0, 1):
            raise ValueError(f"{_NAME}: samples_dim must be 0 or 1, got {samples_dim!r}")
        if prior is not None:
            _checks.prior(_NAME, prior)
        self.likelihood = likelihoods.by_name(likelihood, target_scale=target_scale)
        self.prior = prior
        self.gradient = gradient
        self.reduction = reduction
        self.samples_dim = samples_dim

    def forward(
        self,
        recon_x: Any,
        x: Tensor,
        z: Tensor,
        mu: Tensor,
        logvar: Tensor,
        *,
        prior_mu: Tensor | None = None,
        prior_logvar: Tensor | None = None,
        prior: Any = None,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Returns the loss.

        Args:
            recon_x: the decoder's output for z, shape (K, B, D), or (B, K, D) with samples_dim=1; a tuple of them if
                the likelihood takes several. For "dreg" it must be computed from the tensor that is given as z itself, not
                from a view or a copy of it.
            x: data, shape (B, D).
            z: reparameterized samples of q(z|x), shape (K, B, L), or (B, K, L) with samples_dim=1. "dreg" changes every
                gradient that reaches z in the backward pass, so z must not be used for anything else.
            mu, logvar: mean and log sigma^2 of q(z|x), shape (B, L).
            prior_mu, prior_logvar: of p(z), broadcastable to mu; standard normal if None.
            prior: p(z) as an object with log_prob(z), such as vaefast.priors.VampPrior, in place of prior_mu and
                prior_logvar; the module's prior if None.
            weight: weight of each datum's loss, shape (B,). "mean" still divides by B.
            mask: bool, broadcastable to x; elements that are False are missing.

        Returns:
            The loss in nats, a scalar or of shape (B,).

        Raises:
            TypeError: an argument is not a tensor or has a dtype that is not supported, or prior has no log_prob.
            ValueError: shapes do not match, there are no samples, or the likelihood has optimal_scale. With "dreg" also:
                recon_x was not computed from this z, or z already belongs to another loss with "dreg".
            NotImplementedError: "dreg" under torch.func or forward-mode AD, or x is sparse or nested.
        """
        _checks.latent(_NAME, mu, logvar)
        if weight is not None:
            _checks.weight(_NAME, weight, mu.shape[:1], "mu", mu)
        if self.gradient != "standard":
            mu, logvar = mu.detach(), logvar.detach()
        if prior is None and self.prior is not None:
            if not (prior_mu is prior_logvar is None):
                raise ValueError(f"{_NAME}: this loss was built with a prior; leave out prior_mu and prior_logvar")
            prior = self.prior
        options = {"prior_mu": prior_mu, "prior_logvar": prior_logvar, "prior": prior, "mask": mask}
        options |= {"likelihood": self.likelihood, "samples_dim": self.samples_dim}
        fit, ratio = fit_and_ratio(_NAME, recon_x, x, z, mu, logvar, **options)
        if z.shape[self.samples_dim] == 0:
            raise ValueError(f"{_NAME}: z must hold at least one sample, got shape {tuple(z.shape)}")
        log_w = fit + ratio  # (K, B), or (B, K) with samples_dim=1
        if self.gradient == "dreg" and transformed():
            raise NotImplementedError(
                f"{_NAME}: gradient='dreg' acts in the backward pass and does not support torch.func or "
                "forward-mode AD; 'standard' and 'stl' do"
            )
        if self.gradient == "dreg" and z.requires_grad and torch.is_grad_enabled():
            # The gradient of the bound with respect to log w_k is the normalized weight v_k. The score function's part,
            # reparameterized a second time, changes the weight of the path through z_k from v_k to
            # (alpha + (1 - alpha) v_k) v_k (Tucker et al. 2019), so z's gradient has the factor alpha + (1 - alpha) v_k.
            v = ((1 - self.alpha) * log_w.detach()).softmax(self.samples_dim)
            factor = (self.alpha + (1 - self.alpha) * v).reshape(*v.shape, *(1,) * (z.dim() - 2))
            log_w = _weight_gradient(log_w, fit, z, factor, torch.compiler.is_compiling())
        bound = renyi_bound(log_w.t() if self.samples_dim else log_w, self.alpha)
        return reduce(-bound, weight, self.reduction)

    def extra_repr(self) -> str:
        samples = f", samples_dim={self.samples_dim}" if self.samples_dim else ""
        return f"alpha={self.alpha}, gradient={self.gradient!r}, reduction={self.reduction!r}{samples}"


@torch.compiler.allow_in_graph
def _weight_gradient(log_w: Tensor, fit: Tensor, z: Tensor, factor: Tensor, compiling: bool) -> Tensor:
    """Returns log_w, and from now on multiplies the gradient that reaches z by `factor`.

    torch.compile puts this call into its graph unchanged, and runs it when it traces the backward pass. The autograd graph
    then begins at the inputs of the compiled function. So a z and a recon_x that were computed outside are refused too."""
    if compiling and (isinstance(z, FakeTensor) or not z.requires_grad):
        return log_w  # torch.compile infers the shapes only, or compiles no backward pass
    _checks.sample(_NAME, z)  # under torch.compile the mark set below is not visible before this point
    if not _leads_to(fit, z):
        raise ValueError(
            f"{_NAME}: with gradient='dreg', recon_x must be computed from the very tensor given as z, got one "
            "whose autograd graph does not lead to it (a view or copy of z is another tensor; so is a z that is returned "
            "with recon_x by a module that is compiled, checkpointed, DistributedDataParallel or has backward hooks)"
        )
    z._vaefast_dreg = True  # type: ignore[attr-defined]
    z.register_hook(lambda grad: grad * factor.to(grad.dtype))
    return log_w


def _leads_to(result: Tensor, z: Tensor) -> bool:
    """Whether the backward pass of `result` goes through z itself."""
    if not result.requires_grad:
        return False
    goal = tuple(get_gradient_edge(z)[:2])
    todo, seen = [get_gradient_edge(result).node], set()
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        if goal in node.next_functions:
            return True
        todo += [before for before, _ in node.next_functions if before is not None]
    return False
