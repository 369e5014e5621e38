"""APGD against the paper's algorithm written out, whoever is in the batch, whatever the objective says of itself."""

import plain_apgd as plain
import pytest
import small
import torch
from tolerances import ELEMENTWISE, REDUCTION
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastait.attacks import NOT_FINITE, RIGHT, WRONG, classification, cross_entropy, verdict
from fastait.attacks.apgd import apgd, checkpoints
from fastait.attacks.losses import dlr, lead, targeted, targeted_dlr, targets_of
from fastait.runtime.errors import InputError

EPSILON = 8 / 255
EXACT = ELEMENTWISE[torch.float64]
AS_WELL = REDUCTION[torch.float64]
"""Near a corner of the ball the losses of two iterates may be one but for rounding: either is the best."""


class Smooth(nn.Module):
    """As ``small.Classifier``, without corners."""

    def __init__(self, classes=10):
        super().__init__()
        self.c, self.f = nn.Conv2d(3, 6, 3, 2, 1), nn.Linear(384, classes)

    def forward(self, x):
        return self.f((3 * self.c(x)).sin().flatten(1))


@pytest.fixture(scope="module")
def model():
    return small.new(Smooth).double().requires_grad_(False)


@pytest.fixture(scope="module")
def batch(model):
    """(images, the classes that the model gives them, starts)."""
    x = torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return x, model(x).argmax(1), x + EPSILON * (2 * noise - 1)


class Watch:
    """An objective that keeps the iterates of each image, and that may say that none fools."""

    def __init__(self, objective, y=None):
        self.objective, self.y, self.iterates = objective, y, {}

    def __call__(self, images, rows):
        for row, image in zip(rows.tolist(), images.detach(), strict=True):
            self.iterates.setdefault(row, []).append(image.clone())
        losses, logits = self.objective(images, rows)
        if self.y is not None:
            logits = nn.functional.one_hot(self.y[rows], 10).to(images.dtype)
        return losses, logits


def objectives(model, y, targets):
    return {
        "cross-entropy": (classification(model, y, cross_entropy), plain.cross_entropy),
        "dlr": (classification(model, y, dlr), plain.dlr),
        "targeted": (targeted(model, y, targets, targeted_dlr), plain.targeted_dlr),
    }


@pytest.mark.parametrize("loss", ["cross-entropy", "dlr", "targeted"])
@pytest.mark.parametrize("steps", [100, 7])
def test_every_iterate_is_the_papers(model, batch, loss, steps):
    x, y, start = (t[:4] for t in batch)
    targets = targets_of(model(x), y, 3)[:, 2]
    objective, written = objectives(model, y, targets)[loss]
    watch = Watch(objective, y)  # nobody leaves
    found = apgd(watch, None, x, y, start, epsilon=EPSILON, steps=steps)
    for i in range(len(x)):
        more = (targets[i],) if loss == "targeted" else ()
        iterates, losses, halved, best = plain.apgd(
            lambda z, i=i, more=more: written(model(z[None])[0], y[i], *more), x[i], start[i], EPSILON, steps
        )
        torch.testing.assert_close(torch.stack(watch.iterates[i]), torch.stack(iterates), **EXACT)
        torch.testing.assert_close(found.traces[i], torch.tensor(losses, dtype=torch.float64), **EXACT)
        torch.testing.assert_close(found.images[i], best, **EXACT)
        assert steps < 100 or len(halved) > 2
    assert found.verdicts.eq(RIGHT).all()


def test_each_image_halves_by_its_own_losses():
    """Losses as told, so that every course is run: few rises and many, just three of four, a best that stays."""
    count, steps, draw = 40, 100, torch.Generator().manual_seed(3)
    x = torch.rand(count, 1, 2, 2, generator=draw, dtype=torch.float64)
    start = x + EPSILON * (2 * torch.rand(x.shape, generator=draw, dtype=torch.float64) - 1)
    ways = torch.randn(count, steps + 1, 1, 2, 2, generator=draw, dtype=torch.float64)
    chances = torch.linspace(0.65, 0.95, count)[:, None]
    told = torch.where(torch.rand(count, steps + 1, generator=draw) < chances, 1.0, -4.0).cumsum(1).double()
    told[::4, 30:] = told[::4, 30:] - 1000  # nothing is as high again, however it rises
    step = iter(range(steps + 1))

    def objective(images, rows):
        at = next(step)
        linear = (images * ways[rows, at]).sum((1, 2, 3))
        return linear - linear.detach() + told[rows, at], torch.eye(2, dtype=x.dtype)[torch.zeros_like(rows)]

    watch = Watch(objective)
    found = apgd(watch, None, x, torch.zeros(count, dtype=torch.int64), start, epsilon=EPSILON, steps=steps)
    courses = set()
    for i in range(count):
        looks = iter(zip(ways[i], told[i], strict=True))

        def loss(z, looks=looks):
            way, value = next(looks)
            linear = (z * way).sum()
            return linear - linear.detach() + value

        iterates, losses, halved, best = plain.apgd(loss, x[i], start[i], EPSILON, steps)
        torch.testing.assert_close(torch.stack(watch.iterates[i]), torch.stack(iterates), **EXACT)
        assert torch.equal(found.traces[i], torch.tensor(losses, dtype=torch.float64))
        torch.testing.assert_close(found.images[i], best, **EXACT)
        courses.add(tuple(halved))
    assert len(courses) > 20


def test_checkpoints_are_the_papers():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    for steps in range(1, 300):
        assert checkpoints(steps) == sorted({w for w in plain.checkpoints(steps) if 0 < w < steps})


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_losses_and_targets(classes):
    draw = torch.Generator().manual_seed(classes)
    logits = 5 * torch.randn(30, classes, generator=draw, dtype=torch.float64)
    y = torch.randint(classes, (30,), generator=draw)
    rows = list(zip(logits, y, strict=True))
    if classes < 3:
        with pytest.raises(ValueError, match="dlr needs logits of at least 3 classes, got 2"):
            dlr(logits, y)
    else:
        expected = torch.stack([plain.dlr(*row) for row in rows])
        torch.testing.assert_close(dlr(logits, y), expected, **EXACT)
        assert torch.equal(dlr(logits, y) > 0, logits.argmax(1) != y)
    targets = targets_of(logits, y, classes - 1)
    for row, label, found in zip(logits, y, targets, strict=True):
        order = sorted(range(classes), key=lambda i: -row[i].item())
        assert found.tolist() == [i for i in order if i != label]
    assert torch.equal(targets_of(logits, y, 1), targets[:, :1])
    for count in (0, classes):
        with pytest.raises(
            ValueError, match=rf"of {classes} classes there are 1 to {classes - 1} targets, got {count}"
        ):
            targets_of(logits, y, count)
    if classes < 4:
        with pytest.raises(ValueError, match=f"targeted_dlr needs logits of at least 4 classes, got {classes}"):
            targeted_dlr(logits, y, targets[:, 0])
    else:
        expected = torch.stack([plain.targeted_dlr(*row, t) for row, t in zip(rows, targets[:, 1], strict=True)])
        torch.testing.assert_close(targeted_dlr(logits, y, targets[:, 1]), expected, **EXACT)
    expected = torch.stack([row[t] - row[label] for row, label, t in zip(logits, y, targets[:, -1], strict=True)])
    torch.testing.assert_close(lead(logits, y, targets[:, -1]), expected, **EXACT)


def test_equal_logits_are_no_nan_and_equal_targets_come_in_order():
    logits, y = torch.ones(2, 5, requires_grad=True), torch.tensor([0, 2])
    assert dlr(logits.half(), y).dtype == torch.float32
    for losses in (dlr(logits, y), targeted_dlr(logits, y, (y + 1) % 5)):
        assert torch.autograd.grad(losses.sum(), logits, retain_graph=True)[0].isfinite().all()
        assert losses.eq(0).all()
    assert targets_of(logits, y, 4).tolist() == [[1, 2, 3, 4], [0, 1, 3, 4]]
    assert targets_of(torch.full((2, 4), -torch.inf), y, 3).tolist() == [[1, 2, 3], [0, 1, 3]]


def test_a_target_stays_with_its_image(model, batch):
    x, y, _ = batch
    targets, rows = targets_of(model(x), y, 1)[:, 0], torch.tensor([7, 3, 20])
    losses, logits = targeted(model, y, targets, targeted_dlr)(x[rows], rows)
    torch.testing.assert_close(losses, targeted_dlr(model(x), y, targets)[rows], **EXACT)
    torch.testing.assert_close(logits, model(x[rows]), **EXACT)


def fixed(model, batch, loss=dlr, epsilon=EPSILON, steps=30, judge=None, **options):
    x, y, start = batch
    return apgd(classification(model, y, loss), judge, x, y, start, epsilon=epsilon, steps=steps, **options)


NARROW = 0.02
"""A ball in which some are fooled at once, some late and some never."""


def test_same_in_any_company_and_layout(model, batch):
    """Where images are said to fool at all steps of a whole schedule, and some at none."""
    x, y, start = (t[:24] for t in batch)
    falls = torch.randint(75, (24,), generator=torch.Generator().manual_seed(5))
    formats = []

    def run(x, y, start, falls):
        step = iter(range(51))

        def objective(images, rows):
            formats.append(images.is_contiguous(memory_format=torch.channels_last))
            said = y[rows] + (falls[rows] <= next(step)).long()
            return dlr(model(images), y[rows]), nn.functional.one_hot(said, 11).double()

        return apgd(objective, None, x, y, start, epsilon=EPSILON, steps=50)

    whole = run(x, y, start, falls)
    assert torch.equal(whole.verdicts == RIGHT, falls > 50)
    assert torch.equal(whole.traces.isfinite().sum(1), (falls + 1).clamp(max=51))
    for size in (1, 7):
        parts = [run(*(t[i : i + size] for t in (x, y, start, falls))) for i in range(0, 24, size)]
        for name in whole._fields:
            together = torch.cat([getattr(part, name) for part in parts])
            torch.testing.assert_close(together, getattr(whole, name), **AS_WELL, equal_nan=True)
    assert not any(formats)
    formats.clear()
    last = x.contiguous(memory_format=torch.channels_last)
    laid_out = run(last, y, start, falls)
    for ours, expected in zip(laid_out, whole, strict=True):
        torch.testing.assert_close(ours, expected, **AS_WELL, equal_nan=True)
    assert all(formats)
    assert laid_out.images.stride() == last.stride()


def test_images_that_fool_leave_with_what_fools(model, batch):
    x, y, start = batch
    numbers, ticks = [], []

    def counting(images):
        numbers.append(len(images))
        return model(images)

    found = fixed(counting, batch, epsilon=NARROW, tick=ticks.append)
    assert numbers[1:] == ticks[:-1]
    assert len(ticks) == 31
    assert ticks == sorted(ticks, reverse=True)
    assert torch.equal(found.verdicts, verdict(model(found.images), y))
    assert (found.images - x).abs().max() <= NARROW + 1e-15
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    fell = found.verdicts != RIGHT
    last = found.traces.nan_to_num(-torch.inf)[fell].argmax(1)
    assert torch.equal(found.traces[fell].isfinite().sum(1), last + 1), "dlr is first positive where they fall"
    standing = found.traces[~fell]
    torch.testing.assert_close(dlr(model(found.images), y)[~fell], standing.max(1).values, **EXACT)
    everything = fixed(model, (x, (y + 1) % 10, start), tick=ticks.append)
    assert everything.verdicts.eq(WRONG).all()
    assert ticks[31:] == [0]


def test_the_judge_has_the_last_word(model, batch):
    x, y, _ = batch
    honest = fixed(model, batch, epsilon=NARROW, judge=model)
    plainly = fixed(model, batch, epsilon=NARROW)
    for a, b in zip(honest, plainly, strict=True):
        torch.testing.assert_close(a, b, **EXACT, equal_nan=True)

    def lying(logits):
        def objective(images, rows):
            return dlr(model(images), y[rows]), logits(rows)

        start = batch[2]
        return apgd(objective, model, x, y, start, epsilon=NARROW, steps=30)

    boastful = lying(lambda rows: nn.functional.one_hot((y[rows] + 1) % 10, 10).double())
    broken = lying(lambda rows: torch.full((len(rows), 10), torch.nan))
    silent = lying(lambda rows: None)
    for found in (boastful, broken, silent):
        for a, b in zip(found, honest, strict=True):
            torch.testing.assert_close(a, b, **EXACT, equal_nan=True)
    modest = lying(lambda rows: nn.functional.one_hot(y[rows], 10).double())
    assert torch.equal(modest.verdicts, verdict(model(modest.images), y)), "seen at the end"
    assert modest.traces.isfinite().all()
    assert modest.verdicts.eq(WRONG).any()


def test_no_logits_and_no_judge(model, batch):
    x, y, start = batch
    with pytest.raises(ValueError, match="the objective gives no logits: a judge must say who is fooled"):
        apgd(lambda images, rows: (images.sum((1, 2, 3)), None), None, x, y, start, epsilon=EPSILON, steps=2)
    with pytest.raises(InputError, match="no gradient reaches the images"):
        fixed(lambda images: model(images.detach()), batch)


def test_what_is_not_finite(batch):
    """NaN logits fool; NaN gradients move nothing, and are counted."""
    x, y, start = (t[:6] for t in batch)
    right = nn.functional.one_hot(y, 10).double()
    counts = torch.zeros(3, dtype=torch.int64)

    def objective(images, rows):
        logits = right[rows].clone()
        logits[rows == 2] = torch.nan
        return (images - images.detach())[:, :, 8:].abs().sqrt().sum((1, 2, 3)), logits  # 0 * inf

    found = apgd(objective, None, x, y, start, epsilon=EPSILON, steps=3, counts=counts)
    assert found.verdicts.tolist() == [RIGHT, RIGHT, NOT_FINITE, RIGHT, RIGHT, RIGHT]
    assert counts.tolist() == [3 * 5 * 384, 3 * 5 * 384, 3 * 5 * 768]
    inside = torch.min(torch.max(start, x - EPSILON), x + EPSILON).clamp(0, 1)
    assert torch.equal(found.images, inside)


def test_losses_that_are_nan_pass():
    """In half precision an objective may overflow at the start, where the judge sees nothing wrong."""
    x, y = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
    step = iter(range(10))

    def objective(images, rows):
        value = images.sum((1, 2, 3))
        return value * (torch.nan if next(step) == 0 else 1), torch.tensor([[1.0, 0.0]])

    found = apgd(objective, None, x, y, x, epsilon=0.1, steps=4)
    assert found.traces[0, 1:].isfinite().all()
    assert found.images.mean() > 0.5
    assert found.verdicts.tolist() == [RIGHT]


def test_averaged_gradients(model, batch):
    """Of a random model each step takes the mean of so many draws: here of noise that comes round."""
    x, y, start = (t[:5] for t in batch)
    noise = 0.2 * torch.randn(4, *x.shape[1:], generator=torch.Generator().manual_seed(4), dtype=x.dtype)
    passes = iter(range(1000))

    def random(images, rows):
        logits = model(images + noise[next(passes) % 4])
        return cross_entropy(logits, y[rows]), logits

    def mean(images, rows):
        logits = [model(images + one) for one in noise]
        return sum(cross_entropy(draw, y[rows]) for draw in logits) / 4, logits[-1]

    options = {"epsilon": NARROW, "steps": 12}
    found, expected = (
        apgd(random, None, x, y, start, averaged=4, **options),
        apgd(mean, None, x, y, start, **options),
    )
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT, equal_nan=True)


class Waits(TorchDispatchMode):
    """Counts what would wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.count += name in ("_local_scalar_dense", "nonzero", "is_nonzero", "item", "masked_select")
        indices = args[1] if name in ("index", "index_put_", "index_put", "_index_put_impl_") else ()
        self.count += any(i is not None and i.dtype == torch.bool for i in indices)
        return func(*args, **(kwargs or {}))


def test_an_iteration_waits_once(model, batch):
    ticks = []
    with Waits() as waits:
        fixed(model, batch, epsilon=NARROW, tick=ticks.append)
    assert waits.count == 31, "also where images leave"
    assert ticks[-1] < ticks[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_the_ball_as_stored(dtype):
    model = small.new(Smooth).to(dtype).requires_grad_(False)
    x = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    y = model(x).argmax(1)
    found = fixed(model, (x, y, x), steps=10)
    assert found.images.dtype == dtype
    assert found.traces.dtype == torch.float32
    assert (found.images.double() - x.double()).abs().max() <= EPSILON + (2**-24 if dtype == torch.float32 else 0)


class Stop(Exception):
    pass


def test_a_tick_may_stop_it(model, batch):
    def stop(standing):
        raise Stop

    with pytest.raises(Stop):
        fixed(model, batch, tick=stop)
    nothing = fixed(model, [t[:0] for t in batch])
    assert nothing.traces.shape == (0, 31)
