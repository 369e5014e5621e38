"""When cuDNN may choose its algorithms by timing: the switch is torch's own, the GPU a stand-in."""

import pytest
import torch
from fake_cuda import FakeCuda, FakeGraph, recorded
from step_inputs import batch, make_step

from fastait import recipe, run_training
from fastait.training import step as step_module
from fastait.training.convolutions import timed_convolutions

CUDNN = torch.backends.cudnn
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def _put_back():
    before = CUDNN.benchmark, CUDNN.deterministic
    yield
    CUDNN.benchmark, CUDNN.deterministic = before
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def gpu(monkeypatch):
    """Training steps take their device for a GPU when they ask for timed convolutions."""
    monkeypatch.setattr(step_module, "timed_convolutions", lambda device: timed_convolutions(GPU))


def watched(module):
    """What the switch is in each pass of ``module``."""
    seen = []
    module.register_forward_hook(lambda *_: seen.append(CUDNN.benchmark))
    return seen


@pytest.mark.parametrize("before", [False, True])
def test_timed_inside_and_as_before_afterwards(before):
    CUDNN.benchmark = before
    with timed_convolutions(GPU):
        assert CUDNN.benchmark
        with timed_convolutions(GPU):
            pass
        assert CUDNN.benchmark
    assert CUDNN.benchmark == before
    with pytest.raises(RuntimeError, match="out of memory"), timed_convolutions(GPU):
        raise RuntimeError("out of memory")
    assert CUDNN.benchmark == before


@pytest.mark.parametrize("asked", ["cudnn", "torch", "torch, as a warning", "a CPU"])
def test_never_where_determinism_is_asked_for_or_there_is_no_gpu(asked):
    CUDNN.deterministic = asked == "cudnn"
    torch.use_deterministic_algorithms(asked.startswith("torch"), warn_only=asked.endswith("warning"))
    with timed_convolutions(CPU if asked == "a CPU" else GPU):
        assert not CUDNN.benchmark
    CUDNN.benchmark = True  # the caller's own choice stands
    with timed_convolutions(CPU if asked == "a CPU" else GPU):
        assert CUDNN.benchmark
    assert CUDNN.benchmark


@pytest.mark.usefixtures("gpu")
def test_whole_batches_are_timed_and_smaller_ones_are_not(network):
    step = make_step(network, batch_size=8)
    seen = watched(network.conv1)
    step(*batch(0, image=8), 0)
    assert set(seen) == {True}
    seen.clear()
    step(*batch(1, size=5, image=8), 1)
    assert set(seen) == {False}
    assert not CUDNN.benchmark
    network.fc.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        step(*batch(2, image=8), 2)
    assert not CUDNN.benchmark


@pytest.mark.usefixtures("gpu")
def test_a_capture_is_timed_and_a_replay_chooses_nothing(network, monkeypatch):
    cuda = FakeCuda(monkeypatch)
    step = recorded(make_step(network, batch_size=8, graph=True))
    cuda.tensors = step.state()
    passes, replays = watched(network.conv1), []
    replay = FakeGraph.replay
    monkeypatch.setattr(FakeGraph, "replay", lambda graph: (replays.append(len(passes)), replay(graph)))
    step(*batch(0, image=8), 0)
    assert set(passes[: replays[0]]) == {True}
    assert set(passes[replays[0] :]) == {False}  # here a replay calls what was captured


def test_a_step_without_a_shape_of_its_own_is_not_timed(network, gpu):
    step = make_step(network)
    seen = watched(network.conv1)
    step(*batch(0, image=8), 0)
    assert set(seen) == {False}


@pytest.mark.usefixtures("gpu")
def test_evaluation_between_and_after_epochs_is_not_timed(tmp_path, monkeypatch):
    seen = {"evaluation": set(), "training": set()}
    plain = step_module.TrainStep.compute

    def compute(self, inputs, shards):
        seen["training"].add((shards[0].batch == self.batch_size, CUDNN.benchmark))
        plain(self, inputs, shards)

    from fastait.training import loop, watch

    evaluate = loop.evaluate

    def watched_evaluate(model, *args, **options):
        hook = model.register_forward_hook(lambda *_: seen["evaluation"].add(CUDNN.benchmark))
        try:
            return evaluate(model, *args, **options)
        finally:
            hook.remove()

    monkeypatch.setattr(step_module.TrainStep, "compute", compute)
    for module in (loop, watch):
        monkeypatch.setattr(module, "evaluate", watched_evaluate)
    options = {"image_size": 8, "epochs": 2, "eval_samples": 10, "val_fraction": 0.05, "device": "cpu"}
    run_training(recipe("digits", method="natural", out=tmp_path / "run", **options))
    assert seen == {"evaluation": {False}, "training": {(True, True), (False, False)}}
