"""The masking report: silent for models whose gradients tell the truth, loud for those whose do not."""

import pytest
import torch
import trained
from torch import nn

from fastait.evaluation import Outcomes, masking, masking_report, masking_signs

EPSILON = 16 / 255
NAMES = {
    "one step against many",
    "unbounded attack",
    "black box against white box",
    "PGD against AutoAttack",
    "loss along the steps",
    "zero gradients",
    "restarts",
}


class Saturated(nn.Module):
    """Logits so large that the softmax is 0 or 1 to the last bit: cross-entropy has no gradient."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return 300 * self.model(x)


class Quantized(nn.Module):
    """Images rounded to a few levels: the gradient through it is zero almost everywhere."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model((x * 16).round() / 16)


class Misleading(nn.Module):
    """The right logits with the gradient of other ones."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        logits = self.model(x)
        return logits.detach() - logits + logits.detach()


def fired(model, **options):
    checks = masking_report(model, trained.digits(24), epsilon=EPSILON, **options)
    assert {check.name for check in checks} == NAMES
    for check in checks:
        assert check.figure
        assert check.sentence.endswith(".")
    return {check.name for check in checks if check.fired}


@pytest.mark.parametrize("method", ["madry", "natural"])
def test_it_is_silent_where_gradients_tell_the_truth(method):
    assert fired(trained.model(method), surrogate=trained.model("adv-interp")) == set()


def test_it_is_silent_where_half_of_the_images_stand():
    """At a large epsilon the stronger attack finds more, and so do restarts; that is no masking."""
    checks = masking_report(trained.model("madry"), trained.digits(24), epsilon=24 / 255)
    (figure,) = (check.figure for check in checks if check.name == "restarts")
    assert 15 < float(figure.split()[0]) < 85
    assert not any(check.fired for check in checks)


def test_autoattacks_own_outcomes_are_used():
    """Where the images have been attacked already; here by an attack that finds all of them."""
    known = Outcomes({"autoattack": torch.zeros(6, dtype=torch.bool)})
    checks = masking_report(trained.model("madry"), trained.digits(6), epsilon=EPSILON / 4, outcomes=known)
    (check,) = (check for check in checks if check.name == "PGD against AutoAttack")
    assert check.fired
    assert "autoattack 0.0 %" in check.figure


def test_losses_that_are_nan():
    assert masking._loss(torch.full((21,), torch.nan)).fired


def test_saturated_logits():
    found = fired(Saturated(trained.model("natural")).eval())
    assert {"zero gradients", "PGD against AutoAttack"} <= found


@pytest.mark.parametrize(
    ("method", "sign"), [("natural", "black box against white box"), ("madry", "unbounded attack")]
)
def test_quantized_images(method, sign):
    """Images of the natural network fool its quantised self; noise alone does not fool the one that PGD trained."""
    found = fired(Quantized(trained.model(method)).eval(), surrogate=trained.model("natural"))
    assert {"zero gradients", "loss along the steps", sign} <= found


def test_misleading_gradients():
    found = fired(Misleading(trained.model("natural")).eval(), surrogate=trained.model("natural"))
    assert {"unbounded attack", "loss along the steps", "black box against white box"} <= found


def test_one_step_that_beats_many():
    few, many = torch.ones(100, dtype=torch.bool), torch.ones(100, dtype=torch.bool)
    few[:20] = False
    assert masking._one_step(few, many).fired
    many[10:30] = False
    assert not masking._one_step(few, many).fired
    assert not masking._one_step(many, few).fired
    few[:] = True
    few[:4] = False
    assert not masking._one_step(few, torch.ones(100, dtype=torch.bool)).fired  # four points are little


def test_restarts_that_keep_finding_more():
    once, several = torch.ones(40, dtype=torch.bool), torch.ones(40, dtype=torch.bool)
    several[:2] = False
    assert not masking._restarts(once, several).fired
    several[:5] = False
    assert masking._restarts(once, several).fired


def test_tensors():
    x, y = trained.tensors(6)
    checks = masking_signs(trained.model("natural"), x, y, epsilon=EPSILON)
    assert {check.name for check in checks} == NAMES


def test_without_the_library(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    checks = masking_report(trained.model("natural"), trained.digits(6), epsilon=EPSILON)
    (check,) = (check for check in checks if check.name == "PGD against AutoAttack")
    assert (check.fired, check.figure) == (False, "not measured")
