"""The kernels of ``linf_step``: one for plain numbers, one for numbers that differ by image or channel."""

from fastait_kernels._numbers import value, where_along
from fastait_kernels._support import jit, round_inside, tl


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
def varying_kernel(
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
    IMAGE_STRIDE: tl.constexpr,
    IMAGE_SIZE: tl.constexpr,
    CHANNEL_STRIDE: tl.constexpr,
    CHANNEL_SIZE: tl.constexpr,
    STEP_IMAGE: tl.constexpr,
    STEP_CHANNEL: tl.constexpr,
    EPSILON_IMAGE: tl.constexpr,
    EPSILON_CHANNEL: tl.constexpr,
    LOWER_IMAGE: tl.constexpr,
    LOWER_CHANNEL: tl.constexpr,
    UPPER_IMAGE: tl.constexpr,
    UPPER_CHANNEL: tl.constexpr,
    COUNT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``linf_step_kernel`` with numbers that are pointers where they differ; the constants are those of ``value``."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    offsets = start + tl.arange(0, BLOCK)
    image = where_along(start, n, IMAGE_STRIDE, IMAGE_SIZE, BLOCK)
    channel = where_along(start, n, CHANNEL_STRIDE, CHANNEL_SIZE, BLOCK)
    # Read in each branch: kept across them, four numbers for each of 16 half-precision elements spill on some cards.
    if start + BLOCK <= n:
        size = value(step_size, image, channel, STEP_IMAGE, STEP_CHANNEL)
        radius = value(epsilon, image, channel, EPSILON_IMAGE, EPSILON_CHANNEL)
        low = value(lower, image, channel, LOWER_IMAGE, LOWER_CHANNEL)
        high = value(upper, image, channel, UPPER_IMAGE, UPPER_CHANNEL)
        x = tl.load(x_ptr + offsets)
        grad = tl.load(grad_ptr + offsets)
        origin = _or_nan(tl.load(origin_ptr + offsets).to(tl.float32), radius, low, high)
        tl.store(out_ptr + offsets, _moved(x, grad, origin, size, radius, low, high, out_ptr.dtype.element_ty))
        if COUNT:
            _count(counts_ptr, grad.to(tl.float32))
    else:
        size = value(step_size, image, channel, STEP_IMAGE, STEP_CHANNEL)
        radius = value(epsilon, image, channel, EPSILON_IMAGE, EPSILON_CHANNEL)
        low = value(lower, image, channel, LOWER_IMAGE, LOWER_CHANNEL)
        high = value(upper, image, channel, UPPER_IMAGE, UPPER_CHANNEL)
        inside = offsets < n
        x = tl.load(x_ptr + offsets, mask=inside, other=0.0)
        grad = tl.load(grad_ptr + offsets, mask=inside, other=1.0)
        origin = tl.load(origin_ptr + offsets, mask=inside, other=0.0)
        origin = _or_nan(origin.to(tl.float32), radius, low, high)
        moved = _moved(x, grad, origin, size, radius, low, high, out_ptr.dtype.element_ty)
        tl.store(out_ptr + offsets, moved, mask=inside)
        if COUNT:
            _count(counts_ptr, grad.to(tl.float32))


@jit
def _or_nan(origin, epsilon, lower, upper):
    """A number that is NaN makes its images NaN, by way of their origin."""
    origin = tl.where(epsilon == epsilon, origin, float("nan"))
    origin = tl.where(lower == lower, origin, float("nan"))
    return tl.where(upper == upper, origin, float("nan"))


@jit
def _count(counts_ptr, grad):
    tl.atomic_add(counts_ptr, tl.sum((grad == 0).to(tl.int64)))
    tl.atomic_add(counts_ptr + 1, tl.sum((grad != grad).to(tl.int64)))
