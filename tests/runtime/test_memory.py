"""What it looks like when memory does not suffice."""

import pytest
import torch

from fastait.runtime.errors import RunError
from fastait.runtime.memory import ran_out


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("could not execute a primitive"), True),
        (RuntimeError("could not create a primitive descriptor for the convolution forward propagation"), False),
        (RuntimeError("unable to mmap 1536 bytes from file <x>: Cannot allocate memory (12)"), True),
        (RuntimeError("std::bad_alloc"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (OSError(28, "No space left on device"), False),
        (RuntimeError("shapes differ"), False),
        (RunError("out of memory"), False),
        (ValueError("out of memory"), False),
    ],
    ids=str,
)
def test_ran_out(error, expected):
    assert ran_out(error) is expected
