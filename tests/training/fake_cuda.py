"""Stand-ins for CUDA's streams, events and graphs: what is called while a graph is captured changes nothing, and a
replay calls it again. That nothing of the host is baked into a graph only tests/gpu can show.
"""

import contextlib
from functools import partial
from types import SimpleNamespace

import torch

FAILURE = "CUDA error: operation not permitted when stream is capturing\nand more"


class FakeStream:
    device = torch.device("cuda", 0)

    def wait_stream(self, other):
        pass


class FakeGraph:
    """Remembers the call that is captured; ``torch.cuda.graph`` below puts back what it changed."""

    def __init__(self):
        self.call = None
        self.resets = 0

    def replay(self):
        self.call()

    def reset(self):
        self.call = None
        self.resets += 1


class FakeCuda:
    """What takes the place of torch.cuda while ``patch`` lasts.

    Attributes:
        tensors: what the memory of the fake GPU holds.
        captured: how many captures were begun.
        fails: whether they fail.
        cleared: the graphs that were cleared up after.
        waits: what became of events, in order: ("record" or "synchronize", the event's number).
    """

    def __init__(self, patch):
        self.tensors, self.captured, self.fails, self.cleared = [], 0, False, []
        self.events, self.waits = 0, []
        patch.setattr("fastait.training.graph._no_draws_on_the_cpu", contextlib.nullcontext)  # which is the GPU here
        patch.setattr("fastait.training.graph.clear_up", lambda graph, pool, stream: self.cleared.append(graph))
        patch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
        patch.setattr(torch.cuda, "Stream", FakeStream)
        patch.setattr(torch.cuda, "Event", self.event)
        patch.setattr(torch.cuda, "current_stream", lambda device=None: FakeStream())
        patch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
        patch.setattr(torch.cuda, "set_stream", lambda stream: None)
        patch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
        patch.setattr(torch.cuda, "graph", self.graph)

    @contextlib.contextmanager
    def graph(self, cuda_graph, pool=None, stream=None, capture_error_mode="global"):
        assert capture_error_mode == "thread_local"
        assert pool == (0, 1)
        assert isinstance(stream, FakeStream)
        before = [t.detach().clone() for t in self.tensors]
        self.captured += 1
        try:
            yield
            if self.fails:
                raise RuntimeError(FAILURE)
        finally:
            with torch.no_grad():
                for tensor, value in zip(self.tensors, before, strict=True):
                    tensor.copy_(value)

    def event(self, *, blocking):
        assert blocking  # others keep a core busy
        number = self.events
        self.events += 1
        return SimpleNamespace(
            record=lambda stream: self.waits.append(("record", number)),
            synchronize=lambda: self.waits.append(("synchronize", number)),
        )


def recorded(step):
    """Let the graphs of ``step`` replay what they captured."""
    capture = step._capture

    def and_record(inputs, shards):
        capture(inputs, shards)
        for layers, graph in step.graphs.items():
            graph.graph.call = partial(replay, list(layers), graph.inputs, shards)

    def replay(layers, inputs, shards):
        """What the host had decided is in the graph."""
        now, step.layers = step.layers, layers
        step.compute(inputs, shards)
        step.layers = now

    step._capture = and_record
    return step
