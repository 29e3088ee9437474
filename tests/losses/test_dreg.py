"""What gradient="dreg" asks of recon_x and z, in every way that they may come."""

import functools

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import vaefast
from vaefast import functional as VF


class Sampler(torch.nn.Module):
    """A model that returns its z, which leaves it by the ways that a module's outputs leave it."""

    def __init__(self, flat=False):
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = torch.nn.Linear(5, 4), torch.nn.Linear(2, 5)
        self.flat = flat
        self.eps = torch.randn(3, 4, 2)

    def forward(self, x):
        mu, logvar = self.encoder(x).chunk(2, 1)
        z = VF.reparameterize(mu, logvar, num_samples=3, eps=self.eps)
        if not self.flat:
            return self.decoder(z), z, mu, logvar
        z = z.flatten(0, 1)
        return self.decoder(z).view(3, 4, 5), z.view(3, 4, 2), mu, logvar

    def step(self, x):
        return dreg(*self(x), x)


def dreg(recon_x, z, mu, logvar, x):
    return vaefast.IWAELoss(gradient="dreg")(recon_x, x, z, mu, logvar)


def gradients(loss, model):
    return torch.autograd.grad(loss, list(model.parameters()))


@pytest.fixture
def process_group():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


class TestDregNeedsTheSampleItself:
    """The weights act on the tensor z: a recon_x that was not computed from it would have an unweighted gradient."""

    X = torch.rand(4, 5).round()

    @pytest.mark.parametrize("way", ["view", "copy", "constant", "compiled", "checkpoint", "hook", "unused", "static"])
    def test_another_z_is_refused(self, way, request):
        model = Sampler(flat=way == "view")
        x, forward = self.X.clone().requires_grad_(way == "checkpoint"), model
        if way == "compiled":
            forward = torch.compile(model, backend="aot_eager")
        elif way == "checkpoint":
            forward = functools.partial(checkpoint, model, use_reentrant=True)
        elif way == "hook":
            model.register_full_backward_hook(lambda *_: None)
        elif way in ("unused", "static"):
            request.getfixturevalue("process_group")
            option = {"unused": "find_unused_parameters", "static": "static_graph"}[way]
            forward = torch.nn.parallel.DistributedDataParallel(model, **{option: True})
        recon_x, z, mu, logvar = forward(x)
        if way == "copy":
            z = z.clone()
        elif way == "constant":
            recon_x = recon_x.detach()
        with pytest.raises(ValueError, match="recon_x must be computed from the very tensor given as z"):
            dreg(recon_x, z, mu, logvar, self.X)
        if recon_x.requires_grad:
            vaefast.IWAELoss(gradient="stl")(recon_x, self.X, z, mu, logvar)  # asks for nothing

    @pytest.mark.parametrize("way", ["hook", "unused", "checkpoint", "decoders", "leaf"])
    def test_the_same_z_is_right(self, way, request):
        """Such modules around the whole step, or around a part of it."""
        model = Sampler()
        expected = gradients(model.step(self.X), model)
        if way == "leaf":
            recon_x, z, mu, logvar = (t.detach() for t in model(self.X))
            z.requires_grad_()
            dreg(model.decoder(z), z, mu, logvar, self.X).backward()
            mean, logvar = model.encoder(self.X).chunk(2, 1)
            VF.reparameterize(mean, logvar, num_samples=3, eps=model.eps).backward(z.grad)
            got = [p.grad for p in model.parameters()]
        elif way == "decoders":
            mu, logvar = torch.compile(model.encoder, backend="aot_eager")(self.X).chunk(2, 1)
            z = VF.reparameterize(mu, logvar, num_samples=3, eps=model.eps)
            decoder = torch.compile(model.decoder, backend="aot_eager")
            recon_x = torch.stack([checkpoint(decoder, each, use_reentrant=False) for each in z])
            got = gradients(dreg(recon_x, z, mu, logvar, self.X), model)
        else:
            whole = Sampler()
            whole.forward = lambda x: dreg(*Sampler.forward(whole, x), x)
            forward = whole
            if way == "hook":
                whole.register_full_backward_hook(lambda *_: None)
            elif way == "unused":
                request.getfixturevalue("process_group")
                forward = torch.nn.parallel.DistributedDataParallel(whole, find_unused_parameters=True)
            else:
                forward = functools.partial(checkpoint, whole, use_reentrant=True)
            forward(self.X.clone().requires_grad_()).backward()
            got = [p.grad for p in whole.parameters()]
        torch.testing.assert_close(got, list(expected) if isinstance(got, list) else expected)

    @pytest.mark.parametrize("options", [{"fullgraph": True}, {}, {"dynamic": True}, {"backend": "inductor"}], ids=str)
    def test_compiled_steps(self, options):
        """The noise, too, is drawn in the graph; a graph that the sample or recon_x comes to from outside is refused."""
        torch._dynamo.reset()
        compiled = functools.partial(torch.compile, **{"backend": "aot_eager", **options})

        def step(model, eps):
            model.eps = eps
            return model.step(self.X)

        model = Sampler()
        for eps in (model.eps, None):
            results = []
            for f in (step, compiled(step)):
                torch.manual_seed(1)
                results.append(gradients(f(model, eps), model))
            torch.testing.assert_close(*results)
        flat = Sampler(flat=True)
        with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match="must be computed from the very tensor"):
            compiled(step)(flat, flat.eps)
        with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match="must be computed from the very tensor"):
            compiled(dreg)(*model(self.X), self.X)
        with pytest.raises(
            (torch._dynamo.exc.BackendCompilerFailed, ValueError), match="z belongs to a gradient='dreg'"
        ):
            compiled(lambda: sum(dreg(*each, self.X) for each in [model(self.X)] * 2))()

    def test_a_graph_break_between_them(self):
        torch._dynamo.reset()

        def broken(model):
            out = model(self.X)
            torch._dynamo.graph_break()
            return dreg(*out, self.X)

        with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match="must be computed from the very tensor"):
            torch.compile(broken, backend="aot_eager")(Sampler())


def test_one_dreg_loss_for_one_z():
    """A second one would weight the gradient twice; torch.func would not see the weights."""
    mu, logvar = torch.randn(2, 4, 2).requires_grad_().unbind()
    z, x = VF.reparameterize(mu, logvar, num_samples=3), torch.rand(4, 5).round()
    criterion = vaefast.IWAELoss(gradient="dreg")
    recon_x = z @ torch.ones(2, 5)
    with torch.no_grad():
        criterion(recon_x, x, z, mu, logvar)  # to be looked at only
    criterion(recon_x, x, z, mu, logvar)
    with pytest.raises(ValueError, match="z belongs to a gradient='dreg' loss"):
        criterion(recon_x, x, z, mu, logvar)
    with pytest.raises(NotImplementedError, match="does not support torch.func"):
        torch.func.grad(lambda m: criterion(torch.zeros(3, 4, 5), x, m + z.detach(), m, logvar))(mu.detach())
