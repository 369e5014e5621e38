"""Warm-up, capture, static inputs and the choice between replay and eager steps, on stand-ins for CUDA's streams and
graphs: what is called while a graph is captured changes nothing, and a replay calls it again. That nothing of the host
is baked into a graph only tests/gpu can show.
"""

import contextlib
import copy

import pytest
import torch
from step_inputs import batch, make_step, unlabeled

from fastait import recipe
from fastait.methods import METHODS
from fastait.training.graph import CaptureError, Graph
from fastait.training.optimizer import set_lr


class FakeStream:
    def wait_stream(self, other):
        pass


class FakeGraph:
    """Remembers the call that is captured; ``torch.cuda.graph`` below puts back what it changed."""

    def __init__(self):
        self.call = None

    def replay(self):
        self.call()


@pytest.fixture
def cuda(monkeypatch):
    """Replaces torch.cuda's streams and graphs; ``tensors`` is what the memory of the fake GPU holds."""
    fake = type("Fake", (), {"tensors": [], "captured": 0, "fails": False})()

    @contextlib.contextmanager
    def graph(cuda_graph, stream, capture_error_mode):
        assert capture_error_mode == "thread_local"
        assert isinstance(stream, FakeStream)
        before = [t.detach().clone() for t in fake.tensors]
        fake.captured += 1
        try:
            yield
            if fake.fails:
                raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nand more")
        finally:
            with torch.no_grad():
                for tensor, value in zip(fake.tensors, before, strict=True):
                    tensor.copy_(value)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "current_stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: None)
    return fake


def recorded(step):
    """Let the graphs of ``step`` replay what they captured."""
    capture = step._capture

    def and_record(inputs, shards):
        capture(inputs, shards)
        if step.graph is not None:
            step.graph.graph.call = lambda: step.compute(step.graph.inputs, shards)

    step._capture = and_record
    return step


@pytest.mark.parametrize("method", METHODS)
def test_replays_equal_eager_steps(network, cuda, method):
    """Two epochs of three batches with a smaller last one, a learning rate that falls, an interruption in between."""
    models = [copy.deepcopy(network) for _ in range(2)]
    options = {"steps": 2, "dtype": torch.float16, "knobs": {"partners": recipe(method=method).partners}}
    eager = make_step(models[0], method, **options)
    graphed = recorded(make_step(models[1], method, **options, batch_size=8, graph=True))
    cuda.tensors = [*graphed.state(), *(p.grad for p in models[1].parameters())]
    for number in range(6):
        images, y = batch(number, size=5 if number % 3 == 2 else 8, image=8)
        extra = unlabeled(method, batch(number + 10, image=8)[0])
        for step in (eager, graphed):
            set_lr(step.optimizer, 0.1 if number < 3 else 0.01)
            step(images, y, number, unlabeled=extra)
        for a, b in zip(eager.state(), graphed.state(), strict=True):
            assert torch.equal(a, b)
        assert eager.totals.seen == graphed.totals.seen
    assert cuda.captured == 1


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


def test_errors_that_are_not_the_capture_s_go_through(network, cuda):
    def missing(*inputs):
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        Graph(missing, batch(0), [])

    def full(*inputs):
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(CaptureError, match="out of memory"):
        Graph(full, batch(0), [])

    def syncing(*inputs):
        raise RuntimeError("synchronisation")

    with pytest.raises(CaptureError, match="synchronisation"):
        Graph(syncing, batch(0), [])


def test_takes_only_what_was_captured(cuda):
    graph = Graph(lambda images, y: None, batch(0), [])
    assert graph.takes(*batch(1))
    assert not graph.takes(*batch(1, size=7))
    assert not graph.takes(*batch(1, image=8))
    images, y = batch(1)
    assert not graph.takes(images.float(), y)
