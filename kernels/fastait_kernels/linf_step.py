"""The sign step and its projection: one update of FGSM, PGD and adversarial interpolation.

Three reads and one write of the images in one launch, where eager torch takes eight launches and 19 passes over the
images' memory (sign, scale, add, two bounds, maximum, minimum, clamp).
"""

import torch
from torch import Tensor

from fastait_kernels._support import (
    cdiv,
    check_dense,
    check_epsilon,
    check_float,
    check_like,
    jit,
    on_device_of,
    round_inside,
    round_inside_torch,
    tl,
    use_kernel,
    widen,
)

BLOCK_BYTES = 4096
"""A program's stretch of each tensor: 16 bytes a thread and more, for warps of 32 and of 64."""


def linf_step(
    x: Tensor,
    grad: Tensor,
    origin: Tensor,
    step_size: float,
    epsilon: float,
    lower: float = 0.0,
    upper: float = 1.0,
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
        out: like ``x``; written and returned instead of a new tensor.
        counts: int64 [2] on ``x``'s device; the numbers of zero and of NaN gradients are added to it.

    Returns:
        Like ``x``. The arithmetic is fp32 (fp64 for fp64); what is stored in 16 bits is in the ball as stored. NaN and
        infinite pixels do what they do in torch. Not differentiable.

    Raises:
        TypeError: ``x`` is not floating-point, or dtypes differ.
        ValueError: shapes, devices or memory layouts differ, ``x`` is not dense, or ``epsilon`` is negative or NaN.
    """
    _check(x, grad, origin, epsilon, counts)
    if out is None and counts is None:
        return _linf_step(x, grad, origin, step_size, epsilon, lower, upper)
    if out is None:
        out = torch.empty_like(x)
    check_like("out", out, x)
    _linf_step_out(x, grad, origin, step_size, epsilon, lower, upper, counts, out)
    return out


def linf_step_(
    x: Tensor,
    grad: Tensor,
    origin: Tensor,
    step_size: float,
    epsilon: float,
    lower: float = 0.0,
    upper: float = 1.0,
    *,
    counts: Tensor | None = None,
) -> Tensor:
    """``linf_step`` written over ``x``, which is returned.

    Raises:
        ValueError: as ``linf_step``, or ``x`` requires grad, or shares memory with ``origin``, whose ball would move.
    """
    _check(x, grad, origin, epsilon, counts)
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError("x must not require grad where it is written over; detach it, or use linf_step")
    _linf_step_inplace(x, grad, origin, step_size, epsilon, lower, upper, counts)
    return x


class LinfStep(torch.nn.Module):
    """``linf_step`` with its numbers fixed: ``LinfStep(2 / 255, 8 / 255)(x, grad, origin)``."""

    def __init__(self, step_size: float, epsilon: float, lower: float = 0.0, upper: float = 1.0):
        super().__init__()
        check_epsilon(epsilon)
        self.step_size, self.epsilon, self.lower, self.upper = step_size, epsilon, lower, upper

    def forward(self, x: Tensor, grad: Tensor, origin: Tensor) -> Tensor:
        """See ``linf_step``."""
        return linf_step(x, grad, origin, self.step_size, self.epsilon, self.lower, self.upper)


def _check(x: Tensor, grad: Tensor, origin: Tensor, epsilon: float, counts: Tensor | None) -> None:
    check_float("x", x)
    check_like("grad", grad, x)
    check_like("origin", origin, x)
    check_dense("x", x)
    check_epsilon(epsilon)
    if counts is not None and (
        counts.dtype != torch.int64 or counts.shape != (2,) or counts.device != x.device or not counts.is_contiguous()
    ):
        raise ValueError(
            f"counts must be contiguous int64 [2] on {x.device}, "
            f"got {counts.dtype} {tuple(counts.shape)} on {counts.device}, strides {counts.stride()}"
        )


@jit
def linf_step_kernel(
    out_ptr,
    x_ptr,
    grad_ptr,
    origin_ptr,
    counts_ptr,
    n,
    step_size,
    epsilon,
    lower,
    upper,
    COUNT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A block of BLOCK elements in memory order; only the last one is masked, so the others are read 16 bytes wide."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    offsets = start + tl.arange(0, BLOCK)
    if start + BLOCK <= n:
        x = tl.load(x_ptr + offsets)
        grad = tl.load(grad_ptr + offsets)
        origin = tl.load(origin_ptr + offsets)
        tl.store(out_ptr + offsets, _moved(x, grad, origin, step_size, epsilon, lower, upper, out_ptr.dtype.element_ty))
        if COUNT:
            _count(counts_ptr, grad.to(tl.float32))
    else:
        inside = offsets < n
        x = tl.load(x_ptr + offsets, mask=inside, other=0.0)
        grad = tl.load(grad_ptr + offsets, mask=inside, other=1.0)
        origin = tl.load(origin_ptr + offsets, mask=inside, other=0.0)
        moved = _moved(x, grad, origin, step_size, epsilon, lower, upper, out_ptr.dtype.element_ty)
        tl.store(out_ptr + offsets, moved, mask=inside)
        if COUNT:
            _count(counts_ptr, grad.to(tl.float32))


@jit
def _moved(x, grad, origin, step_size, epsilon, lower, upper, dtype: tl.constexpr):
    x, grad, origin = x.to(tl.float32), grad.to(tl.float32), origin.to(tl.float32)
    sign = tl.where(grad > 0, 1.0, tl.where(grad < 0, -1.0, 0.0))
    low = tl.minimum(tl.maximum(origin - epsilon, lower), upper)
    high = tl.minimum(tl.maximum(origin + epsilon, lower), upper)
    moved = x + step_size * sign
    moved = tl.maximum(moved, low, propagate_nan=tl.PropagateNan.ALL)
    moved = tl.minimum(moved, high, propagate_nan=tl.PropagateNan.ALL)
    # NaN bounds, of a NaN origin, make the result NaN as in torch.
    moved = tl.where(origin == origin, moved, origin)
    return round_inside(moved, low, high, dtype)


@jit
def _count(counts_ptr, grad):
    tl.atomic_add(counts_ptr, tl.sum((grad == 0).to(tl.int64)))
    tl.atomic_add(counts_ptr + 1, tl.sum((grad != grad).to(tl.int64)))


def launch(
    out: Tensor,
    x: Tensor,
    grad: Tensor,
    origin: Tensor,
    step_size: float,
    epsilon: float,
    lower: float,
    upper: float,
    counts: Tensor | None,
) -> None:
    """Run the kernel."""
    n = x.numel()
    if n == 0:
        return
    block = BLOCK_BYTES // x.element_size()
    with on_device_of(x):
        linf_step_kernel[(cdiv(n, block),)](
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
            COUNT=counts is not None,
            BLOCK=block,
            num_warps=4,
        )


def reference(
    x: Tensor,
    grad: Tensor,
    origin: Tensor,
    step_size: float,
    epsilon: float,
    lower: float,
    upper: float,
    counts: Tensor | None,
) -> Tensor:
    """The same in torch."""
    wide_x, wide_origin = widen(x), widen(origin)
    low = (wide_origin - epsilon).clamp_(lower, upper)
    high = (wide_origin + epsilon).clamp_(lower, upper)
    moved = torch.add(wide_x, torch.sign(widen(grad)), alpha=step_size)
    moved = torch.minimum(torch.maximum(moved, low, out=moved), high, out=moved)
    if counts is not None:
        counts[0] += (grad == 0).sum()
        counts[1] += grad.isnan().sum()
    return round_inside_torch(moved, low, high, x.dtype)


def _run(x, grad, origin, step_size, epsilon, lower, upper, counts, out):
    if use_kernel(x):
        launch(out, x, grad, origin, step_size, epsilon, lower, upper, counts)
    else:
        out.copy_(reference(x, grad, origin, step_size, epsilon, lower, upper, counts))


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
    # Both are dense and alike, so they share memory where their stretches of it overlap.
    if abs(x.data_ptr() - origin.data_ptr()) < x.numel() * x.element_size():
        raise ValueError("x must not share memory with origin: the ball would move with the images; clone one of them")
    _run(x, grad, origin, step_size, epsilon, lower, upper, counts, x)
