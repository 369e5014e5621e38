"""The sign step and its projection: one update of FGSM, PGD and adversarial interpolation.

Three reads and one write of the images in one launch, where eager torch takes eight launches and 19 passes over the
images' memory (sign, scale, add, two bounds, maximum, minimum, clamp).
"""

from typing import Any

import torch
from torch import Tensor

from fastait_kernels._linf_step_kernels import linf_step_kernel, varying_kernel
from fastait_kernels._numbers import (
    Number,
    check,
    check_broadcast,
    check_values,
    clip_,
    differ,
    in_dtype,
    join,
    kernel_takes,
    places,
    split,
    strides,
)
from fastait_kernels._support import (
    cdiv,
    check_dense,
    check_float,
    check_like,
    check_tensor,
    on_device_of,
    round_inside_torch,
    use_kernel,
    widen,
)

BLOCK_BYTES = 4096
"""A program's stretch of each tensor: 16 bytes a thread and more, for warps of 32 and of 64."""


def linf_step(
    x: Tensor,
    grad: Tensor,
    origin: Tensor,
    step_size: Number,
    epsilon: Number,
    lower: Number = 0.0,
    upper: Number = 1.0,
    *,
    out: Tensor | None = None,
    counts: Tensor | None = None,
) -> Tensor:
    """clip(clip(x + step_size sign(grad), origin - epsilon, origin + epsilon), lower, upper).

    Args:
        x: float, any shape, dense in memory (contiguous, channels-last, ...): the current images.
        grad: like ``x``; only its sign counts, and a NaN counts as zero, as in ``torch.sign``.
        origin: like ``x``: the centre of the ball, usually the clean images, in [lower, upper].
        step_size: positive ascends, negative descends; in the units of ``x``.
        epsilon: radius of the ball, >= 0, in the units of ``x``.
        lower, upper: range of valid pixels.
        step_size, epsilon, lower, upper: each a number or a floating-point tensor on ``x``'s device, of one value, one
            per channel [C, 1, 1], per image [B, 1, 1, 1] or both [B, C, 1, 1]: it broadcasts along the first two
            dimensions of ``x``. A tensor is a constant, also where it requires grad. Its values are not looked at on a
            GPU, where that would wait: a negative epsilon is no error there. NaN makes NaN.
        out: like ``x``; written and returned instead of a new tensor.
        counts: int64 [2] on ``x``'s device; the numbers of zero and of NaN gradients are added to it.

    Returns:
        Like ``x``. The arithmetic is fp32 (fp64 for fp64); what is stored in 16 bits is in the ball as stored. NaN and
        infinite pixels do what they do in torch. Not differentiable.

    Raises:
        TypeError: ``x`` is not floating-point, dtypes differ, or a number is neither that nor such a tensor.
        ValueError: shapes, devices or memory layouts differ, ``x`` is not dense, ``epsilon`` is negative, a number is
            NaN, or a tensor does not broadcast.
    """
    numbers = _check(x, grad, origin, step_size, epsilon, lower, upper, counts)
    if out is None and counts is None:
        if differ(*numbers):
            return _linf_step_varying(x, grad, origin, *_split(numbers))
        return _linf_step(x, grad, origin, *numbers)
    if out is None:
        out = torch.empty_like(x)
    check_like("out", out, x)
    if out.requires_grad and torch.is_grad_enabled():
        raise ValueError("out must not require grad where it is written over; detach it")
    if differ(*numbers):
        _linf_step_varying_out(x, grad, origin, *_split(numbers), counts, out)
    else:
        _linf_step_out(x, grad, origin, *numbers, counts, out)
    return out


def linf_step_(
    x: Tensor,
    grad: Tensor,
    origin: Tensor,
    step_size: Number,
    epsilon: Number,
    lower: Number = 0.0,
    upper: Number = 1.0,
    *,
    counts: Tensor | None = None,
) -> Tensor:
    """``linf_step`` written over ``x``, which is returned.

    Raises:
        ValueError: as ``linf_step``, or ``x`` requires grad, or shares memory with ``origin``, whose ball would move.
    """
    numbers = _check(x, grad, origin, step_size, epsilon, lower, upper, counts)
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError("x must not require grad where it is written over; detach it, or use linf_step")
    if differ(*numbers):
        _linf_step_varying_inplace(x, grad, origin, *_split(numbers), counts)
    else:
        _linf_step_inplace(x, grad, origin, *numbers, counts)
    return x


class LinfStep(torch.nn.Module):
    """``linf_step`` with its numbers fixed: ``LinfStep(2 / 255, 8 / 255)(x, grad, origin)``.

    Tensors among them go with the module to its device, and to its dtype, but are not in its state.
    """

    step_size: Number
    epsilon: Number
    lower: Number
    upper: Number

    def __init__(self, step_size: Number, epsilon: Number, lower: Number = 0.0, upper: Number = 1.0):
        super().__init__()
        for name, given in (("step_size", step_size), ("epsilon", epsilon), ("lower", lower), ("upper", upper)):
            number = check(name, given)
            if isinstance(number, Tensor):
                self.register_buffer(name, number.detach(), persistent=False)
            else:
                setattr(self, name, number)
        check_values(self.epsilon)

    def forward(self, x: Tensor, grad: Tensor, origin: Tensor) -> Tensor:
        """See ``linf_step``."""
        return linf_step(x, grad, origin, self.step_size, self.epsilon, self.lower, self.upper)


Numbers = tuple[Number, Number, Number, Number]
"""step_size, epsilon, lower, upper."""


def _check(
    x: Any, grad: Any, origin: Any, step_size: Any, epsilon: Any, lower: Any, upper: Any, counts: Any
) -> Numbers:
    check_float("x", x)
    check_like("grad", grad, x)
    check_like("origin", origin, x)
    check_dense("x", x)
    numbers = (
        check_broadcast("step_size", step_size, x),
        check_broadcast("epsilon", epsilon, x),
        check_broadcast("lower", lower, x),
        check_broadcast("upper", upper, x),
    )
    if counts is not None:
        check_tensor("counts", counts)
        if (counts.dtype, counts.shape, counts.device) != (torch.int64, (2,), x.device) or not counts.is_contiguous():
            raise ValueError(
                f"counts must be contiguous int64 [2] on {x.device}, "
                f"got {counts.dtype} {tuple(counts.shape)} on {counts.device}, strides {counts.stride()}"
            )
    return numbers


def launch(
    out: Tensor,
    x: Tensor,
    grad: Tensor,
    origin: Tensor,
    step_size: Number,
    epsilon: Number,
    lower: Number,
    upper: Number,
    counts: Tensor | None,
) -> None:
    """Run the kernel: for plain numbers one of its own."""
    n = x.numel()
    if n == 0:
        return
    block = BLOCK_BYTES // x.element_size()
    numbers = (step_size, epsilon, lower, upper)
    kernel, varying = linf_step_kernel, {}
    if differ(*numbers):
        kernel, varying = varying_kernel, places(x, *numbers)
        for name, number in zip(("STEP", "EPSILON", "LOWER", "UPPER"), numbers, strict=True):
            varying[f"{name}_IMAGE"], varying[f"{name}_CHANNEL"] = strides(number, x)
    with on_device_of(x):
        kernel[(cdiv(n, block),)](
            out,
            x,
            grad,
            origin,
            counts,
            n,
            step_size,
            epsilon,
            lower,
            upper,
            **varying,
            COUNT=counts is not None,
            BLOCK=block,
            num_warps=4,
        )


def reference(
    x: Tensor,
    grad: Tensor,
    origin: Tensor,
    step_size: Number,
    epsilon: Number,
    lower: Number,
    upper: Number,
    counts: Tensor | None,
) -> Tensor:
    """The same in torch."""
    wide_x, wide_origin, sign = widen(x), widen(origin), torch.sign(widen(grad))
    step_size, epsilon, lower, upper = (in_dtype(t, wide_x) for t in (step_size, epsilon, lower, upper))
    low, high = (clip_(edge, lower, upper) for edge in (wide_origin - epsilon, wide_origin + epsilon))
    moved = sign.mul_(step_size).add_(wide_x)
    moved = torch.minimum(torch.maximum(moved, low, out=moved), high, out=moved)
    if counts is not None:
        counts[0] += (grad == 0).sum()
        counts[1] += grad.isnan().sum()
    return round_inside_torch(moved, low, high, x.dtype)


def _run(x, grad, origin, step_size, epsilon, lower, upper, counts, out):
    check_values(epsilon)
    if kernel_takes(x, step_size, epsilon, lower, upper):
        launch(out, x, grad, origin, step_size, epsilon, lower, upper, counts)
    else:
        out.copy_(reference(x, grad, origin, step_size, epsilon, lower, upper, counts))


def _check_apart(x: Tensor, origin: Tensor) -> None:
    # Both are dense and alike, so they share memory where their stretches of it overlap.
    if abs(x.data_ptr() - origin.data_ptr()) < x.numel() * x.element_size():
        raise ValueError("x must not share memory with origin: the ball would move with the images; clone one of them")


@torch.library.custom_op("fastait_kernels::linf_step", mutates_args=())
def _linf_step(
    x: Tensor, grad: Tensor, origin: Tensor, step_size: float, epsilon: float, lower: float, upper: float
) -> Tensor:
    if not use_kernel(x):
        return reference(x, grad, origin, step_size, epsilon, lower, upper, None)
    out = torch.empty_like(x)
    launch(out, x, grad, origin, step_size, epsilon, lower, upper, None)
    return out


@_linf_step.register_fake
def _(x, grad, origin, step_size, epsilon, lower, upper):
    return torch.empty_like(x)


@torch.library.custom_op("fastait_kernels::linf_step_out", mutates_args=("counts", "out"))
def _linf_step_out(
    x: Tensor,
    grad: Tensor,
    origin: Tensor,
    step_size: float,
    epsilon: float,
    lower: float,
    upper: float,
    counts: Tensor | None,
    out: Tensor,
) -> None:
    _run(x, grad, origin, step_size, epsilon, lower, upper, counts, out)


@torch.library.custom_op("fastait_kernels::linf_step_", mutates_args=("x", "counts"))
def _linf_step_inplace(
    x: Tensor,
    grad: Tensor,
    origin: Tensor,
    step_size: float,
    epsilon: float,
    lower: float,
    upper: float,
    counts: Tensor | None,
) -> None:
    _check_apart(x, origin)
    _run(x, grad, origin, step_size, epsilon, lower, upper, counts, x)


Split = tuple[float, float, float, float, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def _split(numbers: Numbers) -> Split:
    """The numbers as operators take them: floats, and tensors for those that differ."""
    (a, ta), (b, tb), (c, tc), (d, td) = (split(number) for number in numbers)
    return a, b, c, d, ta, tb, tc, td


def _join(split: tuple, x: Tensor) -> Numbers:
    a, b, c, d = (join(number, tensor, x) for number, tensor in zip(split[:4], split[4:], strict=True))
    return a, b, c, d


# Operators of their own, so that the others' schemas and the plain numbers' path stay as they are.
@torch.library.custom_op("fastait_kernels::linf_step_varying", mutates_args=())
def _linf_step_varying(
    x: Tensor,
    grad: Tensor,
    origin: Tensor,
    step_size: float,
    epsilon: float,
    lower: float,
    upper: float,
    step_sizes: Tensor | None,
    epsilons: Tensor | None,
    lowers: Tensor | None,
    uppers: Tensor | None,
) -> Tensor:
    out = torch.empty_like(x)
    numbers = _join((step_size, epsilon, lower, upper, step_sizes, epsilons, lowers, uppers), x)
    _run(x, grad, origin, *numbers, None, out)
    return out


@_linf_step_varying.register_fake
def _(x, grad, origin, step_size, epsilon, lower, upper, step_sizes, epsilons, lowers, uppers):
    return torch.empty_like(x)


@torch.library.custom_op("fastait_kernels::linf_step_varying_out", mutates_args=("counts", "out"))
def _linf_step_varying_out(
    x: Tensor,
    grad: Tensor,
    origin: Tensor,
    step_size: float,
    epsilon: float,
    lower: float,
    upper: float,
    step_sizes: Tensor | None,
    epsilons: Tensor | None,
    lowers: Tensor | None,
    uppers: Tensor | None,
    counts: Tensor | None,
    out: Tensor,
) -> None:
    numbers = _join((step_size, epsilon, lower, upper, step_sizes, epsilons, lowers, uppers), x)
    _run(x, grad, origin, *numbers, counts, out)


@torch.library.custom_op("fastait_kernels::linf_step_varying_", mutates_args=("x", "counts"))
def _linf_step_varying_inplace(
    x: Tensor,
    grad: Tensor,
    origin: Tensor,
    step_size: float,
    epsilon: float,
    lower: float,
    upper: float,
    step_sizes: Tensor | None,
    epsilons: Tensor | None,
    lowers: Tensor | None,
    uppers: Tensor | None,
    counts: Tensor | None,
) -> None:
    _check_apart(x, origin)
    numbers = _join((step_size, epsilon, lower, upper, step_sizes, epsilons, lowers, uppers), x)
    _run(x, grad, origin, *numbers, counts, x)
