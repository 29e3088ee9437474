"""IWAELoss(samples_dim=1), whose samples are in dimension 1: (B, K, ...)."""

import pytest
import torch
from torch.distributions import Independent, Normal

import vaefast
from vaefast import IWAELoss, likelihoods
from vaefast import functional as VF

F64 = torch.float64
B, K, L, D = 4, 3, 2, 5  # all differ, so that no layout is taken for another
GRADIENTS = ("standard", "stl", "dreg")


class Model:
    """Leaves of a model, and its loss in either layout from the same samples."""

    def __init__(self, outputs=1, classes=()):
        self.mu, self.logvar = (t.requires_grad_() for t in torch.randn(2, B, L, dtype=F64).unbind())
        self.heads = [torch.randn(L, *classes, D, dtype=F64, requires_grad=True) for _ in range(outputs)]
        self.eps = torch.randn(K, B, L, dtype=F64)

    def leaves(self):
        return [self.mu, self.logvar, *self.heads]

    def loss(self, samples_dim, x, likelihood="bernoulli", more=(), options=None, **given):
        """(loss, its gradients by the leaves and by `more`, that by the noise of each sample)."""
        eps = self.eps.transpose(0, samples_dim).clone(memory_format=torch.contiguous_format).requires_grad_()
        mu, logvar = (t.unsqueeze(samples_dim) for t in (self.mu, self.logvar))
        z = mu + torch.exp(logvar / 2) * eps
        recon_x = tuple(torch.tensordot(z, head, 1) for head in self.heads)
        criterion = IWAELoss(likelihood, samples_dim=samples_dim, **(options or {}))
        loss = criterion(recon_x if len(recon_x) > 1 else recon_x[0], x, z, self.mu, self.logvar, **given)
        grads = torch.autograd.grad(loss.sum(), [*self.leaves(), *more, eps])
        return loss, *grads[:-1], grads[-1].transpose(0, samples_dim)


def same(model, x, *args, **given):
    torch.testing.assert_close(model.loss(1, x, *args, **given), model.loss(0, x, *args, **given))


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_same_as_samples_first(gradient, alpha, reduction):
    """Values, and the gradients of encoder, decoder and samples."""
    options = {"gradient": gradient, "alpha": alpha, "reduction": reduction}
    same(Model(), torch.rand(B, D).round(), options=options)


def test_the_gradients_differ():
    """So that the comparison of each of the three is one of its own."""
    model, x = Model(), torch.rand(B, D).round()
    by_logvar = [model.loss(1, x, options={"gradient": gradient})[2] for gradient in GRADIENTS]
    assert not torch.allclose(by_logvar[0], by_logvar[1]) and not torch.allclose(by_logvar[1], by_logvar[2])


def test_dreg_weighs_each_sample():
    """The gradient that leaves a sample is that of "stl" times the sample's own normalized weight."""
    model, x = Model(), torch.rand(B, D).round()
    *_, dreg = model.loss(1, x, options={"gradient": "dreg"})
    *_, stl = model.loss(1, x, options={"gradient": "stl"})
    z = model.mu + torch.exp(model.logvar / 2) * model.eps
    v = VF.log_weights(torch.tensordot(z, model.heads[0], 1), x, z, model.mu, model.logvar).softmax(0)
    torch.testing.assert_close(dreg, v[..., None] * stl)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_outputs_of_several_tensors_weight_and_mask(gradient):
    x, mask, weight = torch.randn(B, D), torch.rand(B, D) > 0.3, torch.rand(B, requires_grad=True)
    options = {"gradient": gradient}
    same(Model(2), x, "gaussian", options=options)
    same(Model(2), x, "gaussian", [weight], options=options, weight=weight, mask=mask)
    same(Model(), x, "gaussian", options=options, mask=mask[0])
    same(Model(), x, "gaussian", options=options, mask=torch.tensor(True))
    hidden = torch.where(mask, x, torch.nan)  # a masked element may hold anything
    torch.testing.assert_close(
        *(Model.loss(m, 1, data, "gaussian", mask=mask)[0] for m in [Model(2)] for data in (x, hidden))
    )


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_priors(gradient):
    """Numbers by their shapes, and objects: of the call, of the loss, and one that learns."""
    model, x, options = Model(), torch.rand(B, D).round(), {"gradient": gradient}
    for shape in ((), (1,), (L,), (1, L), (B, 1), (B, L)):
        prior_mu = torch.randn(shape, dtype=F64, requires_grad=True)
        prior_logvar = torch.randn(shape, dtype=F64, requires_grad=True)
        given = {"prior_mu": prior_mu, "prior_logvar": prior_logvar}
        same(model, x, more=[prior_mu, prior_logvar], options=options, **given)
    of_samples = torch.randn(K, B, L, dtype=F64)  # a prior of each sample, as another latent gives it
    torch.testing.assert_close(
        model.loss(1, x, options=options, prior_mu=of_samples.transpose(0, 1)),
        model.loss(0, x, options=options, prior_mu=of_samples),
    )
    prior = Independent(Normal(torch.ones(L, dtype=F64), 2.0), 1)
    same(model, x, options=options, prior=prior)
    same(model, x, options={**options, "prior": prior})
    vamp = vaefast.priors.VampPrior(torch.nn.Linear(6, 2 * L, dtype=F64), torch.rand(7, 6, dtype=F64))
    same(model, x, more=list(vamp.parameters()), options=options, prior=vamp)


def test_likelihoods_that_no_kernel_computes():
    same(Model(classes=(7,)), torch.randint(0, 7, (B, D)), likelihoods.Categorical())
    same(Model(), torch.randint(0, 4, (B, D)), "poisson", mask=torch.rand(B, D) > 0.3)

    class Own:
        def log_prob(self, recon_x, x, *, mask=None, batch_dims=1):
            value = Normal(recon_x, 1.0).log_prob(x)
            return (value if mask is None else torch.where(mask, value, 0.0)).flatten(batch_dims).sum(-1)

    same(Model(), torch.randn(B, D), Own(), mask=torch.rand(B, D) > 0.3)


def test_images_and_latent_maps():
    x, mu, logvar = torch.rand(B, 3, 4, 4).round(), *torch.randn(2, B, L, 2, 2)
    z, recon_x = torch.randn(K, B, L, 2, 2), torch.randn(K, B, 3, 4, 4)
    for gradient in GRADIENTS:
        first = IWAELoss(gradient=gradient)(recon_x, x, z, mu, logvar)
        moved = recon_x.transpose(0, 1).contiguous(), x, z.transpose(0, 1).contiguous(), mu, logvar
        torch.testing.assert_close(IWAELoss(gradient=gradient, samples_dim=1)(*moved), first)


def test_dreg_needs_the_sample_itself():
    mu, logvar = torch.zeros(2, B, L).requires_grad_().unbind()
    z = mu.unsqueeze(1) + torch.randn(B, K, L)
    criterion, x = IWAELoss(gradient="dreg", samples_dim=1), torch.rand(B, D).round()
    with pytest.raises(ValueError, match="recon_x must be computed from the very tensor given as z"):
        criterion(z @ torch.ones(L, D), x, z.clone(), mu, logvar)
    criterion(z @ torch.ones(L, D), x, z, mu, logvar)
    with pytest.raises(ValueError, match="z belongs to a gradient='dreg' loss"):
        criterion(z @ torch.ones(L, D), x, z, mu, logvar)


def test_recon_x_is_not_copied():
    """The prediction reaches the kernel as it is, in its own layout."""
    recon_x, x = torch.randn(B, K, D), torch.rand(B, D).round()
    z, mu = torch.randn(B, K, L), torch.zeros(B, L)
    seen = []

    class Operands(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if "vaefast" in str(func):
                seen.extend(t.data_ptr() for t in torch.utils._pytree.tree_leaves(args) if isinstance(t, torch.Tensor))
            return func(*args, **(kwargs or {}))

    with Operands():
        IWAELoss(samples_dim=1)(recon_x, x, z, mu, mu)
    assert recon_x.data_ptr() in seen and z.data_ptr() in seen and x.data_ptr() in seen


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_compiled(gradient, dynamic):
    torch._dynamo.reset()
    model, x = Model(), torch.rand(B, D).round()

    def step(eps):
        z = model.mu.unsqueeze(1) + torch.exp(model.logvar / 2).unsqueeze(1) * eps
        criterion = IWAELoss(gradient=gradient, samples_dim=1)
        return criterion(z @ model.heads[0], x, z, model.mu, model.logvar)

    eps, results = model.eps.transpose(0, 1).contiguous(), []
    for f in (step, torch.compile(step, backend="aot_eager", fullgraph=True, dynamic=dynamic)):
        loss = f(eps)
        results.append((loss, *torch.autograd.grad(loss, model.leaves(), allow_unused=gradient != "standard")))
    torch.testing.assert_close(*results)


def test_repr():
    assert "samples_dim" not in repr(IWAELoss())
    assert "reduction='mean', samples_dim=1\n" in repr(IWAELoss(samples_dim=1))


def call(samples_dim, z, recon_x, likelihood="bernoulli", **given):
    x, mu = torch.zeros(B, D), torch.zeros(B, L)
    return IWAELoss(likelihood, samples_dim=samples_dim)(torch.zeros(recon_x), x, torch.zeros(z), mu, mu, **given)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: call(0, (B, K, L), (B, K, D)), r"z must have shape \(K, 4, 2\) with samples_dim=0, got \(4, 3, 2\); write samples_dim=1$"),
        (lambda: call(1, (K, B, L), (K, B, D)), r"z must have shape \(4, K, 2\) with samples_dim=1, got \(3, 4, 2\); write samples_dim=0$"),
        (lambda: call(1, (B, L), (B, K, D)), r"z must have shape \(4, K, 2\) with samples_dim=1, got \(4, 2\)$"),
        (lambda: call(1, (B, K, 7), (B, K, D)), r"z must have shape \(4, K, 2\) with samples_dim=1, got \(4, 3, 7\)$"),
        (lambda: call(1, (B, K, L), (K, B, D)), r"recon_x must have shape \(4, 3, 5\), .* with samples_dim=1, got \(3, 4, 5\)$"),
        (lambda: call(0, (K, B, L), (B, K, D)), r"recon_x must have shape \(3, 4, 5\), .* with samples_dim=0, got \(4, 3, 5\)$"),
        (lambda: call(1, (B, K, L), (K, B, D), "poisson"), r"recon_x must have shape \(4, 3, 5\), .* with samples_dim=1, got \(3, 4, 5\)$"),
        (lambda: call(1, (B, 0, L), (B, 0, D)), r"z must hold at least one sample, got shape \(4, 0, 2\)$"),
        (lambda: call(1, (B, K, L), (B, K, D), prior_mu=torch.zeros(7)), r"prior_mu must be broadcastable to the shape of mu, \(4, 2\), got \(7,\)"),
        (lambda: call(1, (B, K, L), (B, K, D), mask=torch.ones(B, K, D, dtype=torch.bool)), r"mask must be broadcastable to the shape of x, \(4, 5\)"),
        (lambda: IWAELoss(samples_dim=2), "samples_dim must be 0 or 1, got 2"),
        (lambda: IWAELoss(samples_dim=-1), "samples_dim must be 0 or 1, got -1"),
        (lambda: IWAELoss(samples_dim=True), "samples_dim must be 0 or 1, got True"),
        (lambda: IWAELoss(samples_dim="1"), "samples_dim must be 0 or 1, got '1'"),
    ],
)  # fmt: skip
def test_wrong_layouts(wrong, message):
    with pytest.raises(ValueError, match="^vaefast.IWAELoss: " + message) as raised:
        wrong()
    assert "\n" not in str(raised.value)


def test_log_weights_has_no_such_option():
    """Its error does not name one."""
    x, mu = torch.zeros(B, D), torch.zeros(B, L)
    with pytest.raises(ValueError, match=r"z must have shape \(K, 4, 2\), got \(4, 3, 2\)$"):
        VF.log_weights(torch.zeros(B, K, D), x, torch.zeros(B, K, L), mu, mu)
