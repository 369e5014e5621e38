"""A step as one CUDA graph."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fastait.runtime.errors import words
from fastait.training.failed_capture import clear_up

WARMUP = 3
"""Calls before the capture: kernels are compiled and chosen, workspaces and buckets allocated."""

DISTRIBUTED_WARMUP = 11
"""What torch asks for before a step with DistributedDataParallel is captured."""


class CaptureError(Exception):
    """The call cannot be captured; what it changed has been put back."""


class Graph:
    """``call(*inputs)``, captured once and replayed.

    The call is warmed up and captured on copies of ``inputs``; afterwards every tensor of ``state`` holds what it held
    before, so the first replay is the first call. What the call does besides launching work on the GPU happens while
    it is captured and never again.

    Args:
        call: reads its inputs and ``state``, writes ``state``; allocates what it likes.
        inputs: example tensors on the GPU; replays take tensors of their shapes and dtypes.
        state: every tensor that the call changes and that outlives it.
        stream: to capture on; what the call's gradients were first accumulated on, where that matters.
        warmup: calls before the capture.
        agree: called after the warm-up and, if that went well, after the capture, with what went wrong here or None;
            returns what went wrong in any process that captures beside this one. Called by all of them as often.
        pool: the memory of graphs that are replayed before or after this one, never beside it, and that keep nothing in
            it for their next replay; memory of its own if None.

    Raises:
        CaptureError: here or elsewhere the call does something that a graph cannot hold, a synchronisation for example,
            or the GPU has no room for the graph's memory beside the eager step's.
    """

    def __init__(
        self,
        call: Callable[..., None],
        inputs: Sequence[Tensor],
        state: Sequence[Tensor],
        stream: "torch.cuda.Stream | None" = None,
        warmup: int = WARMUP,
        agree: Callable[[str | None], str | None] = lambda problem: problem,
        pool: Any = None,
    ):
        self.inputs = [tensor.clone() for tensor in inputs]
        self.graph = torch.cuda.CUDAGraph()
        before = [tensor.detach().clone() for tensor in state]
        side = stream or torch.cuda.Stream()
        outside = torch.cuda.current_stream()
        self.pool = pool or torch.cuda.graph_pool_handle()
        side.wait_stream(outside)

        def warm_up() -> None:
            with torch.cuda.stream(side):
                for _ in range(warmup):
                    call(*self.inputs)
            outside.wait_stream(side)

        def capture() -> None:
            # Loader threads may allocate while this thread captures.
            with (
                _no_draws_on_the_cpu(),
                torch.cuda.graph(self.graph, pool=self.pool, stream=side, capture_error_mode="thread_local"),
            ):
                call(*self.inputs)

        unfinished = False
        try:
            problem = agree(_problem(warm_up))
            if problem is None:
                unfinished = True
                own = _problem(capture)
                unfinished = own is not None
                problem = agree(own)
            if problem is not None:
                raise CaptureError(problem)
        except BaseException:
            torch.cuda.set_stream(outside)  # before torch 2.15 a capture that fails leaves its own stream current
            if unfinished:
                clear_up(self.graph, self.pool, side)
            self.close()
            raise
        finally:
            outside.wait_stream(side)
            with torch.no_grad():
                for tensor, value in zip(state, before, strict=True):
                    tensor.copy_(value)

    def takes(self, *inputs: Tensor) -> bool:
        """Whether ``inputs`` have the shapes and dtypes that were captured."""
        return all(a.shape == b.shape and a.dtype == b.dtype for a, b in zip(inputs, self.inputs, strict=True))

    def replay(self, *inputs: Tensor) -> None:
        """``call(*inputs)``."""
        for static, tensor in zip(self.inputs, inputs, strict=True):
            static.copy_(tensor, non_blocking=True)
        self.graph.replay()

    def close(self) -> None:
        """Give back the graph and its memory, whoever else holds this object: there is nothing to replay any more."""
        self.graph.reset()


@contextmanager
def _no_draws_on_the_cpu() -> Iterator[None]:
    """Raise a RuntimeError if what runs within draws random numbers on the CPU, which every replay would repeat."""
    before = torch.default_generator.get_state()
    yield
    if not torch.equal(before, torch.default_generator.get_state()):
        raise RuntimeError("the network draws random numbers on the CPU, and every replay would repeat them")


def _problem(part: Callable[[], None]) -> str | None:
    """The RuntimeError of ``part`` as one line, without the traceback that would keep its tensors."""
    try:
        part()
    except RuntimeError as error:
        return words(error, 300)
    return None
