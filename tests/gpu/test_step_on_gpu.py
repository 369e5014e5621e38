"""The captured step on a real GPU: capture equals eager, and what a schedule, noise and a resume do to it."""

import dataclasses
import signal
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from rehearsal import DEVICE, nothing_waits, scaled
from tolerances import GRAPH_FP32
from torch import nn

from fastait import recipe, resume_training, run_training
from fastait.attacks import Noise
from fastait.checkpoints.folder import RunFolder
from fastait.data import Shard
from fastait.methods import METHODS, Settings
from fastait.models import WideResNet
from fastait.runtime.errors import Interrupted
from fastait.runtime.precision import Precision, native_half
from fastait.training.bad_numbers import Number
from fastait.training.optimizer import make_optimizer, set_lr
from fastait.training.step import NEVER, TrainStep

BATCH, LAST, STEPS, WIDTH, SIZE = scaled((64, 24, 50, 2, 32), (8, 5, 11, 1, 8))
"""Images of a batch and of a smaller last one, steps of a comparison, the network's width, the images' sides."""


@pytest.fixture(autouse=True)
def _deterministic(monkeypatch):
    """The same kernels in both runs, so that they can be compared for 50 steps."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.deterministic, before = True, torch.backends.cudnn.deterministic
    yield
    torch.backends.cudnn.deterministic = before


def make_step(model, method, dtype=None, **options):
    config = recipe(method=method)
    size = config.epsilon * METHODS[method].step if config.step_size is None else config.step_size
    settings = Settings(
        *(config.epsilon, 0.5, min(config.attack_steps, 3), size, 10),
        partners=config.partners,
        penalty=config.penalty_weight() or 0.0,
    )
    optimizer = make_optimizer("sgd", model.parameters(), lr=0.05, weight_decay=2e-4)
    return TrainStep(
        model, METHODS[method], settings, optimizer, Precision(DEVICE, dtype), 3, batch_size=BATCH, **options
    )


def model():
    torch.manual_seed(0)
    return WideResNet(10, WIDTH, 10).to(DEVICE).to(memory_format=torch.channels_last).train()


def batch(step, size=BATCH):
    generator = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (size, SIZE, SIZE, 3), generator=generator, dtype=torch.uint8)
    return images.to(DEVICE), torch.randint(0, 10, (size,), generator=generator).to(DEVICE)


@pytest.mark.parametrize("precision", ["fp32", "half", "fp16"])
@pytest.mark.parametrize("method", METHODS)
def test_capture_equals_eager(method, precision):
    """50 steps in which nothing waits for the GPU, with a smaller last batch every tenth and a learning rate that falls
    in the middle."""
    dtype = {"fp32": None, "half": native_half(DEVICE), "fp16": torch.float16}[precision]
    models = [model() for _ in range(2)]
    notes = []
    eager = make_step(models[0], method, dtype)
    graphed = make_step(models[1], method, dtype, graph=True, note=notes.append)
    for number in range(STEPS):
        images, y = batch(number, LAST if number % 10 == 9 else BATCH)
        unlabeled = batch(number + 100)[0] if METHODS[method].needs_unlabeled else None
        with torch.no_grad():  # each step from one state: rounding must not have time to grow
            for mine, theirs in zip(graphed.state(), eager.state(), strict=True):
                mine.copy_(theirs)
        graphed._begin(number)
        made = (
            tuple(graphed.layers) in graphed.graphs
        )  # until then kernels are compiled, and the graph of this layer made
        with nothing_waits() if made else nullcontext():
            for step in (eager, graphed):
                set_lr(step.optimizer, 0.05 if number < STEPS // 2 else 0.005)
                step(images, y, number, unlabeled=unlabeled)
        for mine, theirs in zip(graphed.state(), eager.state(), strict=True):
            torch.testing.assert_close(mine, theirs, **GRAPH_FP32)
    assert notes == []
    assert graphed.graphs
    assert graphed.totals.bad_step() == NEVER


def test_a_captured_step_finds_what_goes_wrong():
    """BN's statistics, of which the loss says nothing; a replay does so without waiting for the GPU."""
    network = model()
    step = make_step(network, "natural", graph=True)
    for number in range(4):
        images, y = batch(number)
        if number == 2:
            assert step.failure() is None
            network.bn1.running_var.fill_(torch.inf)
        with nothing_waits() if number else nullcontext():
            step(images, y, number)
    assert step.graphs
    assert step.failure() == (2, Number("buffer", "bn1.running_var"))


def test_a_network_that_draws_is_captured():
    """A replay draws what the eager step does, each step something else, and the GPU's generator never notices."""
    steps = []
    for graph in (False, True):
        dropping = nn.Sequential(model(), nn.Dropout(0.5)).to(DEVICE).train()
        steps.append(make_step(dropping, "natural", graph=graph))
    kept = [tensor.detach().clone() for tensor in steps[0].state()]
    drawn, random = set(), torch.cuda.get_rng_state()
    for number in range(4):
        for step in steps:
            with torch.no_grad():
                for tensor, value in zip(step.state(), kept, strict=True):
                    tensor.copy_(value)
            step(*batch(0), number)
        for mine, theirs in zip(steps[1].state(), steps[0].state(), strict=True):
            torch.testing.assert_close(mine, theirs, **GRAPH_FP32)
        drawn.add(float(steps[0].totals.loss))
    assert steps[1].graphs
    assert len(drawn) == 4
    assert torch.equal(torch.cuda.get_rng_state(), random)


def test_learning_rate_reaches_a_captured_step():
    step = make_step(model(), "natural", graph=True)
    step(*batch(0), 0)
    for state in step.optimizer.state.values():
        state["momentum_buffer"].zero_()
    weight = next(step.model.parameters())
    moved = []
    for rate in (0.1, 0.01, 0.0):
        set_lr(step.optimizer, rate)
        before = weight.detach().clone()
        for state in step.optimizer.state.values():
            state["momentum_buffer"].zero_()
        step(*batch(1), 1)
        moved.append((weight - before).norm().item())
    assert moved[2] == 0
    assert moved[0] > 5 * moved[1] > 0


def test_noise_differs_between_replays_and_is_that_of_eager():
    step = make_step(model(), "adv-interp", graph=True)
    starts = []
    noise = step.starts[0]
    start = noise.start

    def keep(x, epsilon):
        started = start(x, epsilon)
        if not starts:
            starts.append(torch.empty_like(started))
        starts[0].copy_(started)
        return started

    noise.start = keep
    seen = []
    for number in (0, 1, 2):
        step(*batch(0), number)
        seen.append(starts[0].clone())
    assert step.graphs
    x = batch(0)[0].permute(0, 3, 1, 2).float() / torch.full((), 255.0, device=DEVICE)  # by a number: by its reciprocal
    for number, got in enumerate(seen):
        again = Noise(noise.seed)
        again.seek(torch.tensor([number], device=DEVICE))
        assert torch.equal(got, again.start(x, 8 / 255))


def test_warm_up_and_capture_leave_the_state_alone():
    step = make_step(model(), "adv-interp", native_half(DEVICE), graph=True)
    before = [t.detach().clone() for t in step.state()]
    random = torch.cuda.get_rng_state()
    images, y = batch(0)
    step._capture([images, y], [Shard(0, BATCH, BATCH)])
    assert step.graphs
    assert torch.equal(torch.cuda.get_rng_state(), random)
    assert all(torch.equal(a, b) for a, b in zip(before, step.state(), strict=True))


def test_a_step_with_a_synchronisation_goes_on_eagerly():
    notes = []
    step = make_step(model(), "adv-interp", graph=True, note=notes.append)
    (loss,) = step.losses
    step.losses = [lambda logits, *rest: loss(logits, *rest) * float(logits.sum().isfinite())]
    stream = torch.cuda.current_stream()
    for number in range(3):
        step(*batch(number), number)
    assert len(notes) == 1
    assert not step.graphs
    assert torch.cuda.current_stream() == stream
    torch.rand(1, device=DEVICE)  # the generator and the allocator are out of the capture
    assert step.totals.bad_step() == NEVER


def test_compiled_and_captured():
    step = make_step(model(), "adv-interp", native_half(DEVICE), graph=True, compile=True)
    plain = make_step(model(), "adv-interp", native_half(DEVICE))
    for number in range(3):
        step(*batch(number), number)
        plain(*batch(number), number)
    assert step.graphs
    assert float(step.totals.loss) == pytest.approx(float(plain.totals.loss), rel=0.02)


@pytest.mark.parametrize("method", ["adv-interp", "madry"])
def test_a_run_resumed_in_the_middle_goes_on_captured(method, monkeypatch):
    config = recipe("digits", method=method, image_size=16, epochs=3, eval_samples=50, amp=True, cuda_graph="on")
    whole = run_training(dataclasses.replace(config, out=Path("whole")))
    call, calls = TrainStep.__call__, []

    def stop_at_30(self, *args):
        call(self, *args)
        calls.append(1)
        if len(calls) == 30:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "__call__", stop_at_30)
        with pytest.raises(Interrupted):
            run_training(dataclasses.replace(config, out=Path("run")))
    resumed = resume_training(Path("run"))
    ours, theirs = (RunFolder(Path(name)).weights() for name in ("run", "whole"))
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], **GRAPH_FP32)
    assert resumed.result["clean"] == pytest.approx(whole.result["clean"], abs=5)
