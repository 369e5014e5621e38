"""AutoAttack's columns as an evaluation runs them: the same outcomes whatever the batches, processes, layout and kills.

What each attack does is tested beside it; here are the stages, on a small network and with few iterations.
"""

from functools import partial

import pytest
import small
import torch
from test_evaluate import Memory
from tolerances import OUTCOMES_ACROSS_BATCHES
from torch import nn

from fastait import evaluate_robustness
from fastait.attacks.columns import parse
from fastait.attacks.randomized import RandomSignNoise
from fastait.attacks.stages import stages
from fastait.data import FloatSet
from fastait.evaluation import evaluate
from fastait.evaluation.batches import share
from fastait.runtime.errors import InputError
from fastait.runtime.processes import Ranks

EPSILON = 2.5 / 255
PARTS = ["apgd-ce", "apgd-t", "fab-t", "square"]
ATTACKS = [*PARTS, "apgd-dlr"]
TARGETS = 4
QUERIES = 60
COUNT = 64


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    small.short_autoattack(monkeypatch, queries=QUERIES, iterations=2)
    monkeypatch.setattr("fastait.attacks.stages.AVERAGED", 3)


class Smooth(small.Classifier):
    """Its outcomes do not hang on where a ReLU turns, and some hang on where an attack starts and what it draws."""

    speed = 6

    def features(self, x):
        return (self.speed * self.b(self.c(x))).sin()


def problem(count=COUNT, classes=1 + TARGETS, dtype=torch.float64):
    """(a network, images that it tells apart but for the first)."""
    model = small.new(Smooth, classes=classes).to(dtype)
    x = small.images(count)[0].to(dtype)
    with torch.no_grad():
        y = model(x).argmax(1)
    y[0] = (y[0] + 1) % classes
    return model, FloatSet(x, y)


class Journal(Memory):
    """Knows how often a stage was run on an image."""

    def __init__(self):
        super().__init__()
        self.runs, self.verdicts = {}, {}
        self.watched, self.finished_at = None, 0

    def watch(self, model, images):
        """Note how many images had passed ``model`` when the last batch was finished; ``images`` if none is."""
        self.watched, self.finished_at = model, images

    def put(self, unit, places, found, *sums):
        super().put(unit, places, found, *sums)
        for name, values in found.items():
            for place, value in zip(places, values, strict=True):
                self.runs[name, place] = self.runs.get((name, place), 0) + 1
                self.verdicts[name, place] = value
        if self.watched is not None:
            self.finished_at = self.watched.images


NAMES = ["autoattack", "square", "apgd-dlr"]


def run(model, images, names=NAMES, **options):
    return evaluate(model, images, names, **{"epsilon": EPSILON, "seed": 3, "batch_size": 8, **options})


def names_of(column="autoattack", classes=1 + TARGETS):
    return [stage.name for stage in stages(parse(column), classes)]


@pytest.fixture(scope="module")
def whole():
    """(the outcomes, who withstood which stage) of an undisturbed evaluation."""
    with pytest.MonkeyPatch.context() as patch:
        small.short_autoattack(patch, queries=QUERIES, iterations=2)
        journal = Journal()
        return run(*problem(), journal=journal), journal.verdicts


def assert_same(found, journal, whole):
    for name in NAMES:
        assert torch.equal(found.correct[name], whole[0].correct[name]), name
    assert journal.verdicts == whole[1]


def test_every_part_fools_some(whole):
    """As the tests here are to see; and none of the later stages sees what an earlier one fooled."""
    outcomes, verdicts = whole
    attacked = {name: {place for stage, place in verdicts if stage == name} for name in names_of()}
    fooled = {
        name: {place for stage, place in verdicts if stage == name and not verdicts[stage, place]} for name in attacked
    }
    for part in PARTS[:3]:
        assert any(fooled[name] for name in fooled if name.startswith(part)), part
    standing = set(range(1, COUNT))
    for name in names_of():
        assert attacked[name] == (standing if name != f"square-{QUERIES}" else set(range(1, COUNT))), name
        standing -= fooled[name]
    assert 8 < len(standing) < 40
    assert set(torch.nonzero(outcomes.correct["autoattack"]).flatten().tolist()) == standing


@pytest.mark.parametrize("batch_size", [1, 7, COUNT])
def test_batches_do_not_matter(whole, batch_size):
    journal = Journal()
    assert_same(run(*problem(), batch_size=batch_size, journal=journal), journal, whole)


class Viewing(nn.Module):
    """Cannot take channels-last images."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        x.view(-1)
        return self.model(x)


def test_layouts_do_not_matter(whole):
    model, images = problem()
    journal = Journal()
    assert_same(run(Viewing(model), images, journal=journal), journal, whole)


class Apart(Ranks):
    """One of several processes that hears nothing of the others."""

    def merge(self, parts):
        return parts


def test_processes_do_not_matter(whole):
    model, images = problem()
    for rank in range(2):
        own, journal = share(COUNT, Apart(rank, 2)), Journal()
        found = run(model, images, journal=journal, ranks=Apart(rank, 2))
        assert torch.equal(found.correct["autoattack"][own], whole[0].correct["autoattack"][own])
        assert journal.verdicts == {key: value for key, value in whole[1].items() if key[1] in own.tolist()}


def test_it_is_the_worst_case_of_its_parts(whole):
    """Each alone, on all images; and nothing that two of the columns have in common is computed twice."""
    model, images = problem()
    alone = [run(model, images, [part]).correct[part] for part in PARTS]
    assert torch.equal(torch.stack(alone).all(0), whole[0].correct["autoattack"])
    for names in (["quick", "autoattack", *PARTS], [*PARTS, "autoattack", "quick"]):
        journal = Journal()
        found = run(model, images, names, journal=journal)
        for part, outcome in zip(PARTS, alone, strict=True):
            assert torch.equal(found.correct[part], outcome), part
        assert torch.equal(found.correct["autoattack"], whole[0].correct["autoattack"])
        assert torch.equal(found.correct["quick"], alone[0] & alone[1])
        assert set(journal.runs.values()) == {1}
        assert journal.runs.keys() >= {key for key in whole[1] if key[0] in names_of()}
    assert found.correct["quick"].sum() > found.correct["autoattack"].sum()
    joined = "apgd-ce+apgd-t+fab-t+square"
    assert torch.equal(run(model, images, [joined]).correct[joined], whole[0].correct["autoattack"])


class Counting(nn.Module):
    """Counts its images, and raises at one of its passes, as a signal or a crash might."""

    def __init__(self, model, passes=-1):
        super().__init__()
        self.model, self.last = model, passes
        self.passes = self.images = 0

    def forward(self, x):
        self.passes += 1
        if self.passes == self.last:
            raise KeyboardInterrupt
        self.images += len(x)
        return self.model(x)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_stopped_anywhere_and_begun_again(whole, seed):
    """Three times: what is passed through the model again is what no batch of a stage had been finished for."""
    model, images = problem()
    undisturbed, journal = Counting(model), Journal()
    run(undisturbed, images, journal=journal)
    known = Counting(model)
    run(known, images, journal=journal)
    assert known.images <= 8  # it is tried on a few images

    journal, spent, lost = Journal(), 0, []
    shares = torch.rand(3, generator=torch.Generator().manual_seed(seed)) / 4
    for share_of_work in shares.tolist():
        stopping = Counting(model, 5 + int(share_of_work * undisturbed.passes))
        journal.watch(stopping, known.images)
        with pytest.raises(KeyboardInterrupt):
            run(stopping, images, journal=journal)
        spent += stopping.images - known.images
        lost.append(stopping.images - journal.finished_at)
    last = Counting(model)
    journal.watch(last, 0)
    assert_same(run(last, images, journal=journal), journal, whole)
    assert set(journal.runs.values()) == {1}
    assert spent + last.images - sum(lost) == undisturbed.images
    assert 0 < max(lost) <= 8 * (1 + QUERIES)


@pytest.mark.parametrize("classes", range(2, 13))
def test_any_number_of_classes(classes):
    model, images = problem(12, classes, torch.float32)
    said = []
    names = ["autoattack", "autoattack-rand", "quick", *PARTS]
    names = [name for name in names if name != "apgd-t" or classes > 3]
    found = run(model, images, names, note=said.append)
    lines = [line for line in said if line.startswith("autoattack of")]
    assert lines == {
        2: ["autoattack of 2 classes is apgd-ce, fab-t, square: the others' losses need more"],
        3: ["autoattack of 3 classes is apgd-ce, apgd-dlr, fab-t, square: the others' losses need more"],
    }.get(classes, [])
    attacks = {
        name: {next(part for part in ATTACKS if stage.startswith(part)) for stage in found.stages[name]}
        for name in ("autoattack", "quick", "autoattack-rand")
    }
    dlr = {"apgd-dlr"} if classes == 3 else {"apgd-t"} if classes > 3 else set()
    assert attacks["autoattack"] == {"apgd-ce", "fab-t", "square"} | dlr
    assert attacks["quick"] == {"apgd-ce"} | dlr
    assert attacks["autoattack-rand"] == ({"apgd-ce", "apgd-dlr"} if classes > 2 else {"apgd-ce"})
    for name in names:
        assert found.correct["autoattack"].sum() <= found.correct[name].sum() or name == "autoattack-rand"


@pytest.mark.parametrize(
    ("classes", "name", "least"), [(1, "autoattack", 2), (1, "square", 2), (2, "apgd-dlr", 3), (3, "apgd-t", 4)]
)
def test_too_few_classes(classes, name, least):
    model, images = problem(4, classes)
    with pytest.raises(InputError, match=f"{name} needs at least {least} classes, there are {classes}"):
        run(model, images, [name])


def test_rounding_of_fp32_hardly_matters():
    model, images = problem(200, dtype=torch.float32)
    one, other = (run(model, images, batch_size=size).correct["autoattack"] for size in (7, 64))
    assert (one != other).double().mean() <= OUTCOMES_ACROSS_BATCHES
    assert 20 < one.sum() < 180


def test_the_default_type_does_not_matter(whole):
    """Nor do the images hang on it, to the last bit."""
    journal, (model, images) = Journal(), problem()
    names = ["apgd-ce-8", "fab-t-2", "square-20"]
    attacked = partial(
        evaluate_robustness, model, images.images[:8], images.labels[:8], names, epsilon=EPSILON, keep_images=True
    )
    usual = attacked().images
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert_same(run(model, images, journal=journal), journal, whole)
        for name, moved in attacked().images.items():
            assert torch.equal(moved, usual[name]), name
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_random_defence():
    """Each gradient is a mean of several, and what is drawn is the evaluation's to seed."""
    model, images = problem(dtype=torch.float32)
    defended = RandomSignNoise(model, 4 / 255).eval()
    first, again = (run(defended, images, ["autoattack-rand"]).correct["autoattack-rand"] for _ in range(2))
    assert torch.equal(first, again)
    assert 0 < first.sum() < COUNT - 8
    assert evaluate_robustness(defended, images.images, images.labels, "autoattack-rand").accuracy()
