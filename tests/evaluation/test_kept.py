"""Adversarial images that are kept decide as the table says."""

from pathlib import Path

import pytest
import small
import torch

from fastait import evaluate_robustness
from fastait.attacks import ATTACKS
from fastait.attacks.stages import Stage
from fastait.data import FloatSet
from fastait.evaluation import evaluate
from fastait.evaluation.journal import FileJournal
from fastait.evaluation.kept import InFolder, composed, extremes
from fastait.evaluation.known import Known
from fastait.evaluation.outcomes import Outcomes, class_under
from fastait.evaluation.staged import attack_in_stages, decided_by

EPSILON = 2 / 255
NAMES = [
    *("fgsm", "pgd3", "pgd5", "cw3-worst", "pgd3-best", "pgd2-min3", "feature2", "eot2-pgd2", "transfer-pgd2"),
    *("spsa-2x3", "local-search-3", "local-search-linf-3", "apgd-ce-3", "apgd-t-2", "fab-t-3", "square-20"),
    *("pgd1+apgd-ce-2+square-9",),
]


def model(dtype=torch.float64):
    return small.new().to(dtype)


def given(count=24):
    x, y = small.images(count)
    y[::5] = (y[::5] + 1) % 10  # some that are misclassified as they are
    return x.double(), y


@pytest.fixture(scope="module")
def found():
    x, y = given()
    torch.manual_seed(2)
    other = small.Classifier().double().eval()
    options = {"epsilon": EPSILON, "batch_size": 7, "surrogate": other}
    return evaluate_robustness(model(), x, y, NAMES, **options, keep_images=True)


@pytest.mark.parametrize("name", NAMES)
def test_scored_again_they_give_the_outcomes(found, name):
    x, y = given()
    images = found.images[name]
    assert (images.shape, images.dtype, images.device.type) == (x.shape, x.dtype, "cpu")
    predicted = model()(images).argmax(1)
    assert torch.equal(predicted == y, found.correct[name])
    assert torch.equal(predicted, found.classes[name])
    assert 0 <= images.min() <= images.max() <= 1
    if name != "local-search-3":
        assert (images - x).abs().max() <= EPSILON + 1e-12
    changed = (images != x).flatten(1).any(1)
    assert changed[found.correct[name]].any() or not found.correct[name].any() or "search" in name


def test_they_are_those_of_the_attack(found):
    """Also of images that withstand, but for AutoAttack's parts, of which the first target's are kept."""
    x, y = given()
    one_by_one = {"pgd3-zero", "pgd2-zero-worst"}
    again = evaluate_robustness(model(), x, y, one_by_one, epsilon=EPSILON, batch_size=7, keep_images=True)
    for name in one_by_one:
        assert torch.equal(again.images[name], ATTACKS[name](model(), x, y, epsilon=EPSILON)), name


def test_none_unless_asked_for():
    x, y = given(4)
    assert evaluate_robustness(model(), x, y, "fgsm").images == {}


def kept(few=None, seed=0, rank=0):
    return InFolder(Path("out"), rank, {"model": "m", "seed": seed}, few)


def measured(names, few=None, model=None, **options):
    x, y = given()
    images, journal, store = FloatSet(x, y), FileJournal(Path("out")), kept(few)
    options = {"epsilon": EPSILON, "batch_size": 5, "journal": journal, "kept": store, **options}
    try:
        outcomes = evaluate(model or small.new().double(), images, names, **options)
    finally:
        journal.close()
    return outcomes, {name: composed(name, outcomes, store.get, torch.arange(24), x) for name in names}


def test_images_are_kept_before_the_journal_knows_their_batch(monkeypatch):
    """A kill between the two costs the batch, and no image that is to be shown."""

    def killed(self, found):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(InFolder, "put", killed)
        with pytest.raises(KeyboardInterrupt):
            measured(["pgd3"], few=24)
    found, _ = measured(["pgd3"], few=24)
    here = kept(few=24).places()["pgd3"]
    assert sorted(here.tolist()) == torch.nonzero(found.correct["clean"]).flatten().tolist()


class Counting(small.Classifier):
    images = 0

    def features(self, x):
        self.images += len(x)
        return super().features(x)


def test_what_is_known_without_its_image_is_found_again():
    """A journal that was written without images says nothing where all of them are asked for; one with them does."""
    names = ["pgd3", "apgd-t-2", "spsa-2x2"]
    plain, _ = measured(names, few=3)
    fresh = small.new(Counting).double()
    full, images = measured(names, model=fresh)
    _, y = given()
    for name in names:
        assert torch.equal(full.correct[name], plain.correct[name])
        assert torch.equal(model()(images[name]).argmax(1) == y, full.correct[name])
    again = small.new(Counting).double()
    _, same = measured(names, model=again)
    assert again.images < 20 < fresh.images  # its probes
    assert all(torch.equal(images[name], same[name]) for name in names)


def test_a_damaged_file_is_found_again():
    _, images = measured(["pgd3"])
    path = sorted(Path("out/adversarial").iterdir())[1]
    path.write_bytes(path.read_bytes()[:-5])
    assert kept().places()["pgd3"].tolist() == [*range(5), *range(10, 24)]
    _, again = measured(["pgd3"])
    assert torch.equal(again["pgd3"], images["pgd3"])


def test_of_several_stages_the_one_that_decided():
    """Also where a column beside it had an image attacked by a stage that this one had no need of."""
    images = {"s": ([1, 2, 3], 1.0), "t": ([1, 2], 2.0)}
    decided = {"a": torch.tensor([-1, 0, 1, 0])}
    outcomes = Outcomes({"a": torch.zeros(4)}, stages={"a": ("s", "t")}, decided=decided)

    def get(name):
        places, value = images[name]
        return torch.tensor(places), torch.full((len(places), 1, 1, 1), value)

    def found(*places):
        clean = torch.zeros(len(places), 1, 1, 1)
        return composed("a", outcomes, get, torch.tensor(places), clean).flatten().tolist()

    assert found(0, 1, 2, 3) == [0, 1, 2, 1]
    assert found(2, 0) == [2, 0]


@pytest.mark.parametrize("from_clean", [True, False])
def test_which_stage_decided(from_clean):
    own = torch.arange(4)
    stages = [Stage("apgd-ce", 1), Stage("square", 9)]
    names = [s.name for s in stages]
    columns = ("clean", "a", *names, *map(class_under, ("clean", "a", *names)), decided_by("a"))
    known = Known(columns, own, 4)
    known.add([0, 1, 2, 3], {"clean": [0, 1, 1, 1], class_under("clean"): [5, 6, 7, 8]})
    asked = []

    def over(i, places, standing):
        asked.append((i, places.tolist(), standing))
        fooled = {0: [1], 1: [3]}[i]
        verdicts = [int(place not in fooled) for place in places.tolist()]
        known.add(places.tolist(), {names[i]: verdicts, class_under(names[i]): [i] * len(places)})
        yield

    advanced = []
    attack_in_stages("a", stages, from_clean, known, over, advanced.append)
    also = [] if from_clean else [0]
    assert asked == [(0, [*also, 1, 2, 3], 3 + len(also)), (1, [*also, 2, 3], 2 + len(also))]
    assert known.of("a").tolist() == [len(also), 0, 1, 0]
    assert known.of(decided_by("a")).tolist() == [0 if also else -1, 0, 0, 1]
    assert known.of(class_under("a")).tolist() == [1 if also else 5, 0, 1, 1]
    assert sum(advanced) == 4


def test_the_most_and_the_least_easily_fooled():
    margins = torch.tensor([5, -1, 3, 9, 0, 7, 1])
    assert [places.tolist() for places in extremes(margins, 2)] == [[6, 2], [5, 3]]
    assert [places.tolist() for places in extremes(margins, 4)] == [[6, 2, 0, 5], [3]]
    assert [places.tolist() for places in extremes(margins, 9)] == [[6, 2, 0, 5, 3], []]


def test_few_of_them_by_the_margin():
    outcomes, _ = measured(["pgd3", "apgd-ce-2"], few=2)
    most, least = extremes(outcomes.margins["clean"], 2)
    assert sorted(kept().places()["pgd3"].tolist()) == sorted([*most.tolist(), *least.tolist()])
    x, y = given()
    logits = model()(x)
    true = logits.gather(1, y[:, None])[:, 0]
    margins = true - logits.scatter(1, y[:, None], -torch.inf).amax(1)
    assert torch.allclose(outcomes.margins["clean"].double() * 1e-4, margins, atol=1e-4)


def test_files_of_other_settings_and_processes():
    kept(seed=1).put({"a": (torch.tensor([1]), torch.ones(1, 3, 2, 2))})
    kept(rank=1).put({"a": (torch.tensor([0, 4]), torch.zeros(2, 3, 2, 2))})
    kept().put({"a": (torch.tensor([4, 2]), torch.ones(2, 3, 2, 2)), "b": (torch.tensor([], dtype=torch.int64), None)})
    assert sorted(kept().places()["a"].tolist()) == [0, 2, 4, 4]
    assert "b" not in kept().places()
    assert kept(seed=1).places()["a"].tolist() == [1]
    places, images = kept().get("a")
    assert len(places) == len(images) == 4
    assert kept().get("c")[0].tolist() == []
