"""Where the tests of this folder run: on the first GPU or, rehearsed, on the CPU, where stand-ins take a GPU's place.

A rehearsal shows that the tests themselves are right: it runs every line of theirs on little. It says nothing of a GPU.
``tests/gpu/run.py --rehearse`` asks for one by an environment variable.
"""

import os
from contextlib import contextmanager

import pytest
import torch

REHEARSED = os.environ.get("FASTAIT_REHEARSAL") == "1"

if not (REHEARSED or torch.cuda.is_available()):
    pytest.skip("no CUDA GPU", allow_module_level=True)

CPU = torch.device("cpu")
DEVICE = CPU if REHEARSED else torch.device("cuda", 0)

only_on_a_gpu = pytest.mark.skipif(REHEARSED, reason="a rehearsal has nothing in its place")


def scaled(on_gpu, rehearsed):
    """How much of something there is: as much as tells something of a GPU, or as little as runs the lines."""
    return rehearsed if REHEARSED else on_gpu


@contextmanager
def nothing_waits():
    """An error wherever the host would wait for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
