"""What the operators' tests share: where kernels run, and tensors of any dtype and layout."""

import pytest
import torch
from hypothesis import strategies as st

triton = pytest.importorskip("triton", reason="triton is not installed, so there are no kernels to test")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Kernels run on the GPU, or on CPU tensors in Triton's interpreter."""

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LAYOUTS = {
    "contiguous": lambda t: t,
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "permuted": lambda t: t.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
}
SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (3, 3, 19, 18), (0, 3, 4, 4), (4, 3, 32, 32)]


@triton.jit
def _up_to(n):
    for _ in range(n):
        pass


def _loops() -> bool:
    try:
        _up_to[(1,)](2)
    except triton.runtime.errors.InterpreterError:
        return False
    return True


needs_loops = pytest.mark.skipif(
    DEVICE.type == "cpu" and not _loops(), reason="numpy is too new for this triton's interpreter: it cannot loop"
)

# The compiler makes a kernel's floats fp32; the interpreter makes those that fp32 cannot hold fp64 instead.
UNIT = st.one_of(st.just(0.0), st.floats(2**-30, 1))
STEP = st.one_of(st.just(0.0), st.floats(2**-30, 2), st.floats(-2, -(2**-30)))


def random(shape, dtype, layout="contiguous", low=0.0, high=1.0, seed=0):
    """Uniform in [low, high), in the layout, on the kernels' device."""
    generator = torch.Generator().manual_seed(seed)
    t = low + (high - low) * torch.rand(shape, generator=generator)
    return LAYOUTS[layout](t.to(dtype)).to(DEVICE)


def same(a, b):
    """Equal to the bit, NaN being equal to NaN."""
    return a.dtype == b.dtype and torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())
