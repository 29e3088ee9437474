"""The quick form of every group of tests/battery, and that each group can fail."""

import json
import sys

import numpy as np
import pytest
import torch

from tests import battery
from tests.battery import __main__ as command
from tests.battery import _calls, _page, bitwise, exhaustive, fuzz, mutation, never_worse, noise
from tests.battery._open import OPEN, reason
from tests.matrix import operations
from tests.support import accuracy
from tests.support.terms import TERMS, Term

SLOW = ("faults", "sanitize")  # processes that soak, and a build for ThreadSanitizer


@pytest.mark.parametrize(
    "group", [pytest.param(each, marks=[pytest.mark.slow] * (each in SLOW)) for each in battery.GROUPS]
)
def test_group(group):
    torch.set_num_threads(1)
    found = list(battery.rows(group, quick=True))
    assert found
    unmet = {f"{group}: {row.name}": row.figure for row in found if not row.met}
    assert not {name: figure for name, figure in unmet.items() if not reason(name, figure)}
    stale = [each for each in OPEN if each.startswith(f"{group}: ") and not any(n.startswith(each) for n in unmet)]
    assert not stale, "met now: take them off the list"


def test_the_page_shows_the_committed_results():
    results = json.loads(_page.RESULTS.read_text())
    assert list(results["groups"]) == list(_page.ABOUT) and set(_page.ABOUT) == set(battery.GROUPS)
    assert _page.PAGE.read_text() == _page.page(results)
    for group, found in results["groups"].items():
        for row in found["rows"]:
            assert row["met"] or reason(f"{group}: {row['name']}", row["figure"]), row


@pytest.mark.parametrize("known", [False, True])
def test_the_command_prints_and_writes_and_ends_with_1_for_news(known, monkeypatch, tmp_path, capsys):
    row = battery.Row("a", "1", "0", np.bool_(False))
    monkeypatch.setattr(command, "rows", lambda group, quick: iter([row]))
    if known:
        monkeypatch.setitem(OPEN, "noise: a", (1, "a reason"))
    file = tmp_path / "battery.json"
    monkeypatch.setattr(sys, "argv", ["battery", "noise", "--quick", "--json", str(file)])
    threads = torch.get_num_threads()
    with pytest.raises(SystemExit) as ended:
        command.main()
    torch.set_num_threads(threads)
    assert ended.value.code == (not known)
    assert f"| noise: a | 1 | 0 | {'known: a reason' if known else 'NO'} |" in capsys.readouterr().out
    results = json.loads(file.read_text())
    assert results["stamp"]["torch"] == torch.__version__
    assert results["groups"]["noise"]["rows"] == [{"name": "a", "figure": "1", "goal": "0", "met": False}]


def test_fuzz_sees_a_value_that_is_three_ulps_off(monkeypatch):
    right = _calls.CALLS["bernoulli"]
    monkeypatch.setitem(_calls.CALLS, "bernoulli", lambda *t, **o: right(*t, **o) * (1 + 3 * 2.0**-23))
    assert sum(bool(wrong) for _, wrong in fuzz.run(range(1000))) > 5


def test_fuzz_sees_an_input_that_is_written_to(monkeypatch):
    right = _calls.CALLS["laplace"]

    def writes(mean, *rest, **options):
        with torch.no_grad():
            mean.data[(0,) * mean.dim()] += 1
        return right(mean, *rest, **options)

    monkeypatch.setitem(_calls.CALLS, "laplace", writes)
    assert any("was written to" in each for _, wrong in fuzz.run(range(1000)) for each in wrong)


@pytest.mark.parametrize("name", ["bernoulli", "gaussian_kl"])
def test_a_row_of_three_fields_is_enough(name, monkeypatch):
    """The defaults of tests/support/terms: bounds, a published quantity, a range of inputs, an operation of the matrix."""
    full = TERMS[name]
    bare = Term(name, full.kinds, full.exact, call=full.call if full.target is None else None)
    monkeypatch.setitem(TERMS, name, bare)
    monkeypatch.setitem(_calls.CALLS, name, bare.log_prob)
    assert not bare.lacks(len(full.kinds))
    assert not [wrong for _, wrong in fuzz.run(range(500)) if wrong]
    (quantity,) = accuracy.quantities(bare)
    assert accuracy.worst(quantity, 5000)[2] == 0
    (operation,) = operations.of_term(bare)
    operands = operation.draw()
    torch.testing.assert_close(operation.function(*operands), operation.composite(*operands))
    assert bare.written() is None  # what people write is not known


def test_a_call_is_made_again_from_its_number(capsys):
    a, b = (_calls.make(fuzz.SEED, 17) for _ in range(2))
    assert a.notes == b.notes and all(torch.equal(a.outputs[k], b.outputs[k]) for k in a.outputs)
    assert fuzz.explain(17) == 0
    assert "case 17" in capsys.readouterr().out


def test_never_worse_sees_what_is_worse():
    logits, x = torch.full((100,), -20.0), torch.zeros(100)
    eager = -torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none")
    ours = -torch.log1p(torch.exp(logits))
    true = -torch.log1p(torch.exp(logits.double())).numpy().astype(never_worse.LONG)
    assert never_worse.compare("", true, abs(true), eager, ours).kind == "worse"
    assert never_worse.compare("", true, abs(true), ours, eager).kind == "better"


def test_exhaustive_sees_an_ulp_less(monkeypatch):
    monkeypatch.setattr(exhaustive, "WORST", {"exp": 0.5})
    unmet = [row.name for row in exhaustive.rows(quick=True) if not row.met]
    assert unmet == [f"exp, {isa}" for isa in exhaustive.library.build_info()["cpu_isas"]]


def test_bitwise_sees_a_bit():
    a = torch.zeros(5)
    assert bitwise.same_bits([a], [a.clone()]) and not bitwise.same_bits([a], [-a])


def test_noise_sees_correlated_seeds():
    p = noise.statistics(lambda n, seed, offset: noise.normals(n, 42, offset), 200_000)
    passed, figure = noise.verdict(p)
    assert not passed and "next seed" in figure


def test_mutation_counts_failed_tests_alone(monkeypatch, tmp_path):
    """A test that fails without a defect sees nothing, and neither does pytest where it cannot run."""
    (tmp_path / "right.py").write_text("x = 1\n")
    (tmp_path / "test_x.py").write_text("from right import x\n\n\ndef test_x():\n    assert x == 1\n")
    (tmp_path / "test_broken.py").write_text("def test():\n    assert False\n")
    seen = mutation.Mutant("seen", "right.py", "1", "2", "test_x.py")
    unrun = mutation.Mutant("not run", "right.py", "x = 1", "import nothing_of_this_name", "test_x.py")
    assert mutation.killed(seen, tmp_path) and not mutation.killed(unrun, tmp_path)
    assert mutation.failing(("test_x.py", "test_broken.py", "test_that_is_not_there.py"), tmp_path) == [
        "test_broken.py",
        "test_that_is_not_there.py",
    ]
