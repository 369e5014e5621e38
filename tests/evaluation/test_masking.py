"""The masking report: silent for models whose gradients tell the truth, loud for those whose do not."""

import pytest
import small
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


@pytest.mark.slow
@pytest.mark.parametrize("method", ["madry", "natural"])
def test_it_is_silent_where_gradients_tell_the_truth(method):
    assert fired(trained.model(method), surrogate=trained.model("adv-interp")) == set()


@pytest.mark.slow
def test_it_is_silent_where_half_of_the_images_stand():
    """At a large epsilon the stronger attack finds more, and so do restarts; that is no masking."""
    checks = masking_report(trained.model("madry"), trained.digits(24), epsilon=24 / 255)
    (figure,) = (check.figure for check in checks if check.name == "restarts")
    assert 15 < float(figure.split()[0]) < 85
    assert not any(check.fired for check in checks)


@pytest.mark.slow
def test_autoattacks_own_outcomes_are_used():
    """Where the images have been attacked already; here by an attack that finds all of them."""
    known = Outcomes({"autoattack": torch.zeros(6, dtype=torch.bool)})
    checks = masking_report(trained.model("madry"), trained.digits(6), epsilon=EPSILON / 4, outcomes=known)
    (check,) = (check for check in checks if check.name == "PGD against AutoAttack")
    assert check.fired
    assert "autoattack 0.0 %" in check.figure


def test_losses_that_are_nan():
    assert masking._loss(torch.full((21,), torch.nan)).fired


@pytest.mark.slow
def test_saturated_logits():
    found = fired(Saturated(trained.model("natural")).eval())
    assert {"zero gradients", "PGD against AutoAttack"} <= found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "sign"),
    [("natural", "black box against white box"), ("madry", "unbounded attack")],
)
def test_quantized_images(method, sign):
    """Images of the natural network fool its quantised self; noise alone does not fool the one that PGD trained."""
    found = fired(Quantized(trained.model(method)).eval(), surrogate=trained.model("natural"))
    assert {"zero gradients", "loss along the steps", sign} <= found


@pytest.mark.slow
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


def test_tensors(monkeypatch):
    small.short_autoattack(monkeypatch)
    x, y = trained.tensors(6)
    checks = masking_signs(trained.model("natural"), x, y, epsilon=EPSILON)
    assert {check.name for check in checks} == NAMES


class _NanGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.nan


class NanGradients(small.Classifier):
    def forward(self, x):
        return super().forward(_NanGradient.apply(x))


class AlwaysFirst(small.Classifier):
    """Nearly the same logits everywhere, of which the first is the largest."""

    def forward(self, x):
        return 0.01 * super().forward(x) + torch.tensor([9.0] + 9 * [0.0])


def signs(kind, y):
    x, own = small.images(20)
    return {check.name: check for check in masking_signs(small.new(kind), x, own if y is None else y)}


def test_gradients_that_are_not_finite_are_no_gradients(monkeypatch):
    monkeypatch.setattr(masking, "STRONG", "pgd2-zero")
    check = signs(NanGradients, None)["zero gradients"]
    assert check.fired
    assert "100.0 % one that is not finite" in check.figure
    assert "NaN or infinite" in check.sentence


def test_chance_is_that_of_the_models_classes(monkeypatch):
    """Also where the images are of one class, as the first ones of a sorted set are."""
    monkeypatch.setattr(masking, "STRONG", "pgd2-zero")
    check = signs(AlwaysFirst, torch.zeros(20, dtype=torch.int64))["unbounded attack"]
    assert check.fired
    assert "255/255: 100.0 %" in check.figure
    assert "more than chance (10 %) withstand" in check.sentence


def test_sentences_that_are_quiet_say_no_more_than_was_seen():
    """A gap that chance explains is not told as none."""
    few, more = torch.arange(100) < 40, torch.arange(100) < 42
    assert masking._one_step(few, more).sentence == masking._one_step(more, few).sentence
    assert "chance" in masking._one_step(few, more).sentence
    budgets = masking._budgets(more, 1.0, lambda epsilon: {}, 2)
    assert not budgets.fired
    assert "no more images withstand than chance (50 %) explains" in budgets.sentence
    assert "3.0 %" in masking._gradients(torch.arange(100) < 3, torch.zeros(100, dtype=torch.bool)).sentence
