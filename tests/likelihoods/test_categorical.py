"""Labels: both layouts, an ignored label, masks, and what is no label."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import vaefast
from vaefast import functional as VF
from vaefast import likelihoods
from vaefast.likelihoods import Categorical

B, T, C = 4, 5, 7
PAD = 3
DTYPES = {"int64": torch.int64, "uint8": torch.uint8, "int32": torch.int32, "float32": torch.float32}


def logits_for(class_dim, dtype=torch.float64):
    """The same numbers in both layouts."""
    last = torch.randn(B, T, C, dtype=dtype)
    return (last if class_dim == -1 else last.movedim(-1, 1).contiguous()).requires_grad_()


def labels():
    x = torch.randint(0, C, (B, T))
    x[0, 0], x[1, 1] = PAD, C - 1
    return x


def by_hand(logits, x, class_dim, ignore_index=None):
    """log p of each element, written out."""
    log_p = logits.log_softmax(class_dim).movedim(class_dim, -1)
    each = torch.stack([log_p[b, t, int(x[b, t])] for b in range(B) for t in range(T)]).view(B, T)
    return each if ignore_index is None else each * (x != ignore_index)


each_layout = pytest.mark.parametrize("class_dim", [1, -1, 2, -2])


def where(class_dim):
    """Which of the two layouts a class_dim is, for x of two dimensions."""
    return {1: 1, -2: 1, 2: -1, -1: -1}[class_dim]


@each_layout
@pytest.mark.parametrize("ignore_index", [None, PAD])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "elementwise"])
def test_log_prob_and_gradient(class_dim, ignore_index, dtype, reduction):
    """By torch's function for integers and by the formula for floats, both against the formula written out."""
    logits, x = logits_for(where(class_dim)), labels()
    likelihood = Categorical(class_dim, ignore_index)
    elements = by_hand(logits, x, where(class_dim), ignore_index)
    expected = {"none": elements.sum(1), "sum": elements.sum(), "mean": elements.sum(1).mean(), "elementwise": elements}
    got = likelihood.log_prob(logits, x.to(dtype), reduction=reduction)
    torch.testing.assert_close(got, expected[reduction], rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(got)
    ours, true = (torch.autograd.grad(v, logits, upstream)[0] for v in (got, expected[reduction]))
    torch.testing.assert_close(ours, true, rtol=1e-12, atol=1e-12)
    if ignore_index is not None:
        assert (ours.movedim(where(class_dim), -1)[x == PAD] == 0).all()


@pytest.mark.parametrize("ignore_index", [PAD, -100, -1, 2**40, -(2**63)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_an_ignored_label_may_be_any_number(ignore_index, dtype):
    """Of the classes or not, as in F.cross_entropy."""
    logits, x = logits_for(-1), labels()
    x[2, 2:] = ignore_index
    got = Categorical(-1, ignore_index).log_prob(logits, x.to(dtype), reduction="sum")
    expected = -F.cross_entropy(logits.view(-1, C), x.view(-1), ignore_index=ignore_index, reduction="sum")
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(*(torch.autograd.grad(v, logits)[0] for v in (got, expected)))


@pytest.mark.parametrize("layout", ["a view of the other layout", "every second step", "images"])
def test_layouts_in_memory(layout):
    x = labels()
    if layout == "images":
        logits, x = torch.randn(B, 2, 3, C), torch.randint(0, C, (B, 2, 3))
        pairs = [(Categorical(-1), logits, x), (Categorical(), logits.movedim(-1, 1), x)]
        pairs += [(Categorical(2), logits.movedim(-1, 2).contiguous(), x)]
    elif layout == "every second step":
        logits = torch.randn(B, 2 * T, C)[:, ::2]
        pairs = [(Categorical(-1), logits, x), (Categorical(), logits.movedim(-1, 1), x)]
    else:
        logits = torch.randn(B, C, T).movedim(1, -1)
        pairs = [(Categorical(-1), logits, x), (Categorical(1), logits.movedim(-1, 1), x)]
    expected = -F.cross_entropy(logits.reshape(-1, C), x.reshape(-1), reduction="none").view(x.shape).flatten(1).sum(1)
    for likelihood, given, target in pairs:
        torch.testing.assert_close(likelihood.log_prob(given, target), expected)


class Copies(TorchDispatchMode):
    """Counts the operators that copy a tensor of as many elements as the logits, and a log_softmax that does it inside."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        copies = any(name in str(function) for name in ("clone", "copy", "contiguous"))
        inside = "_log_softmax" in str(function) and not args[0].is_contiguous()
        self.count += (copies or inside) and args[0].numel() == B * T * C
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("views", [False, True])
@pytest.mark.parametrize("class_dim", [1, -1])
def test_no_pass_over_the_logits_is_added(class_dim, views):
    """None is copied, nor are classes last that are seen as (B, C, T), which is what F.cross_entropy makes people write."""
    logits = torch.randn(B, T, C)
    if class_dim == 1:
        logits = logits.movedim(-1, 1) if views else logits.movedim(-1, 1).contiguous()
    with Copies() as copies:
        Categorical(class_dim).log_prob(logits, labels())
    assert copies.count == 0
    with Copies() as copies:
        Categorical(class_dim).log_prob(logits.half(), labels())
    assert copies.count > 0


@each_layout
def test_mask_and_ignored_label(class_dim):
    """What is masked may hold anything, and reaches neither value nor gradient."""
    x, mask = labels(), torch.rand(B, T) < 0.6
    mask[0, :2] = torch.tensor([True, False])  # one ignored label is kept, and one element is masked for sure
    clean = logits_for(where(class_dim))
    expected = (by_hand(clean, x, where(class_dim), PAD) * mask).sum(1)
    bad = clean.detach().movedim(where(class_dim), -1).masked_fill(~mask[..., None], math.nan)
    bad = bad.movedim(-1, where(class_dim)).requires_grad_()
    for wrong in (10**6, -100):
        got = Categorical(class_dim, PAD).log_prob(bad, x.masked_fill(~mask, wrong), mask=mask)
        torch.testing.assert_close(got, expected)
        ours, true = (
            torch.autograd.grad(got.sum(), bad)[0],
            torch.autograd.grad(expected.sum(), clean, retain_graph=True)[0],
        )
        torch.testing.assert_close(ours, true)
    with pytest.raises(ValueError, match="x must hold labels"):
        Categorical(class_dim).log_prob(bad, x.masked_fill(mask, -1), mask=mask)


@pytest.mark.parametrize("class_dim", [1, -1])
def test_several_samples(class_dim):
    """Importance weights, where the batch has two dimensions, and log p(x) of a model."""
    mu, logvar = torch.randn(2, B, 2).unbind()
    z, x = VF.reparameterize(mu, logvar, num_samples=3), labels()
    logits = torch.randn(3, B, T, C)
    likelihood = Categorical(class_dim, PAD)
    given = logits if class_dim == -1 else logits.movedim(-1, 2)
    log_w = VF.log_weights(given, x, z, mu, logvar, likelihood=likelihood)
    fit = torch.distributions.Categorical(logits=logits).log_prob(x).mul(x != PAD).sum(-1)
    ratio = VF.gaussian_log_prob(z, batch_dims=2) - VF.gaussian_log_prob(z, mu, logvar, batch_dims=2)
    torch.testing.assert_close(log_w, fit + ratio, rtol=1e-5, atol=1e-5)

    shape = (T, C) if class_dim == -1 else (C, T)
    decoder = torch.nn.Sequential(torch.nn.Linear(2, C * T), torch.nn.Unflatten(1, shape))
    encoder = torch.nn.Sequential(torch.nn.Embedding(C, 4), torch.nn.Flatten(), torch.nn.Linear(4 * T, 4))
    vae = vaefast.VAE(encoder, decoder, likelihood=likelihood)
    bounds = vae.bounds(x, num_samples=200)
    alone = likelihood.log_prob(decoder(encoder(x)[:, :2]), x)
    assert (bounds.log_px < 0).all() and (bounds.log_px >= bounds.elbo).all()
    torch.testing.assert_close(bounds.log_likelihood, alone.detach(), rtol=0.3, atol=1.0)
    assert vae.sample(6, draw=True).shape == (6, T) and vae.sample(6).shape == (6, *shape)


@pytest.mark.parametrize("class_dim", [1, -1])
def test_mean_and_sample(class_dim):
    probs = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.5, 0.0]])  # of two elements
    logits = probs.log().expand(5000, 2, 3)
    logits = logits if class_dim == -1 else logits.movedim(-1, 1)
    likelihood = Categorical(class_dim)
    mean, drawn = likelihood.mean(logits), likelihood.sample(logits, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mean[0] if class_dim == -1 else mean[0].T, probs)
    assert drawn.shape == (5000, 2) and drawn.dtype is torch.int64
    counts = torch.stack([torch.bincount(drawn[:, k], minlength=3) / 5000 for k in range(2)])
    assert (counts - probs).abs().max() < 5 * 0.5 / 5000**0.5


@pytest.mark.parametrize("class_dim", [1, -1])
@pytest.mark.parametrize("beta", [1.0, 0.3, torch.tensor(0.3)])
@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_in_the_loss(class_dim, beta, reduction):
    """Against the line that it replaces. A weight and the parts take another way."""
    logits, x = logits_for(class_dim), labels()
    mu, logvar = (torch.randn(B, 2, dtype=torch.float64).requires_grad_() for _ in range(2))
    criterion = vaefast.ELBOLoss(Categorical(class_dim, PAD), beta=beta, reduction=reduction)
    kl = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(1)
    each = beta * kl - by_hand(logits, x, class_dim, PAD).sum(1)
    expected = {"sum": each.sum(), "mean": each.mean(), "none": each}[reduction]
    got = criterion(logits, x, mu, logvar)
    torch.testing.assert_close(got, expected)
    ours, true = (torch.autograd.grad(v.sum(), (logits, mu, logvar)) for v in (got, expected))
    torch.testing.assert_close(ours, true)
    twice = criterion(logits, x, mu, logvar, weight=torch.full((B,), 2.0))
    torch.testing.assert_close(twice, 2 * expected)
    torch.testing.assert_close(criterion(logits, x, mu, logvar, return_parts=True)[0], expected)


def test_a_log_prob_of_ones_own_is_used():
    class Half(Categorical):
        def log_prob(self, *args, **options):
            return 0.5 * super().log_prob(*args, **options)

    logits, x, zero = logits_for(1), labels(), torch.zeros(B, 2)
    whole, half = (vaefast.ELBOLoss(p, reduction="sum")(logits, x, zero, zero) for p in (Categorical(), Half()))
    torch.testing.assert_close(half, 0.5 * whole)


@pytest.mark.parametrize("class_dim", [1, -1])
def test_validate(class_dim):
    logits, x, zero = logits_for(class_dim, torch.float32).detach(), labels(), torch.zeros(B, 2)
    criterion = vaefast.ELBOLoss(Categorical(class_dim, -100), validate=True)
    x[1, :3] = -100
    mask = torch.rand(B, T) < 0.5
    mask[1, 1], mask[2, 2] = True, False
    expected = vaefast.ELBOLoss(Categorical(class_dim, -100))(logits, x, zero, zero)
    torch.testing.assert_close(criterion(logits, x, zero, zero), expected)
    logits.movedim(class_dim, -1)[~mask] = math.nan
    assert criterion(logits, x, zero, zero, mask=mask).isfinite()
    logits.movedim(class_dim, -1)[1, 1, 0] = math.nan
    with pytest.raises(ValueError, match="recon_x holds NaN"):
        criterion(logits, x, zero, zero, mask=mask)


@pytest.mark.parametrize("class_dim", [1, -1])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(class_dim, dtype):
    logits, x = logits_for(class_dim, dtype), labels()
    got = Categorical(class_dim).log_prob(logits, x)
    assert got.dtype is torch.float32
    torch.testing.assert_close(got, by_hand(logits.detach().float(), x, class_dim).sum(1), rtol=1e-6, atol=1e-6)
    assert torch.autograd.grad(got.sum(), logits)[0].dtype is dtype


@pytest.mark.parametrize("class_dim", [1, -1])
def test_under_compile_and_transforms(class_dim):
    """The same values, and NaN for what is no label, where an error would need to read values."""
    torch.compiler.reset()
    logits, x = logits_for(class_dim).detach(), labels()
    likelihood = Categorical(class_dim, PAD)
    expected = likelihood.log_prob(logits, x)
    compiled = torch.compile(likelihood.log_prob, fullgraph=True)
    torch.testing.assert_close(compiled(logits, x), expected)
    each = torch.vmap(lambda r, t: likelihood.log_prob(r[None], t[None])[0])
    torch.testing.assert_close(each(logits, x), expected)
    loss, zero = vaefast.ELBOLoss(likelihood, reduction="sum"), torch.zeros(B, 2, dtype=logits.dtype)
    torch.testing.assert_close(torch.compile(loss, fullgraph=True)(logits, x, zero, zero), -expected.sum())
    tangent = torch.randn_like(logits)
    _, along = torch.func.jvp(lambda r: likelihood.log_prob(r, x), (logits,), (tangent,))
    leaf = logits.clone().requires_grad_()
    gradient = torch.autograd.grad(likelihood.log_prob(leaf, x).sum(), leaf)[0]
    torch.testing.assert_close(along, (gradient * tangent).flatten(1).sum(1))
    torch.testing.assert_close(torch.func.grad(lambda r: likelihood.log_prob(r, x).sum())(logits), gradient)

    x[1, 2] = C
    bad = torch.arange(B) == 1
    for values in (
        compiled(logits, x),
        each(logits, x),
        torch.func.jvp(lambda r: likelihood.log_prob(r, x), (logits,), (tangent,))[0],
    ):
        assert torch.equal(values.isnan(), bad)
        torch.testing.assert_close(values[~bad], expected[~bad])


@pytest.mark.parametrize("class_dim", [1, -1])
def test_second_derivatives_and_batches_of_gradients(class_dim):
    logits, x = logits_for(class_dim), labels()
    likelihood = Categorical(class_dim, PAD)
    assert torch.autograd.gradgradcheck(lambda r: likelihood.log_prob(r, x), logits)
    value = likelihood.log_prob(logits, x)
    batched = torch.autograd.grad(value, logits, torch.eye(B, dtype=value.dtype), is_grads_batched=True)[0]
    for k in range(B):
        value = likelihood.log_prob(logits, x)
        torch.testing.assert_close(batched[k], torch.autograd.grad(value[k], logits)[0])


BAD = {"-100": -100, "C": C, "the least": -(2**63), "a fraction": 1.5, "NaN": math.nan}


@each_layout
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("ignore_index", [None, PAD])
def test_what_is_no_label(class_dim, bad, ignore_index):
    """Also -100, which F.cross_entropy would ignore in silence."""
    logits, x = logits_for(where(class_dim)), labels()
    x = x.to(torch.int64 if isinstance(bad, int) else torch.float64)
    x[3, 4] = bad
    other = "" if ignore_index is None else ", or ignore_index=3"
    with pytest.raises(ValueError, match=f"Categorical: x must hold labels, whole numbers from 0 to 6{other}, got"):
        Categorical(class_dim, ignore_index).log_prob(logits, x)


def test_a_wrong_layout_is_named_with_its_fix():
    last, first, x = torch.zeros(2, 5, 3), torch.zeros(2, 3, 5), torch.zeros(2, 5, dtype=torch.int64)
    for likelihood, logits, target, message in (
        (Categorical(), last, x, r"data of shape \(2, 3\), got \(2, 5\); for recon_x of shape \(2, 5, 3\) write .*class_dim=-1"),
        (Categorical(-1), first, x, r"data of shape \(2, 3\), got \(2, 5\); for recon_x of shape \(2, 3, 5\) write .*class_dim=1"),
        (Categorical(), first, F.one_hot(x, 3).movedim(-1, 1), r"x must hold labels: .* write x.argmax\(-1\) and .*x.argmax\(1\)"),
        (Categorical(-1), last, F.one_hot(x, 3).float(), r"x must hold labels: .* write x.argmax\(-1\) and .*x.argmax\(1\)"),
        (Categorical(), torch.zeros(2, 4, 3, 5), torch.zeros(2, 4, 5), r"write Categorical\(class_dim=2\)"),
        (Categorical(), last, x[:, :4], r"data of shape \(2, 3\), got \(2, 4\)$"),
        (Categorical(3), last, x, r"class_dim must be from 1 to 2 or from -2 to -1 for recon_x of shape \(2, 5, 3\) .*, got 3"),
        (Categorical(-3), last, x, r"class_dim must be from 1 to 2 or from -2 to -1 .*, got -3"),
        (Categorical(), torch.zeros(2), torch.zeros(2), r"recon_x must have dimensions after the batch, got shape \(2,\)"),
    ):  # fmt: skip
        for given in (target, target.double()):
            with pytest.raises(ValueError, match=message):
                likelihood.log_prob(logits, given)
    with pytest.raises(ValueError, match="class_dim must be from 1 to 2"):
        Categorical(3).mean(last)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"class_dim": 0}, ValueError, "class_dim must be 1 for the first dimension after the batch or -1 for the last, got 0"),
        ({"class_dim": True}, TypeError, "class_dim must be an int, got bool"),
        ({"class_dim": 1.0}, TypeError, "class_dim must be an int, got float"),
        ({"ignore_index": "<pad>"}, TypeError, "ignore_index, if not None, must be an int, got str"),
    ],
)  # fmt: skip
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        Categorical(**options)


def test_repr_and_name():
    assert repr(Categorical(-1, ignore_index=0)) == "Categorical(class_dim=-1, ignore_index=0)"
    assert repr(likelihoods.by_name("categorical")) == "Categorical()"


def test_empty():
    zero = torch.zeros(0, dtype=torch.int64)
    assert Categorical(-1).log_prob(torch.zeros(0, T, C), zero.view(0, T)).shape == (0,)
    assert torch.equal(Categorical(-1).log_prob(torch.zeros(B, 0, C), zero.view(B, 0)), torch.zeros(B))
    with pytest.raises(ValueError, match="x must hold labels"):
        Categorical(-1).log_prob(torch.zeros(B, T, 0), labels())
