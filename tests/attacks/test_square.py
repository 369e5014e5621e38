"""Square attack against the paper's algorithm written out, and against the library."""

import plain_square
import pytest
import torch
import trained
from tolerances import BALL_FP32, ELEMENTWISE
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastait.attacks.addressed import Addressed
from fastait.attacks.square import margin, side, square
from fastait.attacks.verdict import NOT_FINITE, RIGHT, WRONG

EPSILON, SEED, FIRST = 0.06, 11, 400
CLOSE = ELEMENTWISE[torch.float64]


def smooth(size=(6, 5), channels=3, classes=10):
    """A small smooth network in fp64 on images of ``size``."""
    torch.manual_seed(0)
    features = channels * size[0] * size[1]
    return nn.Sequential(nn.Flatten(), nn.Linear(features, 16), nn.Tanh(), nn.Linear(16, classes)).double().eval()


def images(count=12, size=(6, 5), channels=3):
    """Some with pixels at 0 and at 1, where the ball is cut."""
    x = torch.rand(count, channels, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return (1.2 * x - 0.1).clamp(0, 1)


@pytest.fixture(scope="module")
def model():
    return smooth()


@pytest.fixture(scope="module")
def batch(model):
    x = images(32)
    with torch.no_grad():
        return x, model(x).argmax(1)


def attack(model, x, y, queries=200, places=None, judge=None, epsilon=EPSILON, **options):
    places = torch.arange(FIRST, FIRST + len(x)) if places is None else places
    return square(model, judge, x, y, Addressed(SEED, places), epsilon=epsilon, queries=queries, **options)


class Recorded:
    """Keeps the images that are scored."""

    def __init__(self, model):
        self.model, self.seen = model, []

    def __call__(self, x):
        self.seen.append(x.clone())
        return self.model(x)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(6, 5), (4, 9), (7, 7)])
def test_every_query_is_the_papers(size, channels):
    """The images scored, in their order; what would change nothing is left out or scored as it is."""
    model, x = smooth(size, channels), images(6, size, channels)
    y = model(x).argmax(1)
    fooled_ones = idle_ones = 0
    for row in range(len(x)):
        scores = Recorded(model)
        part = slice(row, row + 1)
        (moved, verdicts, _), used = attack(scores, x[part], y[part], places=torch.tensor([FIRST + row]))
        image, fooled, made, tried = plain_square.attack(model, x[row], int(y[row]), SEED, FIRST + row, EPSILON, 200)
        torch.testing.assert_close(moved[0], image, **CLOSE)
        assert bool(verdicts != RIGHT) == fooled
        assert int(used) == made == len(tried) + 1
        rest = [seen[0] for seen in scores.seen[1:]]
        for candidate, best in tried:
            if torch.allclose(candidate, best, **CLOSE):
                idle_ones += 1
                continue
            while not torch.allclose(rest[0], candidate, **CLOSE):
                torch.testing.assert_close(rest.pop(0), best, **CLOSE)
            torch.testing.assert_close(rest.pop(0), candidate, **CLOSE)
        assert all(torch.allclose(seen, tried[-1][1], **CLOSE) for seen in rest)
        fooled_ones += fooled
    assert idle_ones
    assert 0 < fooled_ones < len(x)


def test_a_batch_is_its_images(model, batch):
    x, y = batch
    (moved, verdicts, traces), used = attack(model, x, y)
    assert traces is None
    assert used.dtype == torch.int64
    assert len(used.unique()) > 5, "images leave at many times"
    for row in range(len(x)):
        image, fooled, made, _ = plain_square.attack(model, x[row], int(y[row]), SEED, FIRST + row, EPSILON, 200)
        torch.testing.assert_close(moved[row], image, **CLOSE)
        assert (int(verdicts[row]) == WRONG, int(used[row])) == (fooled, made)


@pytest.mark.parametrize("size", [1, 7])
def test_batches_do_not_matter(model, batch, size):
    x, y = batch
    (moved, verdicts, _), used = attack(model, x, y)
    for first in range(0, len(x), size):
        part = slice(first, first + size)
        places = torch.arange(FIRST, FIRST + len(x))[part]
        (images, some, _), made = attack(model, x[part], y[part], places=places)
        assert torch.equal(images, moved[part])
        assert torch.equal(some, verdicts[part])
        assert torch.equal(made, used[part])


def test_layouts_do_not_matter(model, batch):
    x, y = batch
    (moved, verdicts, _), used = attack(model, x, y)
    scores = Recorded(model)
    (images, some, _), made = attack(scores, x.contiguous(memory_format=torch.channels_last), y)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert all(seen.is_contiguous(memory_format=torch.channels_last) for seen in scores.seen)
    assert torch.equal(images, moved)
    assert torch.equal(some, verdicts)
    assert torch.equal(made, used)


@pytest.mark.parametrize(("dtype", "slack"), [(torch.float32, BALL_FP32), (torch.float16, 0.0)])
def test_images_stay_in_the_ball_and_fool_as_they_are(model, batch, dtype, slack):
    x, y = batch[0].to(dtype), batch[1]
    before = x.clone()

    def scores(images):
        return model(images.double())

    (moved, verdicts, _), _ = attack(scores, x, y, epsilon=0.05)
    assert torch.equal(x, before)
    assert moved.dtype == dtype
    assert (moved.double() - x.double()).abs().max() <= 0.05 + slack
    assert moved.min() >= 0
    assert moved.max() <= 1
    with torch.no_grad():
        assert torch.equal(scores(moved).argmax(1) != y, verdicts == WRONG)


def test_what_the_judge_does_not_see_is_not_fooled(model, batch):
    """Scores that say of every image that it fools, and are right in which is better."""
    x, y = batch

    def lying(images):
        logits = model(images)
        return logits.scatter_add(1, y_of(images)[:, None], torch.full((len(images), 1), -100.0).double())

    def y_of(images):
        return y[((images[:, None] - x[None]).abs().flatten(2).amax(2)).argmin(1)]

    asked = Recorded(model)
    (moved, verdicts, _), used = attack(lying, x, y, judge=asked)
    honest, made = attack(model, x, y)
    assert torch.equal(moved, honest.images)
    assert torch.equal(verdicts, honest.verdicts)
    assert torch.equal(used, made)
    assert sum(map(len, asked.seen)) > 1000


def test_the_judge_is_asked_only_where_scores_are_fooled(model, batch):
    x, y = batch
    right = nn.functional.one_hot(y, 10).double()

    def proud(images):
        return right[: len(images)]

    (_, verdicts, _), used = attack(proud, x[:1], y[:1], judge=None)
    assert (int(verdicts), int(used)) == (RIGHT, 201)
    asked = Recorded(model)
    attack(proud, x[:1], y[:1], judge=asked)
    assert asked.seen == []
    attack(model, x, y, judge=asked)
    _, verdicts, _ = attack(model, x, y)[0]
    assert sum(map(len, asked.seen)) == int((verdicts == WRONG).sum())


def test_no_number_is_fooled_only_if_the_judge_says_so(model, batch):
    x, y = batch

    def broken(images):
        return torch.full((len(images), 10), torch.nan).double()

    (_, verdicts, _), used = attack(broken, x, y)
    assert verdicts.unique().tolist() == [NOT_FINITE]
    assert used.unique().tolist() == [1]
    passes = iter(range(1000))

    def at_first(images):
        logits = model(images)
        return logits.index_fill(1, torch.tensor([0]), torch.inf) if next(passes) < 1 else logits

    scores = Recorded(at_first)
    (moved, verdicts, _), _ = attack(scores, x, y, judge=model)
    assert NOT_FINITE not in verdicts
    assert (verdicts == WRONG).sum() > 5
    with torch.no_grad():
        assert torch.equal(model(moved).argmax(1) != y, verdicts == WRONG)
    withstand = verdicts == RIGHT
    assert withstand.any()
    assert (moved != scores.seen[0])[withstand].flatten(1).any(1).all(), "a broken start is left behind"


def test_two_classes_and_too_few():
    x = images(8)
    two = smooth(classes=2)
    y = two(x).argmax(1)
    (_, verdicts, _), _ = attack(two, x, y, epsilon=0.3)
    assert (verdicts == WRONG).any()
    with pytest.raises(ValueError, match="at least two classes, got 1"):
        attack(smooth(classes=1), x, y)


def test_margin_in_half_precision_is_not_rounded_to_it():
    logits = torch.tensor([[60.0, 0.01, 0.02]]).half()
    assert float(margin(logits, torch.tensor([0]))) == float(logits[0, 0]) - float(logits[0, 2])


def test_nothing_to_attack_costs_nothing(model):
    scores = Recorded(model)
    (moved, verdicts, _), used = attack(scores, images(0), torch.zeros(0, dtype=torch.int64))
    assert len(moved) == len(verdicts) == len(used) == len(scores.seen) == 0


def test_a_query_that_changes_nothing_costs_no_pass(model, batch):
    """In one channel half of the small squares are what is there already."""
    right = torch.zeros(1, 10).double().index_fill_(1, torch.tensor([3]), 9.0)
    scores = Recorded(lambda x: right + 0 * x.sum())
    y = torch.tensor([3])
    _, used = attack(scores, images(1, channels=1), y, queries=500)
    assert int(used) == 501
    assert len(scores.seen) < 0.9 * 500


def test_ticks_and_stops(model, batch):
    x, y = batch
    standing = []
    scores = Recorded(model)
    attacked, _ = attack(scores, x, y, tick=standing.append)
    assert len(standing) == len(scores.seen)
    withstand = int((attacked.verdicts == RIGHT).sum())
    assert standing[-1] == withstand > 0
    done = [stand - len(seen) for stand, seen in zip(standing, [*scores.seen[1:], ()], strict=True)]
    assert done[0] == 0  # they stand and have no more queries
    assert done == sorted(done)

    class Stop(Exception):
        pass

    def stop(count):
        if count < 30:
            raise Stop

    with pytest.raises(Stop):
        attack(model, x, y, tick=stop)


def test_a_pass_waits_once_for_the_device(batch):
    """Reading a value or finding a mask's places does; nothing else is done while nobody is fooled."""
    x, y = batch
    right = nn.functional.one_hot(y, 10).double()
    waits, passes = [], []

    class Counted(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = func.name()
            masks = name == "aten::index.Tensor" and any(m is not None and m.dtype == torch.bool for m in args[1])
            if masks or name in {"aten::_local_scalar_dense", "aten::nonzero"}:
                waits.append(len(passes))
            return func(*args, **(kwargs or {}))

    with Counted():
        attack(lambda images: right[: len(images)], x, y, queries=200, tick=passes.append)
    assert len(passes) > 150
    assert [waits.count(number) for number in range(1, 150)] == [1] * 149


def test_the_schedule():
    """AutoAttack's sides for 32x32 pixels and 5,000 queries, and where they change."""
    sides = [side(query, 5000, 32, 32) for query in range(1, 5001)]
    assert [(query + 1, sides[query]) for query in range(5000) if query == 0 or sides[query] != sides[query - 1]] == [
        (1, 29),
        (7, 20),
        (27, 14),
        (102, 10),
        (252, 7),
        (502, 5),
        (1002, 4),
        (2002, 3),
        (3002, 2),
        (4002, 1),
    ]
    assert side(1, 10, 4, 100) == 4


@pytest.mark.parametrize("size", [(3, 4), (6, 6)])
def test_squares_reach_every_edge(size):
    seen = Recorded(lambda x: torch.tensor([[9.0, 0.0]]).double().expand(len(x), 2))
    attack(seen, images(1, size, channels=1), torch.tensor([0]), queries=600)
    assert torch.stack([(x != seen.seen[0])[0, 0] for x in seen.seen]).any(0).all()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["natural", "madry"])
def test_as_strong_as_the_library(method):
    """Robust count at most one above the library's, each from its own random numbers."""
    pyautoattack = pytest.importorskip("pyautoattack.square")
    network, epsilon = trained.model(method), {"natural": 20 / 255, "madry": 40 / 255}[method]
    x, y = trained.tensors(100)
    with torch.no_grad():
        kept = network(x).argmax(1) == y
        x, y = x[kept], y[kept]
        theirs = pyautoattack.SquareAttack(network, norm="Linf", n_queries=300, eps=epsilon, seed=0, device="cpu")
        robust = (network(theirs.perturb(x.contiguous(), y)).argmax(1) == y).sum()
        (moved, verdicts, _), _ = attack(network, x, y, queries=300, epsilon=epsilon)
        assert torch.equal(network(moved).argmax(1) == y, verdicts == RIGHT)
    assert 5 < robust < len(x)
    assert (verdicts == RIGHT).sum() <= robust + 1
