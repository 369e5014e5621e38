"""Restarts and the worst of several columns: a stage each, so that what one has found is known from then on."""

import pytest
import torch
from test_autoattack import COUNT, Counting, Journal, problem
from test_autoattack import run as evaluated

from fastait import evaluate_robustness
from fastait.attacks.verdict import RIGHT
from fastait.evaluation.evaluate import BLACK_BOX_BATCH

BUDGET = {"epsilon": 8 / 255, "step_size": 1 / 255}
"""By which each stage finds something."""

STEPS = 3
RESTARTS = [f"pgd{STEPS}", *(f"pgd{STEPS} restart {i}" for i in (2, 3, 4))]
UNION = f"cw2-worst+pgd{STEPS}-min2+spsa-2x1"
PARTS = ["cw2-worst", *RESTARTS[:2], "spsa-2x1"]


def run(*given, **options):
    return evaluated(*given, **BUDGET, **options)


def attacked(journal, name):
    """(the places that a stage was given, those of them that it fooled)."""
    given = {place: verdict for (stage, place), verdict in journal.verdicts.items() if stage == name}
    return set(given), {place for place, verdict in given.items() if verdict != RIGHT}


@pytest.mark.parametrize(("name", "stages"), [(f"pgd{STEPS}-min4", RESTARTS), (UNION, PARTS)])
def test_each_attacks_what_those_before_it_left(name, stages):
    """Of misclassified images too, which may be attacked into the right class."""
    journal = Journal()
    found = run(*problem(), names=[name], journal=journal)
    standing, by = set(range(COUNT)), torch.zeros(COUNT, dtype=torch.int64)
    for i, stage in enumerate(stages):
        given, fooled = attacked(journal, stage)
        assert given == standing, stage
        standing -= fooled
        by[list(fooled)] = i
    assert found.correct[name].nonzero().flatten().tolist() == sorted(standing)
    assert torch.equal(found.decided[name], by)
    assert found.stages[name] == tuple(stages)
    assert len(by.unique()) > 2
    assert 8 < len(standing) < COUNT - 8


@pytest.mark.parametrize("order", [1, -1])
def test_columns_share_them(order):
    """And a restart alone is the column of that name: nothing that is asked for twice is computed twice."""
    names = [f"pgd{STEPS}", f"pgd{STEPS}-min2", f"pgd{STEPS}-min4", UNION, "cw2-worst", "spsa-2x1", "pgd4"][::order]
    journal = Journal()
    found = run(*problem(), names=names, journal=journal)
    assert set(journal.runs.values()) == {1}
    measured = {name for name, _ in journal.runs if not name.startswith(("class under", "margin of", "queries of"))}
    assert measured == {"clean", *RESTARTS, *PARTS, "pgd4"}
    for name in names:
        alone = run(*problem(), names=[name])
        assert torch.equal(found.correct[name], alone.correct[name]), name
        assert torch.equal(found.classes[name], alone.classes[name]), name
        assert alone.queries.keys() <= found.queries.keys()
        assert all(torch.equal(found.queries[name], queries) for name, queries in alone.queries.items())


def test_with_autoattack_among_them_what_is_misclassified_is_fooled():
    name, journal = "pgd2+apgd-ce-2", Journal()
    found = run(*problem(), names=[name], journal=journal)
    assert found.decided[name][0] == -1
    assert 0 not in attacked(journal, "pgd2")[0]


@pytest.mark.parametrize("name", [f"pgd{STEPS}-min4", f"cw{STEPS}+pgd{STEPS}-min3"])
def test_a_kill_costs_a_batch_of_a_restart(name):
    """What passes through the model between two lines of the journal: steps, the judge, classes of what is fooled."""
    model, images = problem()
    counting, lost = Counting(model), []

    class Watching(Journal):
        at = 0

        def put(self, *what):
            lost.append(counting.images - self.at)
            self.at = counting.images

    run(counting, images, names=[name], journal=Watching(), batch_size=16)
    assert len(lost) > 8
    assert max(lost[4:]) <= 16 * (STEPS + 2)  # after the clean images


def test_black_boxes_among_them_come_in_batches_of_their_own():
    sizes = []

    class Watching(Journal):
        def put(self, unit, places, found, *sums):
            sizes.append((next(iter(found)), len(places)))
            super().put(unit, places, found, *sums)

    run(*problem(), names=["pgd1+spsa-2x1"], journal=Watching(), batch_size=COUNT)
    assert ("pgd1", COUNT) in sizes
    assert max(size for name, size in sizes if name == "spsa-2x1") <= BLACK_BOX_BATCH + 1  # one that would be alone


def test_losses_are_those_of_the_column():
    alone, several = (run(*problem(), names=[name]).losses for name in (f"pgd{STEPS}", f"pgd{STEPS}-min4"))
    assert several.keys() == set(RESTARTS)
    assert torch.equal(several[f"pgd{STEPS}"], alone[f"pgd{STEPS}"])
    assert all(len(losses) == STEPS for losses in several.values())


@pytest.mark.parametrize("name", [f"pgd{STEPS}-min4", UNION, "pgd2+apgd-ce-2"])
def test_the_images_that_decided(name):
    model, images = problem()
    found = evaluate_robustness(model, images.images, images.labels, name, **BUDGET, keep_images=True, batch_size=16)
    with torch.no_grad():
        classes = model(found.images[name]).argmax(1)
    assert torch.equal(classes == images.labels, found.correct[name])
    assert torch.equal(classes, found.classes[name])
