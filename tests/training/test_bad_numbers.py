"""What became NaN or infinite first is found on the device, by step, kind and name."""

import pytest
import torch
from fake_cuda import FakeCuda, recorded
from small import Classifier, new
from step_inputs import batch, make_step
from torch import nn

from fastait.data import Shard
from fastait.runtime.processes import Ranks
from fastait.training.averaged import Averaged
from fastait.training.bad_numbers import LEAST_SCALE, NEVER, BadNumbers, Number
from fastait.training.optimizer import make_optimizer

NAN, INF = float("nan"), float("inf")


def classifier():
    return new().train()


def poisoned(step, at, poison):
    """Let ``poison`` happen within step ``at``, after its update."""
    update = step.optimizer.step

    def and_poison(*args, **kwargs):
        update(*args, **kwargs)
        if int(step.number) == at:
            with torch.no_grad():
                poison()

    step.optimizer.step = and_poison
    return step


def gradient_of(parameter, step, at, value):
    """Let one number of a gradient be ``value`` in step ``at``."""

    def hook(gradient):
        gradient = gradient.clone()
        gradient.view(-1)[-1] = torch.where(step.number[0] == at, value, gradient.view(-1)[-1])
        return gradient

    parameter.register_hook(hook)


def take(step, steps=range(4), size=8):
    for number in steps:
        step(*batch(number, size=size), number)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("place", ["parameter", "moment", "buffer", "average"])
def test_what_a_step_leaves_behind(place, value):
    model = classifier()
    averaged = Averaged(model, 0.9)
    step = make_step(model, "natural", averaged=averaged)
    bad = {
        "parameter": (model.c.weight, "c.weight"),
        "moment": (step.optimizer.state[model.f.bias]["momentum_buffer"], "f.bias"),
        "buffer": (model.b.running_var, "b.running_var"),
        "average": (averaged.state_dict()["b.running_mean"], "b.running_mean"),
    }[place]
    poisoned(step, 2, lambda: bad[0].view(-1)[-1].fill_(value))
    take(step)
    assert step.failure() == (2, Number(place, bad[1]))


@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("value", [NAN, INF])
def test_a_gradient_is_found_before_it_is_clipped(clip_norm, value):
    model = classifier()
    step = make_step(model, "natural", clip_norm=clip_norm)
    gradient_of(model.b.bias, step, 1, value)
    take(step)
    assert step.failure() == (1, Number("gradient", "b.bias"))


def test_the_gradient_that_the_backward_pass_came_to_first():
    """The layers before it have bad ones too."""
    model = classifier()
    step = make_step(model, "natural")
    model.b.register_full_backward_hook(lambda module, into, out: (torch.where(step.number[0] == 1, NAN, into[0]),))
    for parameter in (model.b.weight, model.f.weight):
        gradient_of(parameter, step, 1, NAN)
    take(step)
    assert step.failure() == (1, Number("gradient", "f.weight"))
    assert Number("gradient", "c.bias") in step.bad()


def test_a_loss_goes_before_all_that_it_spoils():
    model = classifier()
    step = make_step(model, "natural")
    model.f.register_forward_hook(lambda module, args, out: out * NAN)
    take(step, [0])
    assert step.failure() == (0, Number("loss"))
    assert {number.kind for number in step.bad()} == {"loss", "gradient", "parameter", "moment"}


def test_statistics_that_the_loss_says_nothing_of():
    """In train mode BN does without its averages."""
    model = classifier()
    with torch.no_grad():
        model.c.weight.mul_(1e25)
    step = make_step(model, "natural")
    step(*batch(0), 0)
    assert step.totals.bad_step() == NEVER
    assert step.failure()[1].kind != "loss"


def test_a_second_moment_that_keeps_a_weight_from_moving():
    """AdamW divides by its root: no weight is bad, and none moves any more."""
    model = classifier()
    step = make_step(model, "natural", by={"name": "adamw"})
    gradient_of(model.f.bias, step, 1, 1e25)
    take(step)
    assert step.failure() == (1, Number("moment", "f.bias"))
    assert model.f.bias.isfinite().all()


def test_healthy_steps_say_nothing():
    for options in ({}, {"by": {"name": "adamw"}}, {"clip_norm": 0.1}, {"dtype": torch.bfloat16}):
        model = classifier()
        step = make_step(model, "madry", averaged=Averaged(model, 0.9), **options)
        take(step, range(2))
        assert step.failure() is None
        assert step.bad() == []


def test_what_is_infinite_from_the_start_may_be():
    class Masked(Classifier):
        def __init__(self):
            super().__init__()
            self.register_buffer("mask", torch.tensor([0.0, -INF]))
            self.register_buffer("cache", torch.zeros(2), persistent=False)
            self.register_buffer("count", torch.zeros(2, dtype=torch.int64))

    model = new(Masked).train()
    averaged = Averaged(model, 0.9)
    step = poisoned(make_step(model, "natural", averaged=averaged), 1, lambda: model.cache.fill_(NAN))
    take(step)  # and what no checkpoint holds is a network's own affair
    assert step.failure() is None
    poisoned(step, 4, lambda: model.b.running_mean.fill_(NAN))
    take(step, [4])
    assert step.failure() == (4, Number("buffer", "b.running_mean"))


def test_a_scaled_loss_may_have_infinite_gradients():
    """The step is left out, and the scale falls."""
    model = classifier()
    step = make_step(model, "natural", dtype=torch.float16)
    gradient_of(model.f.bias, step, 1, INF)
    before = float(step.precision.scaler.get_scale())
    take(step)
    assert step.precision.scaler.get_scale() == before / 2
    assert step.failure() is None
    poisoned(step, 4, lambda: model.f.bias.fill_(NAN))
    take(step, [4])
    assert step.failure() == (4, Number("parameter", "f.bias"))


def test_gradients_that_no_scale_makes_finite():
    """Every step would be left out, and the loss says nothing of it."""
    model = classifier()
    step = make_step(model, "natural", dtype=torch.float16)
    model.f.bias.register_hook(lambda gradient: gradient + INF)
    before = model.f.bias.detach().clone()
    number = 0
    while step.failure() is None and number < 99:
        take(step, [number])
        number += 1
    assert step.failure() == (number - 1, Number("gradient", "f.bias"))
    assert step.precision.scaler.get_scale() == LEAST_SCALE / 4  # halved in that step too
    assert torch.equal(model.f.bias, before)


def test_many_numbers_of_fp16_are_no_infinity():
    """Their sum is more than fp16 holds."""
    model = nn.Linear(1000, 1000, dtype=torch.float16)
    nn.init.constant_(model.weight, 1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    numbers = BadNumbers(model, optimizer)
    step = torch.tensor([3])
    numbers.add(numbers.gradients(), step)
    assert numbers.first.tolist() == [NEVER] * 4
    with torch.no_grad():
        model.weight[5, 7] = INF
    numbers.add(numbers.gradients(), step)
    assert [n for n, first in zip(numbers.numbers, numbers.first.tolist(), strict=True) if first == 3] == [
        Number("parameter", "weight")
    ]


def test_a_network_without_gradients_or_buffers():
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
    model[1].weight.requires_grad_(False)
    step = make_step(model, "natural")
    poisoned(step, 1, lambda: model[1].weight.fill_(NAN))
    take(step, range(2))
    assert step.failure() == (1, Number("parameter", "1.weight"))
    assert Number("gradient", "1.weight") not in step.bad_numbers.numbers
    optimizer = make_optimizer("sgd", model.parameters(), lr=0.1, weight_decay=0.0)
    assert BadNumbers(model, optimizer).gradients().shape == (1,)


def test_all_processes_find_the_first_of_any(monkeypatch):
    """Here a loss went wrong in step 5, elsewhere in step 3 a parameter."""
    model = classifier()
    step = make_step(model, "natural")
    numbers = [Number("loss"), *step.bad_numbers.numbers]
    place = numbers.index(Number("parameter", "c.bias"))
    theirs = -(3 * len(numbers) + place)
    monkeypatch.setattr(Ranks, "largest", lambda ranks, *values: [max(value, theirs) for value in values])
    assert step.failure() == (3, Number("parameter", "c.bias"))
    step.totals.first_bad_step.fill_(5)
    assert step.failure() == (3, Number("parameter", "c.bias"))
    step.totals.first_bad_step.fill_(3)
    assert step.failure() == (3, Number("loss"))
    assert step.bad() == [Number("loss")]


def test_the_record_is_a_graph_s(monkeypatch):
    """Replays add to it where it lies."""
    cuda = FakeCuda(monkeypatch)
    models = [classifier() for _ in range(2)]
    eager = make_step(models[0], "madry")
    graphed = recorded(make_step(models[1], "madry", batch_size=8, graph=True))
    cuda.tensors = [*graphed.state(), *(p.grad for p in models[1].parameters())]
    place = graphed.bad_numbers.first.data_ptr()
    for number in range(4):
        if number == 2:
            for model in models:
                with torch.no_grad():
                    model.b.running_var.fill_(INF)
        for step in (eager, graphed):
            step(*batch(number), number)
        assert eager.failure() == graphed.failure()
        assert (graphed.failure() is None) == (number < 2)
    assert cuda.captured == 1
    assert graphed.bad_numbers.first.data_ptr() == place


def test_a_capture_s_warm_up_is_undone(monkeypatch):
    cuda = FakeCuda(monkeypatch)
    model = classifier()
    step = make_step(model, "madry", batch_size=8, graph=True)
    cuda.tensors = step.state()
    with torch.no_grad():
        model.f.bias.fill_(NAN)  # of which the warm-up's steps take note
    step._begin(7)
    step._capture(list(batch(0)), [Shard(0, 8, 8)])
    assert cuda.captured == 1
    assert step.failure() is None


def test_nothing_is_read_from_the_device():
    """On the meta device nothing can be."""
    model = classifier().to("meta")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    numbers = BadNumbers(model, optimizer, Averaged(model, 0.9))
    numbers.add(numbers.gradients(), torch.zeros(1, dtype=torch.int64, device="meta"))
    assert numbers.first.shape == (len(numbers.numbers),)
    assert numbers.first.is_meta
