"""Numbers that may differ from channel to channel or from image to image: step sizes, radii and limits of pixels.

Attacks in normalised space have one of each for every channel. Such a number is a tensor that broadcasts to the images
and differs along their first two dimensions at most. A kernel finds where along these its elements lie and reads the
few values through the cache; a tensor of the images' size is never made of them.
"""

import math
from typing import Any

import torch
from torch import Tensor

from fastait_kernels._support import (
    FLOAT_DTYPES,
    HAS_TRITON,
    check_epsilon,
    check_number,
    check_tensor,
    jit,
    tl,
    use_kernel,
)

Number = float | Tensor

FORMS = "one value, one per channel [C, 1, 1], per image [B, 1, 1, 1] or both [B, C, 1, 1]"

PLAIN = tl.constexpr(-1) if HAS_TRITON else -1
"""In the place of a stride: there is no pointer but a number."""

LONGEST = 1 << 30
"""Elements from one place along a dimension to its next return: counted in 32 bits."""


def check_broadcast(name: str, value: Any, x: Tensor) -> Number:
    """``value`` as a number or a detached tensor that a kernel on ``x`` can read; raise where it is neither.

    A tensor's values are not looked at here, which would wait for a GPU; see ``check_values``.
    """
    if not isinstance(value, Tensor):
        return check(name, value)
    check_type(name, value)
    if value.device != x.device and (value.dim() > 0 or value.device.type != "cpu"):
        raise ValueError(f"{name} must be on x's device {x.device}, got {value.device}; {name}.to(x.device) moves it")
    aligned = (1,) * (x.dim() - value.dim()) + tuple(value.shape)
    fits = len(aligned) == x.dim() and all(
        size == 1 or (size == whole and d < 2) for d, (size, whole) in enumerate(zip(aligned, x.shape, strict=True))
    )
    if not fits:
        raise ValueError(
            f"{name} must be a number or a tensor of {FORMS}, got {list(value.shape)} for x of {list(x.shape)}"
        )
    return value.detach()


def check(name: str, value: Any) -> Number:
    """``value`` as a number, or as it is if it is a floating-point tensor; raise where it is neither."""
    if isinstance(value, Tensor):
        check_type(name, value)
        return value
    or_what = f" or a tensor of {FORMS}"
    return check_epsilon(value, or_what) if name == "epsilon" else check_number(name, value, or_what)


def check_type(name: str, value: Tensor) -> None:
    """Raise unless a tensor of numbers is floating-point, of 16, 32 or 64 bits."""
    check_tensor(name, value)
    if value.dtype not in FLOAT_DTYPES:
        got = f"{value.dtype} {list(value.shape)}"
        raise TypeError(f"{name} must be a number or a floating-point tensor, got {got}; {name}.float() converts")


def check_values(epsilon: Number) -> None:
    """Raise a ValueError where a radius on the CPU is negative or NaN. Called inside the operators."""
    if isinstance(epsilon, Tensor) and epsilon.device.type == "cpu" and epsilon.numel():
        least = float(epsilon.min())  # NaN where there is one
        if not least >= 0:
            raise ValueError(f"epsilon must be >= 0, got {least}")


def split(number: Number) -> tuple[float, Tensor | None]:
    """For an operator's schema: (number, None) or (0, tensor)."""
    return (0.0, number) if isinstance(number, Tensor) else (number, None)


def join(number: float, tensor: Tensor | None, x: Tensor) -> Number:
    """What ``split`` took apart. A value on the CPU for images that are not is a plain number."""
    return number if tensor is None else tensor if tensor.device == x.device else float(tensor)


def differ(*numbers: Number) -> bool:
    """Whether one of them is a tensor."""
    return any(isinstance(number, Tensor) for number in numbers)


def in_dtype(number: Number, like: Tensor) -> Number:
    """For the torch references: a tensor in the dtype of ``like``, a number as it is."""
    return number.to(like.dtype) if isinstance(number, Tensor) else number


def clip_(t: Tensor, lower: Number, upper: Number) -> Tensor:
    """``t`` written over with what it is within limits, which may be of every kind."""
    if not isinstance(lower, Tensor) and not isinstance(upper, Tensor):
        return t.clamp_(_reached(lower, t), _reached(upper, t))
    for limit, nearer in ((lower, torch.maximum), (upper, torch.minimum)):
        nearer(t, torch.as_tensor(limit, dtype=t.dtype, device=t.device), out=t)
    return t


def _reached(limit: float, t: Tensor) -> float:
    """A limit that torch takes: one that no finite value of ``t`` comes to is infinite."""
    return limit if abs(limit) <= torch.finfo(t.dtype).max else math.copysign(math.inf, limit)


def strides(number: Number, x: Tensor) -> tuple[int, int]:
    """Elements between a number's values for neighbours along the first two dimensions of ``x``, or PLAIN."""
    if not isinstance(number, Tensor):
        return int(PLAIN), 0
    across = number.expand(x.shape).stride()
    image, channel = (across[d] if d < x.dim() and x.shape[d] > 1 else 0 for d in range(2))
    return image, channel


def places(x: Tensor, *numbers: Number) -> dict[str, int]:
    """The compile-time arguments of ``where_along`` for the dimensions of ``x`` along which the numbers differ.

    The outermost dimension has no size: its places do not return, and another number of images is no other kernel.
    """
    found = {}
    for d, name in enumerate(("IMAGE", "CHANNEL")):
        differs = any(strides(number, x)[d] > 0 for number in numbers)
        stride, size = (x.stride(d), x.shape[d]) if differs else (0, 0)
        found[f"{name}_STRIDE"] = stride
        found[f"{name}_SIZE"] = size if stride * size < x.numel() else 0
    return found


def kernel_takes(x: Tensor, *numbers: Number) -> bool:
    """Whether the kernels serve images ``x`` with these numbers."""
    if not use_kernel(x):
        return False
    found = places(x, *numbers)
    return all(found[f"{d}_STRIDE"] * max(found[f"{d}_SIZE"], 1) < LONGEST for d in ("IMAGE", "CHANNEL"))


@jit
def where_along(start, n, STRIDE: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Where along a dimension the BLOCK elements from ``start`` on lie, of ``n`` in all; one number if all lie at one.

    Elements past the end, which a mask keeps from memory, lie where the last one does.
    """
    if STRIDE == 0:
        found = start
    elif STRIDE % BLOCK == 0:
        found = start // STRIDE
        if SIZE > 0:
            found = found % SIZE
    elif SIZE > 0:
        found = ((start % (STRIDE * SIZE)).to(tl.int32) + tl.arange(0, BLOCK)) // STRIDE % SIZE
    else:
        found = start // STRIDE + ((start % STRIDE).to(tl.int32) + tl.arange(0, BLOCK)) // STRIDE
        found = tl.minimum(found, (n - 1) // STRIDE)
    return found


@jit
def value(number, image, channel, IMAGE: tl.constexpr, CHANNEL: tl.constexpr):
    """A number as fp32: itself, or what lies behind a pointer for an image and a channel; see ``strides``."""
    if IMAGE == PLAIN:
        found = tl.full((), number, tl.float32)
    else:
        if IMAGE != 0:
            number = number + image * IMAGE
        if CHANNEL != 0:
            number = number + channel * CHANNEL
        found = tl.load(number).to(tl.float32)
    return found
