"""What every operator needs: triton if it is there, argument checks, and the choice between kernel and torch."""

from collections.abc import Callable
from contextlib import nullcontext
from numbers import Integral, Real
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

FLOAT_DTYPES = (*KERNEL_DTYPES, torch.float64)

LARGEST = float(torch.finfo(torch.float64).max)

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


def to_unit(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 of any shape as ``dtype`` in [0, 1], like it in memory: v / 255, rounded once, the same on every device.

    The divisor lies on the pixels' device: by a number, or by a tensor on the CPU, a GPU divides as a product with the
    reciprocal, which is another float for 126 of the 256 values. Nothing is copied to the device.
    """
    return pixels.to(dtype).div_(torch.full((), 255, dtype=dtype, device=pixels.device))


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


def described(value: Any) -> str:
    """What a wrong argument is, for a message."""
    if isinstance(value, Tensor):
        return f"a tensor, {value.dtype} {list(value.shape)} on {value.device}"
    kind = type(value).__name__
    if type(value).__module__ != "builtins":
        kind = f"{type(value).__module__.split('.')[0]}.{kind}"
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return f"{kind} {list(shape)}"
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a whole number of {value.bit_length()} bits"
    return f"{' '.join(repr(value).split()):.40} ({kind})"  # tensors in a list have line breaks


def check_tensor(name: str, t: Any, what: str = "tensor") -> None:
    """Raise a TypeError unless ``t`` is a tensor, a ValueError unless it is a strided one."""
    if not isinstance(t, Tensor):
        hint = f"; torch.as_tensor({name}, device=...) makes one" if hasattr(t, "__array__") else ""
        raise TypeError(f"{name} must be a {what}, got {described(t)}{hint}")
    if t.layout != torch.strided:
        raise ValueError(f"{name} must be a dense tensor, got {t.layout}; {name}.to_dense() makes one")


def check_float(name: str, t: Any, what: str = "images, [0, 1] or normalised") -> None:
    """Raise a TypeError unless ``t``, which holds ``what``, is floating-point, of a type that is computed in."""
    check_tensor(name, t)
    if t.dtype not in FLOAT_DTYPES:
        raise TypeError(f"{name} must be floating-point ({what}) of 16, 32 or 64 bits, got {t.dtype} {list(t.shape)}")


def check_same(name: str, t: Any, x: Tensor, *, other: str = "x") -> None:
    """Raise unless ``t`` has the shape, dtype and device of ``x``, which the message calls ``other``."""
    check_tensor(name, t)
    if t.shape != x.shape:
        raise ValueError(f"{name} must have {other}'s shape {tuple(x.shape)}, got {tuple(t.shape)}")
    if t.dtype != x.dtype:
        raise TypeError(f"{name} must have {other}'s dtype {x.dtype}, got {t.dtype}")
    if t.device != x.device:
        raise ValueError(f"{name} must be on {other}'s device {x.device}, got {t.device}")


def check_like(name: str, t: Any, x: Tensor) -> None:
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


def check_rows(name: str, t: Any, what: str) -> None:
    """Raise unless ``t``, which holds ``what``, is floating-point [B, K] with contiguous rows."""
    check_float(name, t, what)
    if t.dim() != 2:
        raise ValueError(f"{name} must be two-dimensional ({what}), got shape {tuple(t.shape)}")
    if t.shape[1] == 0:
        raise ValueError(f"{name} must have at least one column ({what}), got shape {tuple(t.shape)}")
    if t.shape[1] > 1 and t.stride(1) != 1:
        raise ValueError(f"{name} must have contiguous rows, got strides {t.stride()}; {name}.contiguous() has them")


def check_labels(name: str, y: Any, logits: Tensor) -> None:
    """Raise unless ``y`` is int64 [B] beside logits [B, K].

    Values out of range raise where that costs no synchronisation, that is on the CPU outside of tracing; on a GPU the
    kernels make their rows' losses and gradients NaN instead and never read outside the row.
    """
    check_tensor(name, y, "tensor of classes")
    if y.shape == logits.shape and y.dim() == 2:
        raise (TypeError if y.dtype != torch.int64 else ValueError)(
            f"{name} must be int64 classes of shape {tuple(logits.shape[:1])}, got {y.dtype} {tuple(y.shape)}: "
            f"soft or one-hot labels are for soft_cross_entropy, {name}.argmax(1) makes classes of one-hot ones"
        )
    if y.dtype != torch.int64:
        hint = "" if y.is_floating_point() or y.dtype == torch.bool else f"; {name}.long() converts"
        raise TypeError(f"{name} must be int64, got {y.dtype} {tuple(y.shape)}{hint}")
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


def check_counter(name: str, t: Any, device: torch.device) -> None:
    """Raise a TypeError or ValueError unless ``t`` is int64 [1] on ``device``."""
    wanted = f"{name} must be int64 [1] on {device}"
    if t is not None and not isinstance(t, Tensor):
        raise TypeError(f"{wanted}, got {described(t)}; torch.tensor([...], device=...) makes one")
    if t is None or t.dtype != torch.int64 or t.shape != (1,) or t.device != device:
        got = "nothing" if t is None else f"{t.dtype} {tuple(t.shape)} on {t.device}"
        raise ValueError(f"{wanted}, got {got}")


def check_integer(name: str, value: Any) -> int:
    """``value`` as an int; raise a TypeError unless it is one of Python's or numpy's."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, (bool, Tensor)) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {described(value)}")
    return int(value)


def check_number(name: str, value: Any, or_what: str = "") -> float:
    """``value`` as a number; raise unless it is one (Python's or numpy's, no bool) and not NaN."""
    if isinstance(value, (float, int)) and not isinstance(value, bool):
        if isinstance(value, int) and not -LARGEST <= value <= LARGEST:
            raise ValueError(f"{name} must be a number that a float can be, got one of {value.bit_length()} bits")
        number = value  # a float that torch.compile traces stays one
    elif isinstance(value, Real) and not isinstance(value, bool):
        number = float(value)
    else:
        raise TypeError(f"{name} must be a number{or_what}, got {described(value)}")
    if number != number:
        raise ValueError(f"{name} must be a number, got nan")
    return number


def check_epsilon(epsilon: Any, or_what: str = "") -> float:
    """``epsilon`` as a number; raise a ValueError unless it is at least 0."""
    if isinstance(epsilon, Real) and not epsilon >= 0:  # type: ignore[operator]
        raise ValueError(f"epsilon must be >= 0, got {epsilon}")
    return check_number("epsilon", epsilon, or_what)


def check_reduction(reduction: Any) -> None:
    """Raise a ValueError unless ``reduction`` is one of ``REDUCTIONS``."""
    if not isinstance(reduction, str) or reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {described(reduction)}")


def reduce(loss: Tensor, reduction: str) -> Tensor:
    """``mean``, ``sum`` or ``none`` of per-row losses [B]."""
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
