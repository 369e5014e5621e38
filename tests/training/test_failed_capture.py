"""What a capture that fails leaves in torch's allocator and generator: a model of both, as each version of torch treats
them. tests/gpu shows the same on hardware.
"""

import contextlib
import itertools
from collections import Counter

import pytest
import torch
from fake_cuda import FakeCuda, FakeGraph
from step_inputs import batch

from fastait.training import failed_capture
from fastait.training.graph import CaptureError, Graph


class World:
    """The pools that the allocator records to, how often each is held, and whether the generator is being captured.

    Args:
        version: of torch.
        mended: whether its ``reset`` undoes a capture that failed, as from 2.14 on and in AMD's later builds before.
        fails: what fails: "begin", "body", which ends whole, "end" or "instantiate"; or None.
    """

    def __init__(self, version, mended, fails):
        self.version, self.mended, self.fails = version, mended, fails
        self.recording, self.held, self.drawing = set(), Counter(), True

    def begin(self, pool):
        self.held[pool] += 1
        self.recording.add(pool)

    def end(self, device, pool):
        assert device == 0
        if pool not in self.recording:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.recording.remove(pool)

    def release(self, device, pool):
        assert device == 0
        assert self.held[pool] > 0, "the allocator is broken from now on"
        self.held[pool] -= 1

    def install(self, patch):
        handles = itertools.count(1)
        world = self

        class CUDAGraph(FakeGraph):
            used = complete = instantiated = False

            def pool(self):
                if not self.complete or (world.version == "2.6.0" and not self.instantiated):
                    raise RuntimeError("Called CUDAGraph::pool() without a preceding successful capture.")
                return self.used

            def reset(self):
                if self.used and (self.complete or world.mended):
                    with contextlib.suppress(RuntimeError):
                        world.end(0, self.used)
                    world.release(0, self.used)
                    self.used = False
                if world.mended:
                    world.drawing = True

            def __del__(self):
                self.reset()

        @contextlib.contextmanager
        def graph(cuda_graph, pool=None, stream=None, capture_error_mode="global"):
            cuda_graph.used = pool or (next(handles), 0)
            world.begin(cuda_graph.used)
            fails, world.fails = world.fails, None
            if fails == "begin":
                raise RuntimeError("begin")
            world.drawing = False
            try:
                yield
                if fails == "body":
                    raise RuntimeError("body")
            finally:
                if fails == "end":
                    if world.version == "2.13.0" or world.mended:
                        world.end(0, cuda_graph.used)
                    raise RuntimeError("end")
                world.end(0, cuda_graph.used)
                world.drawing = cuda_graph.complete = True
                if fails == "instantiate":
                    raise RuntimeError("instantiate")
                cuda_graph.instantiated = True

        FakeCuda(patch)
        patch.setattr("fastait.training.graph.clear_up", failed_capture.clear_up)
        patch.setattr(failed_capture, "_KEPT", [])
        patch.setattr(torch, "__version__", self.version)
        patch.setattr(torch, "zeros", lambda *shape, device: None)
        patch.setattr(torch.cuda, "CUDAGraph", CUDAGraph)
        patch.setattr(torch.cuda, "graph", graph)
        patch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, next(handles)))
        names = ["_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool"]
        for name in names:
            patch.delattr(torch._C, name, raising=False)
        patch.setattr(torch._C, names[self.version == "2.6.0"], self.end, raising=False)
        patch.setattr(torch._C, "_cuda_releasePool", self.release, raising=False)

    def assert_as_before(self):
        assert self.recording == set()
        assert not +self.held
        assert self.drawing


@pytest.mark.parametrize("fails", ["begin", "body", "end", "instantiate"])
@pytest.mark.parametrize(
    ("version", "mended"),
    [
        *(("2.6.0", False), ("2.11.0+cu128", False), ("2.12.1", False), ("2.13.0", False)),
        *(("2.14.0a0+nv26.9", True), ("2.14.1+cu130", True), ("3.0", True)),
    ],
)
def test_a_failed_capture_leaves_nothing(monkeypatch, version, mended, fails):
    world = World(version, mended, fails)
    world.install(monkeypatch)
    with pytest.raises(CaptureError, match=fails):
        Graph(lambda images, y: None, batch(0), [])
    world.assert_as_before()


@pytest.mark.parametrize("fails", ["begin", "body", "end", "instantiate"])
@pytest.mark.parametrize("version", ["2.11.0", "2.12.0", "2.13.0"])
def test_what_amd_has_mended_is_not_undone_twice(monkeypatch, version, fails):
    monkeypatch.setattr(torch.version, "hip", "7.2")
    world = World(version, True, fails)
    world.install(monkeypatch)
    with pytest.raises(CaptureError, match=fails):
        Graph(lambda images, y: None, batch(0), [])
    world.assert_as_before()


def test_the_model_notices_what_is_left(monkeypatch):
    world = World("2.11.0", False, "end")
    world.install(monkeypatch)
    monkeypatch.setattr("fastait.training.graph.clear_up", lambda graph, pool, stream: None)
    with pytest.raises(CaptureError, match="end"):
        Graph(lambda images, y: None, batch(0), [])
    assert len(world.recording) == 1
    assert sum(world.held.values()) == 1
    assert not world.drawing


def test_a_capture_that_succeeds_is_released_once(monkeypatch):
    world = World("2.11.0", False, None)
    world.install(monkeypatch)
    graph = Graph(lambda images, y: None, batch(0), [])
    assert sum(world.held.values()) == 1
    graph.close()
    graph.close()
    world.assert_as_before()


def test_a_broken_gpu_is_left_to_the_next_step_to_name(monkeypatch):
    """Nothing can be captured any more: the first error is the one that is told."""

    def broken(stream):
        raise RuntimeError("broken")

    World("2.11.0", False, "end").install(monkeypatch)
    monkeypatch.setattr(failed_capture, "_capture_little", broken)
    with pytest.raises(CaptureError, match="end"):
        Graph(lambda images, y: None, batch(0), [])
