"""Likelihoods by name: names of other libraries, typos, and what the command offers."""

import pytest

import vaefast
from vaefast import likelihoods
from vaefast.cli.config import CHOICES

HABITS = {
    "bce": ("bernoulli_probs", "bernoulli"), "BCE": ("bernoulli_probs", "bernoulli"),
    "binary_cross_entropy": ("bernoulli_probs", "bernoulli"), "bce_with_logits": ("bernoulli",), "logits": ("bernoulli",),
    "BCEWithLogitsLoss": ("bernoulli",), "sigmoid": ("bernoulli_probs",), "l2": ("mse", "gaussian"),
    "mean_squared_error": ("mse", "gaussian"), "MAE": ("l1", "laplace"), "normal": ("gaussian",), "Gauss": ("gaussian",),
    "cross_entropy": ("categorical",), "cross-entropy": ("categorical",), "ce": ("categorical",), "nll": ("categorical",),
    "softmax": ("categorical", "multinomial"), "nb": ("negative_binomial",), "ZINB": ("zero_inflated_negative_binomial",),
}  # fmt: skip


@pytest.mark.parametrize("name", HABITS)
def test_names_of_other_libraries_are_answered(name):
    for call in (likelihoods.by_name, vaefast.ELBOLoss, vaefast.IWAELoss):
        with pytest.raises(ValueError) as error:
            call(name)
        said = str(error.value)
        assert said.startswith(f'vaefast: likelihood "{name}" is "{HABITS[name][0]}" here')
        answer, _, names = said.partition("; the names are ")
        assert all(f'"{ours}"' in answer for ours in HABITS[name])
        assert names == ", ".join(map(repr, likelihoods.NAMES))


def test_a_habit_is_no_name_of_ours_and_its_answer_is():
    from vaefast.likelihoods.registry import _ANSWERS

    habits = [habit for names in _ANSWERS for habit in names.split()]
    assert len(habits) == len(set(habits)) and not set(habits) & set(likelihoods.NAMES)
    answers = {answer.split('"')[1] for answer in _ANSWERS.values() if '"' in answer}
    assert answers <= {*likelihoods.NAMES, "mse", "l1"}


@pytest.mark.parametrize(
    ("name", "meant"), [("gausian", "gaussian"), ("Gaussian", "gaussian"), ("categorial", "categorical"), ("xyz", None)]
)
def test_a_typo_is_answered(name, meant):
    with pytest.raises(ValueError, match=f"must be one of 'bernoulli', .*, got '{name}'") as error:
        likelihoods.by_name(name)
    assert str(error.value).endswith(f"; did you mean {meant!r}?" if meant else f"got {name!r}")


def test_the_command_offers_what_its_models_can_have():
    offered = CHOICES["likelihood"]
    assert set(likelihoods.NAMES) - set(offered) == {"categorical", "multinomial", "mse", "l1"}
    for name in offered:
        assert vaefast.mlp_vae((3,), 2, likelihood=name).likelihood.name
    with pytest.raises(ValueError, match="build the decoder by hand"):
        vaefast.mlp_vae((3,), 2, likelihood="categorical")
