"""How cuDNN chooses its convolutions while a run trains on the one shape that it has."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fastait.runtime.shared import Shared

_CUDNN: Any = torch.backends.cudnn


def _time(cudnn: Any) -> bool:
    before = cudnn.benchmark
    cudnn.benchmark = True
    return before


def _as_before(cudnn: Any, before: bool) -> None:
    cudnn.benchmark = before


_timing = Shared(_time, _as_before)


@contextmanager
def timed_convolutions(device: torch.device) -> Iterator[None]:
    """On a GPU cuDNN times its algorithms for each shape that it has not met and keeps the fastest, rather than guess.

    Only for a shape that comes back often: timing costs as much as many convolutions. Which is the fastest may change
    from run to run, and with it the order of summation: not where a caller asked torch or cuDNN for deterministic
    algorithms. The switch is the process's: it is put back when the last of several threads leaves. torch goes on using
    what it found for a shape in its type and precision.
    """
    if device.type != "cuda" or torch.are_deterministic_algorithms_enabled() or _CUDNN.deterministic:
        yield
        return
    with _timing.held([_CUDNN]):
        yield
