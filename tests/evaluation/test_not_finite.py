"""Logits that are NaN or infinite decide nothing: argmax would call a row of NaN class 0."""

import json

import pytest
import small
import torch

from fastait import evaluate_robustness
from fastait.attacks import NOT_FINITE, RIGHT, WRONG, verdict
from fastait.evaluation import Outcomes
from fastait.evaluation.outcomes import NO_CLASS
from fastait.evaluation.results import Evaluation, as_json, words

BIAS = torch.tensor([99.0] + 9 * [0.0])


class Breaking(small.Classifier):
    """Class 0 everywhere, and ``value`` where an attack has made a pixel bright."""

    value = torch.nan

    def forward(self, x):
        bright = (x.amax((1, 2, 3)) > 0.995)[:, None]
        return torch.where(bright, self.value, super().forward(x) + BIAS)


class Overflowing(Breaking):
    value = torch.inf


WHITE = ["fgsm", "pgd5", "cw5", "pgd5-worst", "pgd5-best", "pgd3-min2", "feature3", "eot2-pgd3", "pgd3+cw3"]
STAGED = ["apgd-ce", "apgd-t", "fab-t", "square", "autoattack", "autoattack-rand"]


def test_verdicts():
    logits = torch.tensor([[1.0, 2.0], [2.0, 1.0], [torch.nan] * 2, [torch.inf, 0.0], [0.0, -torch.inf]])
    assert verdict(logits, torch.tensor([1, 1, 0, 0, 0])).tolist() == [RIGHT, WRONG, *[NOT_FINITE] * 3]


@pytest.mark.filterwarnings("ignore:.*are NaN or infinite:RuntimeWarning")
@pytest.mark.parametrize("kind", [Breaking, Overflowing])
def test_no_attack_counts_them_as_withstood(kind):
    x, y = small.images(8)
    x, y = x.clamp(max=0.99), torch.zeros_like(y)
    names = [*WHITE, "local-search-linf-5", "transfer-pgd5"]
    model, surrogate = small.new(kind), small.new()
    with pytest.warns(RuntimeWarning, match="pgd5: the logits of 8 of 8 images are NaN or infinite"):
        found = evaluate_robustness(model, x, y, names, surrogate=surrogate)
    assert found.accuracy() == {"clean": 100.0, **dict.fromkeys(names, 0.0)}
    assert all(found.not_finite[name].all() for name in names)
    assert all((found.classes[name] == NO_CLASS).all() for name in names)
    evaluation = Evaluation("net", 8 / 255, found)
    assert any("pgd5: the logits of 8 of 8 images are NaN" in sentence for sentence in words([evaluation]))
    assert json.loads(as_json([evaluation], {}))["outcomes"][0]["not_finite"]["pgd5"] == 8


@pytest.mark.filterwarnings("ignore:.*are NaN or infinite:RuntimeWarning")
def test_autoattack_does_not_count_them_as_withstood(monkeypatch):
    small.short_autoattack(monkeypatch, queries=30)
    x, y = small.images(6)
    found = evaluate_robustness(small.new(Breaking), x.clamp(max=0.99), torch.zeros_like(y), STAGED)
    assert found.accuracy() == {"clean": 100.0, **dict.fromkeys(STAGED, 0.0)}


def test_finite_models_are_not_warned_of(recwarn):
    x, y = small.images(4)
    assert evaluate_robustness(small.new(), x, y, "pgd2").not_finite == {}
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


def test_accuracy_is_the_nearest_number():
    assert Outcomes({"a": torch.arange(100) < 58}).accuracy() == {"a": 58.0}
