"""What speaks against an evaluation's figures is said."""

import re
import warnings

import pytest
import small
import torch
from torch import nn

from fastait import evaluate_robustness
from fastait.attacks.columns import parse_all
from fastait.attacks.stages import Stage, stages
from fastait.evaluation import Outcomes, cautions
from fastait.evaluation.results import Evaluation, as_json, words
from fastait.evaluation.sums import Sums


class Changed(nn.Module):
    """A classifier whose logits are changed by a function."""

    def __init__(self, change):
        super().__init__()
        self.inner, self.change = small.new(), change

    def forward(self, x):
        return self.change(self.inner(x))


def said(change, attacks="pgd2", count=8):
    x, _ = small.images(count)
    model = Changed(change)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outcomes = evaluate_robustness(model, x, small.new()(x).argmax(1), attacks)
    told = {str(warning.message) for warning in caught if warning.category is RuntimeWarning}
    assert set(outcomes.warnings) <= told
    return outcomes.warnings


@pytest.mark.parametrize("attacks", ["pgd2", "apgd-ce-2", "square-5", "eot3-pgd2,cw2", "eot3-pgd2+fgsm"])
def test_a_random_model(attacks):
    (line,) = said(lambda logits: logits + 0.1 * torch.randn_like(logits), attacks)
    assert line.startswith("the model is random, two passes of an image differ")
    assert "autoattack-rand, or by eotN- attacks" in line


@pytest.mark.parametrize("attacks", ["eot3-pgd2", "spsa-2x2", "eot3-pgd2+eot2-cw2", ()])
def test_a_random_model_attacked_as_it_must_be(attacks):
    assert said(lambda logits: logits + 0.1 * torch.randn_like(logits), attacks) == ()


def test_an_ordinary_model():
    assert said(lambda logits: logits, "fgsm,pgd3,cw3,apgd-ce-3,apgd-t-2,fab-t-2,square-5,spsa-2x1") == ()


@pytest.mark.parametrize(
    ("attack", "of"),
    [
        ("pgd3", "pgd3"),
        ("pgd3-min2", "pgd3-min2, pgd3"),
        ("spsa-2x1+pgd1", "spsa-2x1+pgd1, pgd1: "),
        ("apgd-ce-3", "apgd-ce-3"),
        ("spsa-2x1,pgd1", "pgd1"),
        ("quick", "quick, apgd-ce-"),
    ],
)
def test_zero_gradients(attack, of, monkeypatch):
    """Cross-entropy of saturated logits."""
    from fastait.attacks import columns, stages

    for module in (columns, stages):
        monkeypatch.setattr(module, "PARTS", {**columns.PARTS, "apgd-ce": 2, "apgd-t": 1})
    (line,) = said(lambda logits: 1e4 * logits, attack)
    assert line.startswith(of)
    assert int(re.search(r"(\d+) % of the gradients are zero", line)[1]) > 80


@pytest.mark.parametrize("change", [torch.round, lambda logits: logits * 0 + torch.arange(10.0)])
def test_few_values(change):
    lines = said(change, "spsa-2x1")
    assert any(line.startswith("the logits take few values, only ") for line in lines)


def test_few_values_of_types_that_have_no_more():
    x, y = small.images(300)
    outcomes = evaluate_robustness(small.new().bfloat16(), x.bfloat16(), y, "cw1")
    assert outcomes.warnings == ()


def outcomes_of(fooled_by_square, images=1000, **options):
    decided = torch.zeros(images, dtype=torch.int64)
    decided[:fooled_by_square] = 1
    return Outcomes({"clean": decided > -1, "autoattack": decided != 1}, decided={"autoattack": decided}, **options)


@pytest.mark.parametrize(("fooled", "lines"), [(0, 0), (2, 0), (3, 1)])
def test_square_beats_the_white_boxes(fooled, lines):
    """From 0.2 % of all images on, as the library says it."""
    columns = parse_all(["autoattack", "square-5", "local-search+square-5", "pgd2+square-5"])
    parts = {column.name: stages(column, 2) for column in columns}
    parts["autoattack"] = (Stage("apgd-ce", 2), Stage("square", 5))
    outcomes = outcomes_of(fooled)
    outcomes.decided["square-5"] = torch.zeros(1000, dtype=torch.int64)
    outcomes.decided.update(dict.fromkeys(["local-search+square-5", "pgd2+square-5"], outcomes.decided["autoattack"]))
    found = list(cautions.cautions(columns, parts, outcomes, Sums()))
    assert [line.split(":")[0] for line in found] == lines * ["autoattack", "pgd2+square-5"]
    assert all("square fools 3 of 1000 images that withstand the attacks along gradients" in line for line in found)


def test_they_stand_below_the_table_and_in_the_json():
    found = Evaluation("run", 8 / 255, outcomes_of(3, warnings=("beware",)))
    assert words([found])[0] == "run, epsilon 8/255: beware."
    assert '"warnings": [\n  "run, epsilon 8/255: beware"\n ]' in as_json([found], {})


def test_quick_is_an_upper_bound():
    stands = torch.arange(100) < 50
    found = Evaluation("run", 8 / 255, Outcomes({"clean": stands, "quick": stands}))
    assert words([found])[0] == (
        "run, epsilon 8/255: the 50.0 % of quick are an upper bound of AutoAttack's robust accuracy, measured by APGD "
        "alone; FAB-T and Square, the remaining parts, can only lower it."
    )
