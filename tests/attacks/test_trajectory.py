"""One trajectory against a loop per column: the same outcomes, fewer passes."""

import pytest
import torch
import torch.nn.functional as F
import trained
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fastait.attacks import RIGHT, Noise, Point, classification, cross_entropy, frozen, margin, trajectory
from fastait.data import FloatSet
from fastait.evaluation import evaluate

EPSILON, STEP = 20 / 255, 5 / 255


@pytest.fixture(scope="module")
def model():
    return trained.model("natural")


class Counting(nn.Module):
    """Counts the images that pass through ``model``."""

    def __init__(self, model):
        super().__init__()
        self.model, self.images = model, 0

    def forward(self, x):
        self.images += len(x)
        return self.model(x)


def iterates(model, x, y, start, steps, loss):
    """PGD written out: the images and losses after each step."""
    images, losses, moved = [], [], start
    for step in range(steps + 1):
        leaf = moved.detach().requires_grad_()
        value = loss(model(leaf), y)
        if step:
            images.append(leaf.detach())
            losses.append(value.detach())
        grad = torch.autograd.grad(value.sum(), leaf)[0]
        moved = torch.min(torch.max(leaf.detach() + STEP * grad.sign(), x - EPSILON), x + EPSILON).clamp(0, 1)
    return images, losses


def correct(model, x, y):
    with torch.no_grad():
        return model(x).argmax(1) == y


@pytest.mark.parametrize("loss", [cross_entropy, margin])
def test_every_count_equals_the_plain_loop(model, loss):
    x, y = trained.tensors(60)
    start = Noise.seeded(3, x.device).start(x, EPSILON)
    images, losses = iterates(model, x, y, start, 9, loss)
    points = [Point(count, steps) for count in ("last", "worst", "best") for steps in (1, 4, 9)]
    with frozen(model):
        for asked in (points, points[:3], points[3:6], points[6:], [points[2], points[4]], [points[8]], [points[1]]):
            found = trajectory(
                classification(model, y, loss), model, x, y, start.clone(), asked, epsilon=EPSILON, step_size=STEP
            )
            assert found.keys() == set(asked)
            for point in asked:
                outcomes = torch.stack([correct(model, image, y) for image in images[: point.steps]])
                if point.count == "last":
                    expected = outcomes[-1]
                elif point.count == "worst":
                    expected = outcomes.all(0) & correct(model, x, y)
                else:
                    highest = torch.stack(losses[: point.steps]).argmax(0)
                    expected = outcomes.gather(0, highest[None])[0]
                assert torch.equal(found[point] == RIGHT, expected), point
    assert 0 < expected.sum() < 60


def test_columns_cost_one_trajectory(model):
    x, y = trained.tensors(20)
    counting = Counting(model)
    points = [Point("last", steps) for steps in (2, 5, 8)]
    trajectory(classification(counting, y, cross_entropy), counting, x, y, x, points, epsilon=EPSILON, step_size=STEP)
    assert counting.images == 20 * 9


def test_fooled_images_leave(model):
    """Where only the worst case counts each is attacked until it falls; where the last iterate does, to the end."""
    x, y = trained.tensors(40)
    images, _ = iterates(model, x, y, x, 20, cross_entropy)
    standing = correct(model, x, y)
    expected = 40
    for image in images:
        expected += int(standing.sum())  # the pass that finds the step of this iterate
        standing &= correct(model, image, y)
    counting = Counting(model)
    found = trajectory(
        classification(counting, y, cross_entropy),
        counting,
        x,
        y,
        x,
        [Point("worst", 20)],
        epsilon=EPSILON,
        step_size=STEP,
    )
    assert torch.equal(found[Point("worst", 20)] == RIGHT, standing)
    assert counting.images <= expected + 40
    assert counting.images < 40 * 21 / 2


def test_all_fooled_ends_early(model):
    x, y = trained.tensors(10)
    wrong = (y + 1) % 10
    counting = Counting(model)
    asked = [Point("worst", steps) for steps in (1, 1000)]
    found = trajectory(
        classification(counting, wrong, cross_entropy), counting, x, wrong, x, asked, epsilon=0.1, step_size=0.1
    )
    assert counting.images == 10 + 10 * int(correct(model, x, wrong).any())
    assert not any(outcome.any() for outcome in found.values())


def test_the_judge_decides_where_the_objective_gives_no_logits(model):
    """A transfer attack: images that fool the surrogate need not fool the judge."""
    x, y = trained.tensors(30)
    judge = trained.model("madry")

    def objective(images, rows):
        return F.cross_entropy(model(images), y[rows], reduction="none"), None

    points = [Point("last", 1), Point("last", 10), Point("worst", 10)]
    found = trajectory(objective, judge, x, y, x, points, epsilon=EPSILON, step_size=STEP)
    images, _ = iterates(model, x, y, x, 10, cross_entropy)
    assert torch.equal(found[points[0]], correct(judge, images[0], y))
    assert torch.equal(found[points[1]], correct(judge, images[9], y))
    assert found[points[1]].sum() > correct(model, images[9], y).sum()


def test_an_iterate_that_comes_back_to_its_class_has_been_fooled():
    """Predictions by script: image 0 falls at step 2 and stands again, image 1 falls at 3, image 2 never."""
    script = [[1, 1, 1], [1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 0, 1]]
    losses = [[9.0, 0, 0], [0, 2, 1], [5, 1, 2], [1, 9, 3], [7, 3, 0]]
    step = -1

    def objective(images, rows):
        nonlocal step
        step += 1
        standing = torch.tensor(script[step], dtype=images.dtype)[rows]
        values = torch.tensor(losses[step], dtype=images.dtype)[rows]
        logits = torch.stack([standing, 1 - standing], dim=1)
        return values + 0 * images.flatten(1).sum(1), logits

    x, y = torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64)

    def judge(images):
        return torch.tensor([[1.0, 0.0]]).expand(len(images), 2)

    points = [Point(count, steps) for count in ("last", "worst", "best") for steps in (1, 2, 4)]
    found = trajectory(objective, judge, x, y, x, points, epsilon=1, step_size=0.1)
    expected = {
        "last": {1: [1, 1, 1], 2: [0, 1, 1], 4: [1, 0, 1]},
        "worst": {1: [1, 1, 1], 2: [0, 1, 1], 4: [0, 0, 1]},
        "best": {1: [1, 1, 1], 2: [0, 1, 1], 4: [1, 0, 1]},
    }
    for count, by_step in expected.items():
        for steps, outcome in by_step.items():
            assert found[Point(count, steps)].int().tolist() == outcome, (count, steps)


ATTACKS = ["fgsm-worst", "pgd3-worst", "cw3-zero-worst", "feature3-worst", "eot2-pgd2-worst", "pgd2-worst+cw2-worst"]


@settings(deadline=None, max_examples=12)
@given(
    epsilon=st.floats(0.001, 1),
    step=st.floats(0.001, 1),
    seed=st.integers(0, 2**40),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_no_worst_case_is_above_clean(epsilon, step, seed, dtype):
    x, y = trained.tensors(12)
    model = trained.model("natural").to(dtype)
    found = evaluate(model, FloatSet(x, y), ATTACKS, epsilon=epsilon, step_size=step, seed=seed)
    model.to(torch.float32)
    for name in ATTACKS:
        assert not (found.correct[name] & ~found.correct["clean"]).any(), name
