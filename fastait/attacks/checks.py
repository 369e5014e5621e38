"""What public attacks are given, checked and brought to the form that they work on."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from fastait.attacks.subject import Subject
from fastait.runtime.arguments import number
from fastait_kernels._support import FLOAT_DTYPES, described, is_dense

Attack = TypeVar("Attack", bound=Callable[..., Any])


def public(attack: Attack) -> Attack:
    """An attack ``(model, x, y, ...)`` as others may call it: any classifier, any layout of the images, any integers
    as labels, also under ``inference_mode``; what it is given is checked."""

    @functools.wraps(attack)
    def call(model: Any, x: Any, y: Any, *args: Any, **options: Any) -> Any:
        with torch.inference_mode(False):
            x = checked_images(x)
            y = checked_labels(y, x)
            return attack(Subject.of(model, classes_of(y)), x, y, *args, **options)

    return call  # type: ignore[return-value]


def checked_images(x: Any) -> Tensor:
    """``x`` as detached, dense float [B, C, H, W]; a view with gaps is copied, so that attacks can write beside it.

    Raises:
        TypeError: it is not floating-point.
        ValueError: it has another shape, or values outside of [0, 1], where they can be read without synchronising.
    """
    if isinstance(x, np.ndarray):
        x = of_array("x", x)
    if not isinstance(x, Tensor) or x.layout != torch.strided:
        raise TypeError(f"x must be a dense tensor of images, got {described(x)}")
    if x.dtype not in FLOAT_DTYPES:
        raise TypeError(f"x must be floating-point in [0, 1], got {x.dtype}; divide uint8 images by 255")
    if x.dim() != 4:
        raise ValueError(f"x must be [B, C, H, W], got shape {tuple(x.shape)}")
    x = x.detach()
    if x.is_inference():
        x = x.clone()
    if not is_dense(x):
        x = x.contiguous()
    if x.numel() and readable(x):
        low, high = x.aminmax()
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"x must be in [0, 1], got {_digits(low)} to {_digits(high)}; normalise inside the model, divide bytes "
                "by 255, clamp what rounding put outside"
            )
    return x


def checked_labels(y: Any, x: Tensor) -> Tensor:
    """``y`` as int64 [B] on the device of ``x``, from a tensor, an array or a list of whole numbers.

    Raises:
        TypeError: they are no whole numbers.
        ValueError: they are not one per image, or negative.
    """
    if not isinstance(y, Tensor):
        y = of_array("y", np.asarray(y))
    if y.layout != torch.strided:
        raise TypeError(f"y must be a dense tensor of classes, got {y.layout}")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise TypeError(
            f"y must be classes, whole numbers [B], got {y.dtype} of shape {tuple(y.shape)}; "
            "of one-hot or soft labels pass y.argmax(dim=1)"
        )
    if y.shape != x.shape[:1]:
        raise ValueError(f"y must be one class per image, [{len(x)}], got shape {tuple(y.shape)}")
    y = y.detach().to(x.device, torch.int64)
    if y.is_inference():
        y = y.clone()
    if y.numel() and readable(y) and int(y.min()) < 0:
        raise ValueError(f"y must be classes from 0 on, got {int(y.min())}")
    return y


def classes_of(y: Tensor) -> int:
    """How many classes there are at least, for there to be those of ``y``; 1 where it cannot be read."""
    return int(y.max()) + 1 if y.numel() and readable(y) else 1


def readable(t: Tensor) -> bool:
    """Whether a value of ``t`` can be read here: not where a graph is captured or a function compiled."""
    traced = type(t).__torch_dispatch__ is not Tensor.__torch_dispatch__  # a subclass that stands for no values
    if torch.compiler.is_compiling() or t.is_meta or traced:
        return False
    return not (t.is_cuda and torch.cuda.is_current_stream_capturing())


def budget(epsilon: Any) -> float:
    """The radius of a Linf ball on images in [0, 1]."""
    return number("epsilon", epsilon, 0, 1)


def source(generator: Any, device: torch.device) -> torch.Generator | None:
    """A generator of random numbers for ``device``, None for the global one.

    Raises:
        TypeError: it is none.
        ValueError: it is another device's.
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {described(generator)}")
    if generator is not None and generator.device.type != device.type:
        raise ValueError(f"generator must be on the images' device {device}, got one on {generator.device}")
    return generator


def of_array(name: str, array: np.ndarray) -> Tensor:
    """An array as a tensor, whatever its order in memory, its byte order, or whether it may be written to."""
    if array.dtype.kind not in "iufbc":
        raise TypeError(f"{name} must be numbers, got {described(array)} of {array.dtype}")
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))


def _digits(value: Tensor) -> str:
    """As many digits as tell it from its neighbours: 1.0000001 is not 1."""
    return str(np.float32(value.item())) if value.dtype != torch.float64 else repr(value.item())
