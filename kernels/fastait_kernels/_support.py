"""What every operator needs: triton if it is there, argument checks, and the choice between kernel and torch."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl

    HAS_TRITON = True
except ImportError:  # no triton wheel for this platform: the torch references serve
    HAS_TRITON = False

    class _Absent:
        """Lets the kernels' signatures be read; nothing calls them."""

        constexpr = int

    tl = _Absent()


KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What the kernels take; fp64, for gradient checks, is computed by the torch references."""

REDUCTIONS = ("mean", "sum", "none")


def jit(function: Callable) -> Any:
    """``triton.jit`` where triton is installed."""
    return triton.jit(function) if HAS_TRITON else function


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least ``n``."""
    return 1 << max(n - 1, 0).bit_length()


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def use_kernel(t: Tensor) -> bool:
    """Whether ``t`` is for a Triton kernel: on a GPU, in a type that the kernels take."""
    return HAS_TRITON and t.is_cuda and t.dtype in KERNEL_DTYPES


def on_device_of(t: Tensor) -> Any:
    """Launch on the tensor's GPU rather than on the current one."""
    return torch.cuda.device(t.device) if t.is_cuda else nullcontext()


def widen(t: Tensor) -> Tensor:
    """fp32 for half precision; fp32 and fp64 as they are."""
    return t.float() if t.element_size() < 4 else t


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that losses come in: fp32, or fp64 for fp64 inputs."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def same_layout(a: Tensor, b: Tensor) -> bool:
    """One shape, one order of the elements in memory; the stride of a dimension of size one does not count."""
    if a.shape != b.shape:
        return False
    return a.numel() == 0 or all(p == q for size, p, q in zip(a.shape, a.stride(), b.stride(), strict=True) if size > 1)


def is_dense(t: Tensor) -> bool:
    """Whether the elements fill their stretch of memory without gaps or overlaps, in any order."""
    expected = 1
    for _ in range(sum(size > 1 for size in t.shape)):
        # Written without a sort, which torch.compile cannot trace.
        for size, stride in zip(t.shape, t.stride(), strict=True):
            if size > 1 and stride == expected:
                expected *= size
                break
        else:
            return t.numel() == 0
    return True


def check_float(name: str, t: Tensor) -> None:
    """Raise a TypeError unless ``t`` is floating-point."""
    if not t.is_floating_point():
        raise TypeError(f"{name} must be floating-point (images in [0, 1]), got {t.dtype}")


def check_same(name: str, t: Tensor, x: Tensor, *, other: str = "x") -> None:
    """Raise unless ``t`` has the shape, dtype and device of ``x``, which the message calls ``other``."""
    if t.shape != x.shape:
        raise ValueError(f"{name} must have {other}'s shape {tuple(x.shape)}, got {tuple(t.shape)}")
    if t.dtype != x.dtype:
        raise TypeError(f"{name} must have {other}'s dtype {x.dtype}, got {t.dtype}")
    if t.device != x.device:
        raise ValueError(f"{name} must be on {other}'s device {x.device}, got {t.device}")


def check_like(name: str, t: Tensor, x: Tensor) -> None:
    """Raise unless ``t`` has the shape, dtype, device and memory layout of ``x``."""
    check_same(name, t, x)
    if not same_layout(t, x):
        raise ValueError(
            f"{name} must have x's memory layout, strides {x.stride()}, got {t.stride()}; "
            "bring both to one memory format first (contiguous or channels_last)"
        )


def check_dense(name: str, t: Tensor) -> None:
    """Raise a ValueError unless ``t`` fills its memory without gaps."""
    if not is_dense(t):
        raise ValueError(f"{name} must be dense (contiguous, channels_last or a permutation), got strides {t.stride()}")


def check_rows(name: str, t: Tensor) -> None:
    """Raise unless ``t`` is floating-point [B, K] with contiguous rows."""
    check_float(name, t)
    if t.dim() != 2:
        raise ValueError(f"{name} must be two-dimensional, got shape {tuple(t.shape)}")
    if t.shape[1] > 1 and t.stride(1) != 1:
        raise ValueError(f"{name} must have contiguous rows, got strides {t.stride()}")


def check_labels(name: str, y: Tensor, logits: Tensor) -> None:
    """Raise unless ``y`` is int64 [B] beside logits [B, K].

    Values out of range raise where that costs no synchronisation, that is on the CPU outside of tracing; on a GPU the
    kernels make their rows' losses and gradients NaN instead and never read outside the row.
    """
    if y.dtype != torch.int64:
        raise TypeError(f"{name} must be int64, got {y.dtype}")
    if y.shape != logits.shape[:1]:
        raise ValueError(f"{name} must have shape {tuple(logits.shape[:1])}, got {tuple(y.shape)}")
    if y.device != logits.device:
        raise ValueError(f"{name} must be on the logits' device {logits.device}, got {y.device}")


def check_label_range(name: str, y: Tensor, num_classes: int) -> None:
    """Raise a ValueError where a label on the CPU is out of [0, num_classes). Called inside the operators."""
    if y.device.type == "cpu" and y.numel():
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= num_classes:
            bad = low if low < 0 else high
            raise ValueError(f"{name} must be in [0, {num_classes}), the number of classes, got {bad}")


def check_counter(name: str, t: Tensor | None, device: torch.device) -> None:
    """Raise a ValueError unless ``t`` is int64 [1] on ``device``."""
    if t is None or t.dtype != torch.int64 or t.shape != (1,) or t.device != device:
        got = "nothing" if t is None else f"{t.dtype} {tuple(t.shape)} on {t.device}"
        raise ValueError(f"{name} must be int64 [1] on {device}, got {got}")


def check_epsilon(epsilon: float) -> None:
    """Raise a ValueError unless ``epsilon`` >= 0."""
    if not epsilon >= 0:
        raise ValueError(f"epsilon must be >= 0, got {epsilon}")


def reduce(loss: Tensor, reduction: str) -> Tensor:
    """``mean``, ``sum`` or ``none`` of per-row losses [B]."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    return loss if reduction == "none" else loss.mean() if reduction == "mean" else loss.sum()


@jit
def round_to(x, dtype: tl.constexpr):
    """fp32 to ``dtype``, to nearest, ties to even; spelled out for bf16, which the interpreter would truncate."""
    if dtype == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).to(tl.int16)
        rounded = tl.where(x != x, 0x7FC0, rounded).to(tl.int16)
        return rounded.to(tl.bfloat16, bitcast=True)
    else:
        return x.to(dtype)


@jit
def round_inside(x, low, high, dtype: tl.constexpr):
    """``x`` in [low, high] as the nearest ``dtype`` in [low, high].

    Rounding to a 16-bit type can leave the interval by half a unit in the last place, and bf16's units near one are as
    large as 1/128; such values take the neighbour on the inner side.
    """
    if dtype == tl.float32:
        return x
    else:  # the compiler reads on after a return
        rounded = round_to(x, dtype)
        wide = rounded.to(tl.float32)
        bits = rounded.to(tl.int16, bitcast=True)
        down = tl.where(wide > 0, bits - 1, tl.where(wide < 0, bits + 1, -32767))
        up = tl.where(wide < 0, bits - 1, tl.where(wide > 0, bits + 1, 1))
        inside = tl.where(wide > high, down, tl.where(wide < low, up, bits)).to(tl.int16)
        return inside.to(dtype, bitcast=True)


def round_inside_torch(x: Tensor, low: Tensor, high: Tensor, dtype: torch.dtype) -> Tensor:
    """The torch reference of ``round_inside``."""
    rounded = x.to(dtype)
    if rounded.element_size() >= 4:
        return rounded
    wide, bits = rounded.float(), rounded.view(torch.int16)
    down = torch.where(wide > 0, bits - 1, torch.where(wide < 0, bits + 1, -32767))
    up = torch.where(wide < 0, bits - 1, torch.where(wide > 0, bits + 1, 1))
    inside = torch.where(wide > high, down, torch.where(wide < low, up, bits)).to(torch.int16)
    return inside.view(dtype)
