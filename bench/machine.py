"""What this machine can do: the most arithmetic a second that a large product or convolution reaches."""

import functools

import torch
import torch.nn.functional as F
from alternating import DEVICE, seconds
from torch.utils.flop_counter import FlopCounterMode


@functools.cache
def peak_flops(dtype=torch.float32):
    """The best of a few: {"matmul": FLOP/s, "convolution": FLOP/s}. Libraries differ, so both are measured."""
    size, images = (8192, 1024) if DEVICE.type == "cuda" else (2048, 128)
    a, b = (torch.randn(size, size, device=DEVICE, dtype=dtype) for _ in range(2))
    x = torch.randn(images, 128, 8, 8, device=DEVICE, dtype=dtype).contiguous(memory_format=torch.channels_last)
    w = torch.randn(128, 128, 3, 3, device=DEVICE, dtype=dtype).contiguous(memory_format=torch.channels_last)
    work = {
        "matmul": (2 * size**3, lambda: a @ b),
        "convolution": (2 * images * 64 * 128 * 128 * 9, lambda: F.conv2d(x, w, padding=1)),
    }
    with torch.no_grad():
        for _, call in work.values():
            call()
        return {name: flops / min(seconds(call) for _ in range(10)) for name, (flops, call) in work.items()}


def forward_flops(model, x):
    """F: the arithmetic of one forward pass."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    return counter.get_total_flops()
