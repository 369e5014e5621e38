"""What torch before 2.14 leaves behind when a CUDA graph's capture fails, put right.

There the error of ``cudaStreamEndCapture`` is raised before all that has heard of the capture hears of its end. The
allocator then refuses ``empty_cache``, returns no memory when it runs out of some, keeps that of the capture until the
process ends and never frees a tensor that two streams have used; the default generator refuses to draw.
"""

import re
from collections.abc import Callable
from typing import Any

import torch

_KEPT: list["torch.cuda.CUDAGraph"] = []
"""The allocator of pinned memory may hold a pointer to a graph that failed, and no call makes it let go."""


def clear_up(graph: "torch.cuda.CUDAGraph", pool: Any, stream: "torch.cuda.Stream") -> None:
    """End the capture of ``graph`` that failed, for the allocator and the generators too.

    Args:
        graph: captured on ``stream`` with this ``pool``; graphs that share it are not replayed any more.
        pool: of ``torch.cuda.graph_pool_handle``.
        stream: the capture's, and no longer the current one.
    """
    version = tuple(int(number) for number in re.findall(r"\d+", torch.__version__)[:2])
    if version >= (2, 14):
        graph.reset()  # does all of it
        return
    _KEPT.append(graph)
    captured = _runs(graph.pool)  # what failed was its instantiation
    graph.reset()
    names = ("_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool")  # today's, torch 2.6's
    end = next(getattr(torch._C, name) for name in names if hasattr(torch._C, name))
    device = stream.device.index
    # To end what has been ended raises; to release what has been released breaks the allocator.
    ended_here = _runs(lambda: end(device, pool))
    # Torch 2.13 ends but does not release. AMD's later builds of it do both.
    left_by_2_13 = version == (2, 13) and not captured and torch.version.hip is None
    if ended_here or left_by_2_13:
        torch._C._cuda_releasePool(device, pool)
    # A capture that succeeds takes the default generator out of the one that did not.
    _runs(lambda: _capture_little(stream))


def _capture_little(stream: "torch.cuda.Stream") -> None:
    with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=stream, capture_error_mode="thread_local"):
        torch.zeros(1, device=stream.device)


def _runs(call: Callable[[], object]) -> bool:
    try:
        call()
    except RuntimeError:
        return False
    return True
