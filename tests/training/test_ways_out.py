"""NCCL waits for ever when a group is destroyed while a captured graph that uses it is alive, so the graph goes first,
on every way out of a run and whoever holds the loop. On stand-ins for the GPU and for the other process.
"""

import json
import os
import signal
import weakref
from pathlib import Path

import pytest
import torch.distributed as dist
from fake_cuda import FakeCuda, FakeGraph
from torch import nn

from fastait import recipe, run_training
from fastait.runtime import processes
from fastait.runtime.errors import InputError, Interrupted, RunError
from fastait.runtime.processes import Ranks
from fastait.training import prepare
from fastait.training.graph import Graph
from fastait.training.loop import Loop
from fastait.training.pace import Backlog, Decisions
from fastait.training.step import Totals, TrainStep


class Parallel(nn.Module):
    """In the place of DistributedDataParallel."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args):
        return self.module(*args)


@pytest.fixture
def happened(monkeypatch):
    """What happened, in order: "captured", "reset" and "destroyed"; with whether the group was held at its end."""
    found, held = [], []
    FakeCuda(monkeypatch)
    capture, reset = Graph.__init__, FakeGraph.reset

    def captured(graph, *args, **options):
        capture(graph, *args, **options)
        found.append("captured")

    def parallel(ranks, model):
        wrapped = Parallel(model)
        held.append(weakref.ref(wrapped))
        return wrapped

    def destroyed():
        found.append("destroyed" if all(ref() is None for ref in held) else "destroyed, but held")

    monkeypatch.setattr(Graph, "__init__", captured)
    monkeypatch.setattr(FakeGraph, "reset", lambda graph: (reset(graph), found.append("reset")))
    monkeypatch.setattr(FakeGraph, "replay", lambda graph: None)
    for name, value in {"WORLD_SIZE": 2, "RANK": 0, "LOCAL_RANK": 0, "MASTER_ADDR": "", "MASTER_PORT": 0}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(processes, "_store_of_this_start", lambda rank, size: None)
    for name in ("init_process_group", "barrier", "all_reduce", "broadcast_object_list"):
        monkeypatch.setattr(dist, name, lambda *args, **options: None)
    monkeypatch.setattr(dist, "destroy_process_group", destroyed)
    monkeypatch.setattr(Ranks, "data_parallel", parallel)
    monkeypatch.setattr(prepare, "_use_graph", lambda *args: True)
    return found


def run():
    run_training(recipe("digits", image_size=8, epochs=1, eval_samples=10, device="cpu", out=Path("run")))


def at_the_third_step(patch, act):
    call, calls = TrainStep.__call__, []

    def counted(step, *args):
        call(step, *args)
        calls.append(1)
        if len(calls) == 3:
            act()

    patch.setattr(TrainStep, "__call__", counted)


def raising(error):
    def act():
        raise error

    return act


WAYS = {
    "signal": (Interrupted, lambda patch: lambda: os.kill(os.getpid(), signal.SIGTERM)),
    "NaN": (RunError, lambda patch: lambda: patch.setattr(Totals, "bad_step", lambda totals: 2)),
    "input": (InputError, lambda patch: raising(InputError("wrong"))),
    "interrupt": (KeyboardInterrupt, lambda patch: raising(KeyboardInterrupt())),
    "memory": (RunError, lambda patch: raising(MemoryError())),
    "bug": (KeyError, lambda patch: raising(KeyError("bug"))),
    "exit": (SystemExit, lambda patch: raising(SystemExit(3))),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_graph_goes_before_the_group(happened, monkeypatch, way):
    error, act = WAYS[way]
    at_the_third_step(monkeypatch, act(monkeypatch))
    with pytest.raises(error):
        run()
    assert happened == ["captured", "reset", "destroyed"]


def test_the_graph_goes_before_the_group_after_a_whole_run(happened):
    run()
    assert happened == ["captured", "reset", "destroyed"]


def test_each_step_is_counted_and_few_decided_after(happened, monkeypatch):
    counted, decided = [], []
    largest = Decisions.largest

    def noted(decisions, step, *values):
        decided.append(step)
        return largest(decisions, step, *values)

    monkeypatch.setattr(Backlog, "add", lambda backlog: counted.append(1))
    monkeypatch.setattr(Decisions, "largest", noted)
    run()
    (epoch,) = map(json.loads, Path("run/metrics.jsonl").read_text().splitlines())
    assert len(counted) == epoch["step"]
    assert len(decided) <= epoch["step"] // 2
    assert decided[-1] == epoch["step"]  # the last step is always one


def test_whoever_keeps_the_loop_keeps_neither_graph_nor_group(happened, monkeypatch):
    loops = []
    plain = Loop.train
    monkeypatch.setattr(Loop, "train", lambda loop, stop: (loops.append(loop), plain(loop, stop)))
    at_the_third_step(monkeypatch, raising(InputError("wrong")))
    with pytest.raises(InputError):
        run()
    assert happened == ["captured", "reset", "destroyed"]
    assert not loops[0].train_step.graphs


def test_a_parameter_that_the_loss_does_not_reach(monkeypatch):
    """In several processes; torch says so at the second step."""
    words = "Expected to have finished reduction in the prior iteration before starting a new one."
    at_the_third_step(monkeypatch, raising(RuntimeError(words)))
    with pytest.raises(RunError, match="the loss does not reach all of the network's parameters"):
        run()
