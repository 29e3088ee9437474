"""Hand-written losses of many kinds: one line takes the place of each, with its value and its gradients."""

import pytest
import torch

from benchmarks.hand_written import HABITS, ROWS
from benchmarks.hand_written.row import doubled, leaves

# |a - b| <= TOLERANCE * max |b|, for the value and for each gradient as a whole tensor. b is what the hand-written loss
# gives for the same inputs in float64, because in float32 its own rounding may be larger: sums of a million terms.
TOLERANCE = 2e-6


def results(loss, inputs):
    value = loss(**inputs)
    return [value, *torch.autograd.grad(value, leaves(inputs))]


@pytest.mark.parametrize("name", ROWS)
def test_the_line_takes_its_place(name):
    row = ROWS[name]
    inputs = row.inputs(torch.Generator().manual_seed(0), **row.small)
    expected = results(row.by_hand, doubled(inputs))
    found = results(row.vaefast(), inputs)
    for place, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert a.shape == b.shape and a.dtype == torch.float32
        error = (a.double() - b).abs().max().item() / b.abs().max().item()
        assert error <= TOLERANCE, f"{name}: {'the value' if place == 0 else f'gradient {place}'} is off by {error:.1e}"


@pytest.mark.parametrize("name", ROWS)
def test_it_is_one_line(name):
    for source in (ROWS[name].line, ROWS[name].criterion or "None"):
        compile(source, name, "eval")  # an expression
        assert "\n" not in source and ";" not in source and len(source) <= 155


def test_there_are_rows_for_every_habit():
    assert len(ROWS) >= 24 and len(ROWS) == sum(len(habit.ROWS) for habit in HABITS)  # no name twice
    assert all(habit.ROWS and row.by_hand.__doc__ for habit in HABITS for row in habit.ROWS)


def test_a_wrong_line_is_seen():
    """A KL that is a part in a hundred thousand too large."""
    row = ROWS["bce_logits"]
    inputs = row.inputs(torch.Generator().manual_seed(0))
    expected = results(row.by_hand, doubled(inputs))
    found = results(row._replace(criterion="ELBOLoss(beta=1.00001)").vaefast(), inputs)
    errors = [(a.double() - b).abs().max() / b.abs().max() for a, b in zip(found, expected, strict=True)]
    assert max(errors) > 2 * TOLERANCE
