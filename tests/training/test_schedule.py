"""The rate of every step, against torch's schedulers."""

import dataclasses

import pytest
import torch

from fastait import recipe
from fastait.runtime.errors import InputError
from fastait.training.schedule import learning_rate


def rates(config, per_epoch):
    return [learning_rate(config, step, per_epoch) for step in range(config.epochs * per_epoch)]


def torchs(scheduler, steps, lr=0.2):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)
    schedule, found = scheduler(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(("epochs", "per_epoch"), [(1, 1), (1, 3), (2, 5), (7, 13), (100, 3)])
def test_schedules_are_torchs(epochs, per_epoch):
    steps, schedulers = epochs * per_epoch, torch.optim.lr_scheduler
    made = {
        "cosine": lambda optimizer: schedulers.CosineAnnealingLR(optimizer, steps),
        "linear": lambda optimizer: schedulers.LinearLR(optimizer, 1.0, 0.0, total_iters=steps),
    }
    if steps > 3:  # of so few torch divides by zero, or counts backwards
        made["one-cycle"] = lambda optimizer: schedulers.OneCycleLR(
            optimizer, 0.2, total_steps=steps, cycle_momentum=False
        )
    for name, scheduler in made.items():
        config = recipe("digits", epochs=epochs, schedule=name, lr=0.2)
        assert rates(config, per_epoch) == pytest.approx(torchs(scheduler, steps), rel=1e-9, abs=1e-12), name


def test_milestones_divide_by_ten():
    config = recipe("digits", epochs=5, milestones=(2, 4), lr=1.0)
    assert rates(config, 2) == pytest.approx([1.0] * 2 + [0.1] * 4 + [0.01] * 4)


@pytest.mark.parametrize("schedule", ["step", "cosine", "linear"])
def test_a_warm_up_rises_to_where_the_schedule_begins(schedule):
    config = recipe("digits", epochs=4, schedule=schedule, warmup_epochs=1.5, lr=0.6, milestones=None)
    found = rates(config, 4)
    assert found[:6] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert found[6] == pytest.approx(0.6)
    if schedule != "step":
        rest = dataclasses.replace(config, warmup_epochs=0.0, epochs=5)
        assert found[6:] == pytest.approx(rates(rest, 2))  # ten steps are left


@pytest.mark.parametrize("schedule", ["step", "cosine", "linear"])
def test_a_warm_up_leaves_a_step(schedule):
    """Shorter than the training, but not by a whole step."""
    config = recipe("digits", epochs=1, schedule=schedule, warmup_epochs=0.99, lr=0.9)
    config.check()
    assert rates(config, 10) == pytest.approx([0.1 * step for step in range(1, 10)] + [0.9])
    assert rates(config, 1) == [0.9]


def test_short_runs_have_rates():
    for schedule in ("one-cycle", "cosine", "linear"):
        for steps in (1, 2, 3):
            config = recipe("digits", epochs=1, schedule=schedule)
            assert all(0 <= rate <= config.lr for rate in rates(config, steps))


def test_a_recipes_milestones_go_with_its_schedule():
    assert recipe("cifar10", schedule="cosine").resolved().milestones == ()
    assert recipe("cifar10").milestones == (60, 90)
    assert recipe("cifar10", schedule="step", milestones=(5,)).milestones == (5,)
    assert recipe("digits").resolved().milestones == (10,)
    recipe("cifar10", schedule="cosine").check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "cosin"}, "--schedule"),
        ({"schedule": "cosine", "milestones": (3,)}, "--milestones 3 are those of --schedule step"),
        ({"warmup_epochs": 12}, r"--warmup-epochs must be in \[0, 12\), shorter than the training, got 12"),
        ({"warmup_epochs": -1.0}, "--warmup-epochs must be in"),
        ({"warmup_epochs": float("nan")}, "--warmup-epochs must be in"),
        ({"warmup_epochs": 1, "schedule": "one-cycle"}, "--schedule one-cycle begins with a rise of its own"),
        ({"nesterov": True, "optimizer": "adamw"}, "--nesterov is for --optimizer sgd, not for adamw"),
        ({"clip_grad_norm": 0.0}, "--clip-grad-norm must be a finite number > 0, got 0"),
        ({"clip_grad_norm": float("inf")}, "--clip-grad-norm must be a finite number > 0"),
        ({"clip_grad_norm": 1.0, "optimizer": "apex"}, "--clip-grad-norm does not go with --optimizer apex"),
        ({"label_smoothing": 1.0, "method": "madry"}, r"--label-smoothing must be in \[0, 1\), got 1"),
        ({"label_smoothing": 0.1}, "--label-smoothing 0.1 is for natural, madry"),
        ({"ema": 1.0}, r"--ema must be in \[0, 1\), got 1"),
        ({"ema": -0.1}, "--ema must be in"),
        ({"keep_checkpoints": 0}, "--keep-checkpoints must be at least 1"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(InputError, match=message):
        recipe("digits", **changes).check()


def test_a_recipe_without_milestones_does_not_take_those_of_another():
    with pytest.raises(InputError, match="--schedule step needs --milestones EPOCH, since --recipe cifar10-fastat has"):
        recipe("cifar10-fastat", schedule="step").check()
    recipe("cifar10-fastat", schedule="step", milestones=(50,)).check()
    recipe("digits", schedule="step").check()
