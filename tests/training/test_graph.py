"""Warm-up, capture, static inputs and the choice between replay and eager steps, on stand-ins for a GPU."""

import copy
import weakref

import pytest
import torch
from fake_cuda import FakeCuda, FakeGraph, recorded
from step_inputs import batch, make_step, unlabeled
from torch import nn

from fastait import recipe
from fastait.methods import METHODS
from fastait.runtime.errors import RunError
from fastait.training.graph import CaptureError, Graph
from fastait.training.optimizer import set_lr


@pytest.fixture
def cuda(monkeypatch):
    return FakeCuda(monkeypatch)


@pytest.mark.parametrize("method", METHODS)
def test_replays_equal_eager_steps(network, cuda, method):
    """Two epochs of three batches with a smaller last one, a learning rate that falls, an interruption in between."""
    models = [copy.deepcopy(network) for _ in range(2)]
    options = {"steps": 2, "dtype": torch.float16, "knobs": {"partners": recipe(method=method).partners}}
    eager = make_step(models[0], method, **options)
    graphed = recorded(make_step(models[1], method, **options, batch_size=8, graph=True))
    cuda.tensors = [*graphed.state(), *(p.grad for p in models[1].parameters())]
    layers = set()
    for number in range(6):
        images, y = batch(number, size=5 if number % 3 == 2 else 8, image=8)
        extra = unlabeled(method, batch(number + 10, image=8)[0])
        for step in (eager, graphed):
            set_lr(step.optimizer, 0.1 if number < 3 else 0.01)
            step(images, y, number, unlabeled=extra)
        for a, b in zip(eager.state(), graphed.state(), strict=True):
            assert torch.equal(a, b)
        assert eager.totals.seen == graphed.totals.seen
        layers |= {tuple(graphed.layers)} if len(y) == 8 else set()
        assert cuda.captured == len(layers)  # a graph for each layer that is mixed, when it is first due
    assert len(layers) == (2 if "manifold" in method else 1)
    assert len({graph.pool for graph in graphed.graphs.values()}) == 1


def test_warm_up_and_capture_leave_the_state_alone(network, cuda):
    step = make_step(network, batch_size=8, graph=True)
    cuda.tensors = step.state()
    before = [t.detach().clone() for t in step.state()]
    calls = []
    images, y = batch(0, image=8)

    def call(*inputs):
        calls.append([t.data_ptr() for t in inputs])
        step(*inputs, 3)

    step.graphed = False
    Graph(call, (images, y), step.state(), warmup=2)
    assert len(calls) == 3
    assert calls[0] == calls[1] == calls[2] != [images.data_ptr(), y.data_ptr()]
    assert all(torch.equal(a, b) for a, b in zip(before, step.state(), strict=True))


def test_a_step_that_cannot_be_captured_runs_eagerly(network, cuda):
    notes = []
    models = [copy.deepcopy(network) for _ in range(2)]
    eager = make_step(models[0])
    graphed = make_step(models[1], batch_size=8, graph=True, note=notes.append)
    cuda.tensors, cuda.fails = graphed.state(), True
    for number in range(3):
        for step in (eager, graphed):
            step(*batch(number, image=8), number)
    assert all(torch.equal(a, b) for a, b in zip(eager.state(), graphed.state(), strict=True))
    assert cuda.captured == 1
    assert len(notes) == 1
    assert "cannot be captured as a CUDA graph and runs without one: CUDA error: operation not permitted" in notes[0]
    assert "\n" not in notes[0]


def test_buffers_that_a_pass_replaces(cuda):
    """Replays would begin with the same ones again and again."""

    class Keeping(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3 * 16 * 16, 10)
            self.register_buffer("mean", torch.zeros(10))

        def forward(self, x):
            logits = self.fc(x.flatten(1))
            if self.training:
                self.mean = 0.9 * self.mean + 0.1 * logits.detach().mean(0)
            return logits - self.mean

    notes, model = [], Keeping()
    models = [model, copy.deepcopy(model)]
    steps = [make_step(models[0], "madry"), make_step(models[1], "madry", batch_size=8, graph=True, note=notes.append)]
    for number in range(3):
        for step in steps:
            step(*batch(number), number)
    assert "runs without one: the network puts new tensors in the place of its buffers" in notes[0]
    for one, other in zip(models[0].state_dict().values(), models[1].state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_who_insists_on_a_graph_is_told(network, cuda):
    step = make_step(network, batch_size=8, graph=True, insist=True)
    cuda.tensors, cuda.fails = step.state(), True
    before = [t.detach().clone() for t in step.state()]
    with pytest.raises(
        RunError, match=r"cannot be captured as a CUDA graph \(CUDA error: .*; go on with --cuda-graph off"
    ):
        step(*batch(0, image=8), 0)
    assert all(torch.equal(a, b) for a, b in zip(before, step.state(), strict=True))


def raises(error):
    def call(*inputs):
        raise error

    return call


def test_errors_that_are_not_the_capture_s_go_through(cuda):
    with pytest.raises(KeyError, match="a bug"):
        Graph(raises(KeyError("a bug")), batch(0), [])
    with pytest.raises(CaptureError, match="out of memory"):
        Graph(raises(torch.OutOfMemoryError("out of memory")), batch(0), [])
    with pytest.raises(CaptureError, match="synchronisation"):
        Graph(raises(RuntimeError("synchronisation")), batch(0), [])
    assert cuda.captured == 0
    assert cuda.cleared == []


@pytest.mark.parametrize("error", [RuntimeError("captured"), KeyboardInterrupt(), KeyError("a bug")], ids=repr)
def test_a_capture_that_breaks_off_is_cleared_up(cuda, error):
    made = []
    with pytest.raises(CaptureError if isinstance(error, RuntimeError) else type(error)):
        Graph(lambda *inputs: raises(error)() if cuda.captured else made.append(1), batch(0), [])
    (graph,) = cuda.cleared
    assert graph.resets == 1
    assert made == [1, 1, 1]


def test_a_capture_that_fails_keeps_no_tensor(cuda):
    kept = []

    class Large:
        pass

    def call(*inputs):
        large = Large()
        kept.append(weakref.ref(large))
        raise RuntimeError("full")

    with pytest.raises(CaptureError) as caught:
        Graph(call, batch(0), [])
    assert caught.value.__context__ is None
    assert kept[0]() is None


@pytest.mark.parametrize("when", ["warm-up", "capture"])
def test_what_goes_wrong_elsewhere_ends_it_here(cuda, monkeypatch, when):
    """The other process says so at the same place: once after the warm-up, once after the capture."""
    said, resets = [], []
    monkeypatch.setattr(FakeGraph, "reset", lambda graph: resets.append(graph))
    state = torch.zeros(1)

    def agree(problem):
        said.append(problem)
        return "full, elsewhere" if len(said) == (1 if when == "warm-up" else 2) else None

    with pytest.raises(CaptureError, match="full, elsewhere"):
        Graph(lambda *inputs: state.add_(1), batch(0), [state], agree=agree)
    assert said == [None] * (1 if when == "warm-up" else 2)
    assert cuda.captured == len(said) - 1
    assert cuda.cleared == []  # this one ended well
    assert len(resets) == 1
    assert state == 0


def test_takes_only_what_was_captured(cuda):
    graph = Graph(lambda images, y: None, batch(0), [])
    assert graph.takes(*batch(1))
    assert not graph.takes(*batch(1, size=7))
    assert not graph.takes(*batch(1, image=8))
    images, y = batch(1)
    assert not graph.takes(images.float(), y)
