"""Memory: what a GPU has left, what it looks like when none is, and what the C library does with what is given back."""

import ctypes
import errno
import gc
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fastait.runtime.errors import FastaitError, OutOfMemory, first_line

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER, _LARGEST = 2**31 - 1, 1 << 25

_SAYINGS = (
    *("out of memory", "DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
    *("Cannot allocate memory", "bad_alloc"),
)
_WHOLE_SAYINGS = ("could not create a primitive", "could not execute a primitive")
"""oneDNN's; where these words go on, it lacks something else."""


def ran_out(error: BaseException) -> bool:
    """Whether memory did not suffice, of a GPU or the machine; libraries say it in words of their own."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if not isinstance(error, RuntimeError) or isinstance(error, FastaitError):  # which has been said already
        return False
    return first_line(error) in _WHOLE_SAYINGS or any(saying in str(error) for saying in _SAYINGS)


@contextmanager
def said_with(advice: str) -> Iterator[None]:
    """What runs out of memory ends in one line, which says what to do about it.

    Raises:
        OutOfMemory: in the place of whatever says that memory did not suffice.
    """
    try:
        yield
    except OutOfMemory as error:
        raise OutOfMemory(f"{error}; {advice}") from None
    except Exception as error:
        if not ran_out(error):
            raise
        let_go(error)
        raise OutOfMemory(f"out of memory ({first_line(error)}); {advice}") from None


def let_go(error: BaseException) -> None:
    """Give back what the functions that ``error`` came through held, which it would keep as long as itself; it forgets
    all but the first of these."""
    raised: BaseException | None = error
    while raised is not None:
        place = raised.__traceback__
        traceback.clear_frames(place)
        while place is not None:  # functions' cells are held by their frames, and frames by more than the error
            place.tb_next, place = None, place.tb_next
        raised = raised.__context__
    release()


def free_bytes(device: torch.device) -> int:
    """What a CUDA device has free, and what torch holds of it unused. Nothing is changed, no statistics either.

    What a captured graph's own pool holds is left out: nothing else is given memory of it.
    """
    free, _ = torch.cuda.mem_get_info(device)
    index = torch.cuda.current_device() if device.index is None else device.index
    try:
        held = torch.cuda.memory_snapshot()
    except RuntimeError:  # an allocator that is not torch's own
        return free
    shared = (s for s in held if s["device"] == index and tuple(s["segment_pool_id"]) == (0, 0))
    return free + sum(segment["total_size"] - segment["active_size"] for segment in shared)


def release() -> None:
    """Give back what is no longer used, so that what comes next finds one piece of it."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def keep_freed_memory() -> None:
    """Make glibc keep what is freed instead of returning it to the system; elsewhere, nothing.

    A training step on a CPU frees and takes the same hundreds of megabytes again and again, and what was returned
    comes back a page fault at a time. For a process that does nothing else: it concerns all of it.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return
    mallopt(_TRIM_THRESHOLD, _NEVER)
    mallopt(_MMAP_THRESHOLD, _LARGEST)
