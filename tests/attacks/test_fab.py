"""Targeted FAB against the paper written out, one image at a time, and against the library."""

import plain_fab
import pytest
import tolerances
import torch
import trained
from torch import nn

from fastait.attacks.attacked import Attacked
from fastait.attacks.fab import fab, random_start
from fastait.attacks.losses import lead, targets_of
from fastait.attacks.losses import targeted as targeted_by
from fastait.attacks.verdict import NOT_FINITE, RIGHT, WRONG
from fastait.runtime.errors import InputError

CLOSE = tolerances.ELEMENTWISE[torch.float64]
# The final search ends on the boundary but for rounding, so that its last two points can change places.
AT_THE_BOUNDARY = tolerances.REDUCTION[torch.float32]
COUNT = 32


def targeted(model, y, target):
    return targeted_by(model, y, target, lead)


def network(classes=4):
    """A small smooth one in fp64."""
    generator = torch.Generator().manual_seed(3)
    layers = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(54, classes)).double().eval()
    for parameter in layers.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.4
        parameter.requires_grad_(False)
    return layers


def problem(classes=4, count=COUNT):
    """(network, images that it tells apart, their classes, the target of each)."""
    model = network(classes)
    x = torch.rand(count, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    x = (1.4 * x - 0.2).clamp(0, 1)  # some pixels have no room
    logits = model(x)
    y = logits.argmax(1)
    return model, x, y, targets_of(logits, y, 1)[:, 0]


class Recorder:
    """An objective that keeps the points it is asked about, per image."""

    def __init__(self, objective, count):
        self.objective = objective
        self.asked, self.linearised = [[] for _ in range(count)], [[] for _ in range(count)]

    def __call__(self, images, rows):
        kept = self.linearised if torch.is_grad_enabled() else self.asked
        for row, image in zip(rows.tolist(), images.detach(), strict=True):
            kept[row].append(image.clone())
        return self.objective(images, rows)


def assert_points(ours, plain):
    assert len(ours) == len(plain)
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.parametrize(
    ("epsilon", "fallen", "random"),
    [
        pytest.param(0.055, 3, False, id="one falls when its best is clipped to the ball"),
        pytest.param(0.067, 5, False, id="two fall in the final search"),
        pytest.param(0.112, 10, False, id="some fall on the way"),
        pytest.param(0.112, 10, True, id="from elsewhere"),
    ],
)
def test_every_point_is_the_papers(epsilon, fallen, random):
    """All iterates, the points gone back to, the final search, and who is fooled by what."""
    model, x, y, target = problem(count=12)
    steps = 40
    noise = torch.rand(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    start = random_start(x, noise, 0.2) if random else None
    recorder = Recorder(targeted(model, y, target), len(x))
    found = fab(recorder, model, x, y, start, epsilon=epsilon, steps=steps)
    for row in range(len(x)):
        asked, linearised, image, fooled = plain_fab.fab(
            model, x[row], int(y[row]), int(target[row]), epsilon, steps, None if start is None else start[row]
        )
        assert_points(recorder.linearised[row], linearised)
        # Ours asks about both ends of the final search too, together with all others.
        ours = recorder.asked[row]
        assert_points(ours[: steps + 1] + ours[steps + 3 :], asked)
        assert found.verdicts[row] == (WRONG if fooled else RIGHT)
        torch.testing.assert_close(found.images[row], image, **(CLOSE if fooled else AT_THE_BOUNDARY))
    assert (found.verdicts == WRONG).sum() == fallen


def test_outcomes_do_not_depend_on_batches_or_layout():
    """Nor does what the search takes from a judge who disagrees."""
    model, x, y, target = problem()
    by = torch.linspace(-0.5, 0, COUNT, dtype=torch.float64)

    def run(rows, layout=torch.contiguous_format):
        images = x[rows].contiguous(memory_format=layout)
        assert images.is_contiguous(memory_format=layout)
        objective = shifted(model, y[rows], target[rows], by[rows])
        return fab(objective, model, images, y[rows], epsilon=0.05, steps=15)

    whole = run(torch.arange(COUNT))
    fallen = whole.verdicts == WRONG
    assert 0 < int(fallen.sum()) < COUNT

    def assert_same(found):
        assert torch.equal(found.verdicts, whole.verdicts)
        torch.testing.assert_close(found.traces, whole.traces, equal_nan=True, **CLOSE)
        torch.testing.assert_close(found.images[fallen], whole.images[fallen], **CLOSE)
        torch.testing.assert_close(found.images, whole.images, **AT_THE_BOUNDARY)

    for size in (1, 7):
        parts = [run(rows) for rows in torch.arange(COUNT).split(size)]
        assert_same(Attacked(*(torch.cat(field) for field in zip(*parts, strict=True))))
    last = run(torch.arange(COUNT), torch.channels_last)
    assert last.images.is_contiguous(memory_format=torch.channels_last)
    assert_same(last._replace(images=last.images.contiguous()))


def test_fooled_images_leave_and_each_pass_is_told():
    model, x, y, target = problem()
    recorder, told = Recorder(targeted(model, y, target), COUNT), []
    found = fab(recorder, None, x, y, epsilon=0.05, steps=15, tick=told.append)
    standing = found.verdicts == RIGHT
    passes = torch.tensor([len(points) for points in recorder.linearised])
    assert (passes[standing] == 15).all()
    assert (passes[~standing] < 15).any()
    assert torch.equal(passes, found.traces.isfinite().sum(1))
    assert told[0] == COUNT
    assert told[-1] == standing.sum()
    assert told == sorted(told, reverse=True)

    def stop(standing):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fab(targeted(model, y, target), None, x, y, epsilon=0.05, tick=stop)


def test_images_are_in_the_ball_and_the_box_as_stored():
    model, x, _, target = problem()
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        images = x.to(dtype)

        def judge(images):
            return model(images.double())

        labels = judge(images).argmax(1)
        found = fab(targeted(judge, labels, target), judge, images, labels, epsilon=0.05, steps=15)
        assert found.images.dtype == dtype
        assert found.images.amin() >= 0
        assert found.images.amax() <= 1
        slack = torch.finfo(dtype).eps
        assert (found.images.double() - images.double()).abs().max() <= 0.05 * (1 + slack) + slack / 2
        assert torch.equal(judge(found.images).argmax(1) == labels, found.verdicts == RIGHT)
        assert 0 < (found.verdicts == RIGHT).sum() < COUNT


def test_in_16_bits_the_search_is_in_32():
    model, x, _, _ = problem(count=200)
    images = x.bfloat16()

    def judge(images):
        return model(images.double())

    y = judge(images).argmax(1)
    target = targets_of(judge(images), y, 1)[:, 0]
    fallen = [
        (fab(targeted(judge, y, target), judge, given, y, epsilon=0.08, steps=10).verdicts == WRONG).sum()
        for given in (images, images.double())
    ]
    assert 0.92 * fallen[1] < fallen[0] <= fallen[1]  # 0.87 if iterates are rounded to 16 bits


@pytest.mark.parametrize("by", [(-1, -1), (-0.2, -0.2), (0.2, 0.2), (1, 1), (-0.5, 0), (0, -0.5)])
def test_the_judge_decides_where_the_objective_lies(by):
    """It takes the true class for less or more than it is, from the first image to the last; the same fall as else."""
    model, x, y, target = problem()
    honest = fab(targeted(model, y, target), None, x, y, epsilon=0.05, steps=15)
    lie = shifted(model, y, target, torch.linspace(*by, COUNT, dtype=torch.float64))
    believed = fab(lie, None, x, y, epsilon=0.05, steps=15).verdicts
    assert int((believed == WRONG).sum().sub((honest.verdicts == WRONG).sum()).sign()) == (-1 if sum(by) > 0 else 1)
    found = fab(lie, model, x, y, epsilon=0.05, steps=15)
    assert torch.equal(found.verdicts, honest.verdicts)
    assert torch.equal(model(found.images).argmax(1) != y, found.verdicts == WRONG)
    assert 0 < (found.verdicts == WRONG).sum() < COUNT


def shifted(model, y, target, by):
    """An objective whose logit of the true class is wrong by ``by``, [B]."""

    def objective(images, rows):
        logits = model(images)
        logits = logits.scatter_add(1, y[rows][:, None], by[rows][:, None])
        return logits.gather(1, target[rows][:, None])[:, 0] - logits.gather(1, y[rows][:, None])[:, 0], logits

    return objective


def test_an_image_that_is_misclassified_comes_back_as_it_is():
    model, x, y, _ = problem()
    wrong = (y + 1) % 4
    found = fab(targeted(model, wrong, y), model, x, wrong, epsilon=0.05)
    assert torch.equal(found.images, x)
    assert (found.verdicts == WRONG).all()
    assert found.traces.isnan().all()


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes(classes):
    model, x, y, _ = problem(classes)
    others = targets_of(model(x), y, classes - 1)
    if classes == 2:
        assert torch.equal(others[:, 0], 1 - y)
    fallen = torch.zeros(COUNT, dtype=torch.bool)
    for place in range(classes - 1):
        found = fab(targeted(model, y, others[:, place]), model, x, y, epsilon=0.08, steps=15)
        fallen |= found.verdicts == WRONG
    assert 0 < fallen.sum() < COUNT
    assert not len(fab(targeted(model, y[:0], y[:0]), model, x[:0], y[:0], epsilon=0.1).verdicts)


def test_a_start_is_half_of_epsilon_away():
    x = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    middle = x * 0.5 + 0.25
    uniform = torch.rand(x.shape, generator=torch.Generator().manual_seed(1))
    distance = (random_start(middle, uniform, 0.1) - middle).abs().amax((1, 2, 3))
    torch.testing.assert_close(distance, torch.full((5,), 0.05), **tolerances.ELEMENTWISE[torch.float32])
    started = random_start(x, uniform, 1.0)
    assert started.amin() >= 0
    assert started.amax() <= 1


class Scarred(torch.autograd.Function):
    """The identity, whose gradient is no number for one pixel of each image."""

    @staticmethod
    def forward(ctx, images):
        return images.clone()

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone()
        grad[:, 0, 3, 3] = torch.nan
        return grad


def test_what_is_not_finite():
    """Gradients that are no numbers move nothing, and are counted; logits that are none fool."""
    model, x, y, target = problem(count=6)
    counts = torch.zeros(3, dtype=torch.int64)
    objective = targeted(lambda images: model(Scarred.apply(images)), y, target)
    found = fab(objective, model, x, y, epsilon=0.08, steps=5, counts=counts)
    assert 0 < (found.verdicts == WRONG).sum() < 6
    torch.testing.assert_close(found.images[:, 0, 3, 3], x[:, 0, 3, 3], **CLOSE)
    iterations = int(found.traces.isfinite().sum())
    assert counts.tolist() == [
        45 * iterations,
        iterations,
        x[0].numel() * iterations,
    ]  # its stride leaves 45 pixels out

    def broken(images):
        return model(images) * torch.nan

    found = fab(targeted(broken, y, target), broken, x, y, epsilon=0.05, steps=3)
    assert (found.verdicts == NOT_FINITE).all()


def test_a_model_that_cannot_be_attacked_so_is_refused():
    model, x, y, target = problem()
    with pytest.raises(InputError, match="no gradient"):
        fab(targeted(lambda images: model(images.detach()), y, target), model, x, y, epsilon=0.05)
    with pytest.raises(ValueError, match="gives logits"):
        fab(lambda images, rows: (images.sum((1, 2, 3)), None), model, x, y, epsilon=0.05)


def test_gradients_that_fp16_carries_have_their_size():
    """They are scaled on their way against underflow; a plane needs their size."""
    model, x, y, target = problem()
    model, x = model.float(), x.float()
    plain = fab(targeted(model, y, target), model, x, y, epsilon=0.05, steps=15)
    with torch.autocast("cpu", torch.float16):
        half = fab(targeted(model, y, target), None, x, y, epsilon=0.05, steps=15)
    assert (plain.verdicts != half.verdicts).sum() <= 1
    assert 0 < (plain.verdicts == RIGHT).sum() < COUNT


def library(model, x, y, epsilon, steps, count):
    fab_pt = pytest.importorskip("pyautoattack.fab_pt")
    attack = fab_pt.FABAttack_PT(
        model, n_iter=steps, eps=epsilon, targeted=True, device=x.device, n_target_classes=count
    )
    with torch.random.fork_rng():
        images = attack.perturb(x, y)
    inside = (images - x).abs().amax((1, 2, 3)) <= epsilon
    with torch.no_grad():
        return ~((model(images).argmax(1) != y) & inside)


def cascade(model, x, y, epsilon, steps, count):
    with torch.no_grad():
        logits = model(x)
    standing = logits.argmax(1) == y
    for place in range(count):
        rows = torch.nonzero(standing).flatten()
        target = targets_of(logits, y, count)[rows, place]
        found = fab(targeted(model, y[rows], target), model, x[rows], y[rows], epsilon=epsilon, steps=steps)
        standing[rows] = found.verdicts == RIGHT
    return standing


@pytest.mark.parametrize(
    ("method", "epsilon", "count", "steps", "images"),
    [
        ("madry", 0.12, 2, 10, 24),
        pytest.param("madry", 0.12, 9, 100, 40, marks=pytest.mark.slow),
        pytest.param("natural", 0.04, 9, 100, 40, marks=pytest.mark.slow),
    ],
)
def test_it_is_as_strong_as_the_library(method, epsilon, count, steps, images):
    model = trained.model(method)
    x, y = trained.tensors(images)
    theirs = library(model, x, y, epsilon, steps, count)
    ours = cascade(model, x, y, epsilon, steps, count)
    assert ours.sum() <= theirs.sum() + 1
    assert (ours & ~theirs).sum() <= 1
    assert 0 < ours.sum() < images
