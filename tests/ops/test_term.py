"""Every term of the table against its reference in float64: values, gradients, reductions, dtypes, layouts, masks, targets,
instruction sets, threads."""

from dataclasses import replace

import pytest
import torch

from tests.support.cases import DTYPES, SHAPES, TOLERANCE, layouts
from tests.support.terms import TERMS
from vaefast import likelihoods, ops, reference
from vaefast.ops import library

each_case = pytest.mark.parametrize("case", TERMS.values(), ids=lambda c: c.name)


def close(got, expected, tolerance, scale=None):
    """Within `tolerance` of the expected values, relative to their own size or to a given scale (of a sum's terms)."""
    assert got.shape == expected.shape
    scale = expected.abs().double() if scale is None else scale
    difference = (got.double() - expected.double()).abs()
    bad = difference > tolerance * (scale + torch.finfo(torch.float32).tiny)
    assert not bad.any(), f"off by {(difference / scale.clamp(min=1e-300)).max():.3g} of the scale"


def gradients(function, operands, wanted, upstream=None):
    leaves = [t.detach().requires_grad_(k in wanted) for k, t in enumerate(operands)]
    out = function(leaves)
    return torch.autograd.grad(out, [leaves[k] for k in wanted], upstream)


def absolute_rows(term, operands, dims):
    elements = reference.row_sum(term, operands, reduction="elementwise").abs()
    return elements.flatten(dims).sum(-1) if elements.dim() > dims else elements


def gradient_scale(expected, upstream, factor=1.0):
    """A gradient may be a difference of numbers of the order of the upstream gradient: x - sigmoid(l), r^2 - 1."""
    upstream = upstream.double().abs() * factor
    return expected.abs() + upstream.reshape(upstream.shape + (1,) * (expected.dim() - upstream.dim()))


def missing(terms: dict[str, int]) -> str:
    """One sentence that says all that terms lack, of the compiled ones: {name: number of operands}. Empty if nothing is missing."""
    lacks = {}
    for term, arity in terms.items():
        lacks[term] = [] if term in reference.TERMS else ["a formula in vaefast/reference"]
        if term not in TERMS:
            lacks[term].append("a row in tests/support/terms")
        else:
            lacks[term] += [f"{what} in its row of tests/support/terms" for what in TERMS[term].lacks(arity)]
            row = TERMS[term]
            if row.target is not None and row.call is None and term not in likelihoods.NAMES:
                lacks[term].append("a name in vaefast/likelihoods/__init__.py")
    lacks |= {term: ["a struct in the list of csrc/math/terms.h"] for term in {*reference.TERMS, *TERMS} - {*terms}}
    return "; ".join(f"{term} lacks {', '.join(each)}" for term, each in lacks.items() if each)


def test_every_term_is_everywhere():
    terms = library.build_info()["terms"]
    assert not missing(terms), missing(terms)


def test_what_a_term_lacks_is_said(monkeypatch):
    terms = library.build_info()["terms"]
    assert missing(terms | {"new": 2}) == "new lacks a formula in vaefast/reference, a row in tests/support/terms"
    assert missing({t: terms[t] for t in terms if t != "laplace"}).startswith(
        "laplace lacks a struct in the list of csrc"
    )
    monkeypatch.setitem(TERMS, "laplace", replace(TERMS["laplace"], exact=None, kinds=("real", "data")))
    row = "in its row of tests/support/terms"
    assert missing(terms) == f"laplace lacks 3 kinds of operands (there are 2) {row}, an exact formula {row}"
    monkeypatch.delitem(TERMS, "laplace")
    assert missing(terms) == "laplace lacks a row in tests/support/terms"


def test_what_terms_say_of_themselves():
    terms = {term["name"]: term for term in library._C.terms()}
    assert {name: term["arity"] for name, term in terms.items()} == library.build_info()["terms"]
    assert list(terms) == list(library.build_info()["terms"])
    for name, row in TERMS.items():
        assert terms[name]["target"] == (-1 if row.target is None else row.target)
    kls = {(term["arity"], term["by_scale"]): name for name, term in terms.items() if term["is_kl"]}
    assert kls == reference.KL_TERMS


@each_case
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_row_sums_and_gradients(case, shape, isa):
    dims = min(1, len(shape))
    wide = [t.float().double() for t in case.operands(shape)]
    operands = [t.float() for t in wide]
    got = ops.row_sum(case.name, operands, batch_dims=dims)
    expected = reference.row_sum(case.name, wide, batch_dims=dims)
    assert got.dtype == torch.float32
    close(got, expected, TOLERANCE[torch.float32], absolute_rows(case.name, wide, dims))
    upstream = torch.randn(expected.shape, dtype=torch.float64)
    every = range(len(operands))
    got = gradients(lambda o: ops.row_sum(case.name, o, batch_dims=dims), operands, every, upstream.float())
    expected = gradients(
        lambda o: reference.row_sum(case.name, o, batch_dims=dims), wide, every, upstream.float().double()
    )
    for g, e in zip(got, expected, strict=True):
        close(g, e, 3e-6, gradient_scale(e, upstream))


@each_case
@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "elementwise"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_and_reductions(case, reduction, dtype):
    operands = case.operands((7, 1300), dtype)
    wide = [t.double() for t in operands]
    got = ops.row_sum(case.name, operands, reduction=reduction)
    expected = reference.row_sum(case.name, wide, reduction=reduction)
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    assert got.dtype == compute
    scale = {
        "elementwise": lambda: reference.row_sum(case.name, wide, reduction=reduction).abs() + 1,  # log(2 pi) cancels
        "none": lambda: absolute_rows(case.name, wide, 1),
        "sum": lambda: absolute_rows(case.name, wide, 1).sum(),
        "mean": lambda: absolute_rows(case.name, wide, 1).mean(),
    }[reduction]()
    close(got, expected, TOLERANCE[compute], scale)

    upstream = torch.randn(expected.shape, dtype=torch.float64).to(compute)
    wanted = range(len(operands))
    got = gradients(lambda o: ops.row_sum(case.name, o, reduction=reduction), operands, wanted, upstream)
    expected = gradients(
        lambda o: reference.row_sum(case.name, o, reduction=reduction), wide, wanted, upstream.double()
    )
    # A bfloat16 buffer of the one-pass gradient is rounded once before and once after the upstream gradient.
    tolerance = {torch.bfloat16: 2**-7, torch.float16: 2**-10, torch.float32: 3e-6, torch.float64: 1e-13}[dtype]
    for g, e in zip(got, expected, strict=True):
        assert g.dtype == dtype
        close(g, e, tolerance, gradient_scale(e, upstream, 1 / 7 if reduction == "mean" else 1))


@each_case
def test_layouts_are_read_as_they_are(case):
    for shape in ((6, 40), (4, 3, 8, 8), (2, 2000)):
        operands = case.operands(shape, torch.float32)
        expected = ops.row_sum(case.name, operands)
        expected_grads = gradients(lambda o: ops.row_sum(case.name, o).sum(), operands, range(len(operands)))
        for name in layouts(operands[0]):
            strided = [layouts(t)[name] for t in operands]
            got = ops.row_sum(case.name, strided)
            torch.testing.assert_close(got, expected, rtol=1e-6, atol=0, msg=name)
            grads = gradients(lambda o: ops.row_sum(case.name, o).sum(), strided, range(len(operands)))
            for g, e in zip(grads, expected_grads, strict=True):
                torch.testing.assert_close(g, e, rtol=1e-6, atol=1e-7, msg=name)


@each_case
def test_chunked_encoder_head_is_not_copied(case):
    """Row-strided halves of one tensor are read in place: nothing of their size is allocated."""
    head = torch.randn(64, 2 * 500).sigmoid()
    operands = [head.chunk(2, 1)[k % 2] for k in range(len(case.operands((1, 1))))]
    with torch.profiler.profile(profile_memory=True) as profile:
        library.row_sum(case.name, operands, None, None, "none", 1, 1.0, 0, True)
    usage = [e.self_device_memory_usage if head.is_cuda else e.self_cpu_memory_usage for e in profile.events()]
    allocated = sum(u for u in usage if u > 0)
    assert 0 < allocated < 64 * 500 * 4


@each_case
def test_expanded_and_scalar_operands_broadcast(case):
    """A row-constant, a column-constant and a one-element operand, and their gradients, against full tensors."""
    for k in range(1, len(case.operands((1, 1)))):
        for small in ((1, 30), (9, 1), ()):
            operands = case.operands((9, 30), torch.float32)
            operands[k] = case.operands(small or (1,), torch.float32, seed=1)[k].reshape(small).requires_grad_()

            def total(operands):
                full = [t if t.numel() == 1 else t.expand(9, 30) for t in operands]
                return ops.row_sum(case.name, full)

            upstream = torch.randn(9)
            value = total(operands)
            (got,) = torch.autograd.grad(value, operands[k], upstream)
            wide = [t.detach().double().expand(9, 30) for t in operands]
            leaf = operands[k].detach().double().requires_grad_()
            wide[k] = leaf.expand(9, 30)
            expected = reference.row_sum(case.name, wide)
            close(value, expected, 2e-6, absolute_rows(case.name, wide, 1))
            (expected,) = torch.autograd.grad(expected, leaf, upstream.double())
            assert got.shape == torch.Size(small)
            close(got, expected, 1e-4, expected.abs() + 1e-2)


@each_case
@pytest.mark.parametrize("mask_shape", [(5, 300), (5, 1), (1, 300)], ids=str)
def test_a_masked_element_counts_for_nothing(case, mask_shape):
    operands = case.operands((5, 300), torch.float32)
    mask = torch.rand(mask_shape) < 0.6
    full = mask.expand(5, 300)
    kept = [torch.where(full, t, 0.25) for t in operands]
    spoiled = [torch.where(full, t, float("nan")) for t in operands]
    for reduction in ("none", "sum", "elementwise"):
        elements = reference.row_sum(case.name, [t.double() for t in kept], reduction="elementwise") * full
        expected = {"none": elements.sum(1), "sum": elements.sum(), "elementwise": elements}[reduction]
        got = ops.row_sum(case.name, spoiled, full, reduction)
        close(got, expected, 2e-6, expected.abs() + elements.abs().mean())
        composite = reference.row_sum(case.name, spoiled, full, reduction)
        torch.testing.assert_close(got, composite, rtol=1e-5, atol=1e-4)
    got = gradients(lambda o: ops.row_sum(case.name, o, full, "sum"), spoiled, [0])[0]
    expected = gradients(lambda o: ops.row_sum(case.name, o, None, "sum"), kept, [0])[0] * full
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)
    composite = gradients(lambda o: reference.row_sum(case.name, o, full, "sum"), spoiled, [0])[0]
    torch.testing.assert_close(got, composite, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", [c for c in TERMS.values() if c.target is not None], ids=lambda c: c.name)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, *DTYPES], ids=str)
def test_targets_of_any_type(case, dtype, isa):
    operands = case.operands((4, 1100), torch.float32)
    scale = 1 / 255 if dtype == torch.uint8 else 1.0
    x = (torch.rand(4, 1100) / scale).to(dtype)
    x = x.clamp(min=1) if case.kinds[case.target] == "positive data" else x
    operands[case.target] = x
    wide = [t.double() for t in operands]
    got = ops.row_sum(case.name, operands, target_scale=scale)
    expected = reference.row_sum(case.name, wide, target_scale=scale)
    assert got.dtype == torch.float32
    close(got, expected, 2e-6, absolute_rows(case.name, [wide[0], wide[1] * scale, *wide[2:]], 1))
    got = gradients(lambda o: ops.row_sum(case.name, o, None, "mean", target_scale=scale), operands, [0])[0]
    expected = gradients(lambda o: reference.row_sum(case.name, o, None, "mean", target_scale=scale), wide, [0])[0]
    close(got, expected, 3e-6, gradient_scale(expected, torch.tensor(0.25)))


@each_case
def test_gradient_through_target_scale(case):
    if case.target is None:
        pytest.skip("no operand of this term is data")
    operands = case.operands((3, 50))
    got, expected = (
        gradients(lambda o, f=f: f.row_sum(case.name, o, target_scale=0.5).sum(), operands, [case.target])[0]
        for f in (ops, reference)
    )
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@each_case
def test_mixed_dtypes(case):
    """bfloat16 from autocast beside float32: each operand is read as it is, and its gradient has its type."""
    operands = case.operands((6, 70), torch.float32)
    mixed = [operands[0].bfloat16(), *operands[1:]]
    got = ops.row_sum(case.name, mixed)
    torch.testing.assert_close(got, ops.row_sum(case.name, [mixed[0].float(), *operands[1:]]), rtol=1e-6, atol=0)
    grads = gradients(lambda o: ops.row_sum(case.name, o, reduction="sum"), mixed, range(len(mixed)))
    assert [g.dtype for g in grads] == [t.dtype for t in mixed]


@each_case
def test_gradcheck(case):
    """Against finite differences, in float64, backward and forward mode, batched, twice."""
    operands = case.operands((2, 3))
    operands = [t + (kind == "count data") for t, kind in zip(operands, case.kinds, strict=True)]  # below 0 is no count
    operands = [t.requires_grad_() for t in operands]
    for reduction in ("none", "mean", "elementwise"):

        def function(*operands, reduction=reduction):
            return ops.row_sum(case.name, operands, reduction=reduction)

        assert torch.autograd.gradcheck(function, operands, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(function, operands)


@each_case
@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_a_retained_graph_gives_its_gradients_again(case, reduction):
    """The caller may write to those that it got, and may scale the second pass otherwise."""
    operands = [t.requires_grad_() for t in case.operands((5, 100))]
    out = ops.row_sum(case.name, operands, reduction=reduction).sum()
    first = torch.autograd.grad(out, operands, retain_graph=True)
    kept = [t.clone() for t in first]
    for t in first:
        t.zero_()
    for factor in (2.0, 0.5):
        again = torch.autograd.grad(factor * out, operands, retain_graph=True)
        torch.testing.assert_close(list(again), [factor * t for t in kept], rtol=1e-14, atol=0)


@each_case
@pytest.mark.parametrize("shape", [(3, 5), (40, 20), (2, 5000)], ids=str)
def test_same_bits_for_any_number_of_threads(case, shape, isa):
    operands = [t.repeat(9, 1) for t in case.operands(shape, torch.float32)]
    results = []
    for threads in (1, 2, 3, 7, 16, 1):
        torch.set_num_threads(threads)
        value, grads = library.row_sum(case.name, operands, None, None, "sum", 1, 1.0, (1 << len(operands)) - 1, True)
        results.append([value, *grads])
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], result, strict=True))


@each_case
def test_inputs_are_left_alone(case):
    operands = [t.requires_grad_() for t in case.operands((5, 100), torch.float32)]
    before = [t.detach().clone() for t in operands]
    ops.row_sum(case.name, operands, reduction="sum").backward()
    for t, b in zip(operands, before, strict=True):
        assert torch.equal(t, b) and t._version == 0


@each_case
def test_opcheck(case):
    for reduction, batch_dims, wanted in (("none", 1, 0), ("sum", 1, 1), ("mean", 2, 3), ("elementwise", 1, 1)):
        operands = case.operands((3, 4, 5), torch.float32)
        args = (case.name, operands, torch.rand(3, 4, 5) < 0.5, None, reduction, batch_dims, 1.0, wanted, True)
        torch.library.opcheck(library.row_sum, args)


def test_special_values_go_where_they_belong(isa):
    inf, nan = float("inf"), float("nan")
    logits = torch.tensor([inf, -inf, inf, -inf, 0.0, nan, 0.0])
    x = torch.tensor([1.0, 0.0, 0.0, 1.0, nan, 0.0, 0.5])
    values = ops.row_sum("bernoulli", (logits, x), reduction="elementwise")
    assert values[:4].tolist() == [0.0, 0.0, -inf, -inf]
    assert values[4:6].isnan().all() and values[6].isfinite()
    (grad,) = gradients(lambda o: ops.row_sum("bernoulli", o, reduction="sum"), (logits, x), [0])
    assert grad[:4].tolist() == [0.0, 0.0, -1.0, 1.0]
    assert grad.isnan().tolist() == [False] * 4 + [True, True, False]

    zeros, x = torch.tensor([0.0, -0.0]), torch.tensor([0.25, 0.25])
    (grad,) = gradients(lambda o: ops.row_sum("bernoulli", o, reduction="sum"), (zeros, x), [0])
    assert grad.tolist() == [-0.25, -0.25]

    logvar = torch.tensor([inf, -inf, 89.0, 1000.0, -1000.0, nan, 88.0])
    kl = ops.row_sum("gaussian_kl", (torch.zeros(7), logvar), reduction="elementwise")
    assert kl[:5].tolist() == [inf, inf, inf, inf, 499.5] and kl[5].isnan() and kl[6].isfinite()
    gaussian = ops.row_sum("gaussian", (torch.zeros(3), torch.zeros(3), torch.tensor([-inf, -1000.0, inf])), reduction="elementwise")  # fmt: skip
    assert gaussian[0] == inf and gaussian[1].isfinite() and gaussian[2] == -inf


def test_the_composite_treats_special_values_alike():
    inf, nan = float("inf"), float("nan")
    values = torch.tensor([0.0, 1.0, -1.0, 1e-30, 90.0, -90.0, 1e30, inf, -inf, nan])
    a, b = (t.flatten() for t in torch.meshgrid(values, values, indexing="ij"))
    for term, operands in (("gaussian_kl", (a, b)), ("bernoulli", (a, b.clamp(0, 1))), ("gaussian", (a, a.flip(0), b))):
        fused, composite = (f.row_sum(term, operands, reduction="elementwise") for f in (ops, reference))
        assert torch.equal(fused.isnan(), composite.isnan()), term
        torch.testing.assert_close(fused, composite, rtol=1e-5, atol=1e-30, equal_nan=True)
