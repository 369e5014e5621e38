"""What the C library does with memory that is given back."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER, _LARGEST = 2**31 - 1, 1 << 25


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
