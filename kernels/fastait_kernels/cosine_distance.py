"""The distance that adversarial interpolation descends in feature space.

One launch that reads both feature matrices once and writes the distances and, where it will be needed, the gradient:
the backward pass only scales it. Five launches with the mean's three, where eager torch takes 32.
"""

import torch
from torch import Tensor

from fastait_kernels._support import (
    accumulate_dtype,
    check_reduction,
    check_rows,
    check_same,
    jit,
    next_power_of_2,
    on_device_of,
    reduce,
    tl,
    use_kernel,
    widen,
)

COSINE_EPSILON = 1e-6
"""Norms are at least this, as in the authors' release."""

BLOCK = 4096
"""Features up to this many stay in registers; longer ones are read a second time for the gradient, from the cache."""


def cosine_distance(features: Tensor, target_features: Tensor, reduction: str = "mean") -> Tensor:
    """clamp(1 - cos(features, target_features), min=0) of each row; differentiable in ``features``.

    Args:
        features: float [B, D], rows contiguous.
        target_features: like ``features``; a constant.
        reduction: ``mean`` over the rows, ``sum`` or ``none``.

    Returns:
        fp32 (fp64 for fp64 features), in [0, 2]; a scalar or [B] for ``none``.

    Raises:
        TypeError: a dtype is not floating-point, or they differ.
        ValueError: shapes or devices differ, rows are not contiguous, or ``target_features`` requires grad.
    """
    check_rows("features", features, "features [B, D]")
    check_rows("target_features", target_features, "features [B, D]")
    check_reduction(reduction)
    check_same("target_features", target_features, features, other="features")
    if target_features.requires_grad and torch.is_grad_enabled():
        raise ValueError("target_features must not require grad: the distance is differentiable in features alone")
    with_grad = features.requires_grad and torch.is_grad_enabled()
    return reduce(_forward(features, target_features, with_grad)[0], reduction)


@jit
def cosine_kernel(
    distance_ptr,
    grad_ptr,
    features_ptr,
    target_ptr,
    width,
    stride,
    target_stride,
    least,
    GRAD: tl.constexpr,
    ONE_TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A row a program; ``stride`` and ``target_stride`` are the rows' strides."""
    row = tl.program_id(0).to(tl.int64)
    features_ptr += row * stride
    target_ptr += row * target_stride
    column = tl.arange(0, BLOCK)
    if ONE_TILE:
        a = tl.load(features_ptr + column, mask=column < width, other=0.0).to(tl.float32)
        b = tl.load(target_ptr + column, mask=column < width, other=0.0).to(tl.float32)
        dot, square_a, square_b = tl.sum(a * b), tl.sum(a * a), tl.sum(b * b)
    else:
        dots = tl.zeros((BLOCK,), tl.float32)
        squares_a = tl.zeros((BLOCK,), tl.float32)
        squares_b = tl.zeros((BLOCK,), tl.float32)
        for start in range(0, width, BLOCK):
            a = tl.load(features_ptr + start + column, mask=start + column < width, other=0.0).to(tl.float32)
            b = tl.load(target_ptr + start + column, mask=start + column < width, other=0.0).to(tl.float32)
            dots += a * b
            squares_a += a * a
            squares_b += b * b
        dot, square_a, square_b = tl.sum(dots), tl.sum(squares_a), tl.sum(squares_b)
    root_a, root_b = tl.sqrt(square_a), tl.sqrt(square_b)
    norm_a = tl.where(root_a < least, least, root_a)
    norm_b = tl.where(root_b < least, least, root_b)
    cosine = dot / (norm_a * norm_b)
    distance = 1.0 - cosine
    tl.store(distance_ptr + row, tl.where(distance < 0, 0.0, distance))
    if GRAD:
        # d(1 - cos)/da = -(b / |b| - cos a / |a|) / |a|. Where |a| is held at its least value, torch's gradient, which
        # is the one to equal, still has the second term, with the direction of a for a / |a|.
        toward = -1.0 / (norm_a * norm_b)
        away = tl.where(root_a > 0, cosine / (norm_a * root_a), 0.0)
        clamped = distance < 0
        grad_ptr += row * width
        if ONE_TILE:
            tl.store(grad_ptr + column, tl.where(clamped, 0.0, toward * b + away * a), mask=column < width)
        else:
            for start in range(0, width, BLOCK):
                a = tl.load(features_ptr + start + column, mask=start + column < width, other=0.0).to(tl.float32)
                b = tl.load(target_ptr + start + column, mask=start + column < width, other=0.0).to(tl.float32)
                grad = tl.where(clamped, 0.0, toward * b + away * a)
                tl.store(grad_ptr + start + column, grad, mask=start + column < width)


def warps(block: int, element_size: int) -> int:
    """Enough for 16 bytes a thread in warps of 64."""
    return min(8, max(1, block * element_size // 1024))


def launch(distance: Tensor, grad: Tensor | None, features: Tensor, target: Tensor) -> None:
    """Run the kernel."""
    rows, width = features.shape
    if rows == 0:
        return
    block = min(BLOCK, next_power_of_2(width))
    with on_device_of(features):
        cosine_kernel[(rows,)](
            distance,
            grad,
            features,
            target,
            width,
            features.stride(0),
            target.stride(0),
            COSINE_EPSILON,
            GRAD=grad is not None,
            ONE_TILE=width <= block,
            BLOCK=block,
            num_warps=warps(block, features.element_size()),
        )


def reference(features: Tensor, target: Tensor, with_grad: bool) -> tuple[Tensor, Tensor]:
    """Distances and their gradients for ``features`` (empty where not asked for), in torch."""
    a, b = widen(features), widen(target)
    root = a.norm(dim=1, keepdim=True)
    norm_a, norm_b = root.clamp(min=COSINE_EPSILON), b.norm(dim=1, keepdim=True).clamp(min=COSINE_EPSILON)
    cosine = (a * b).sum(dim=1, keepdim=True) / (norm_a * norm_b)
    distance = 1 - cosine
    if not with_grad:
        return distance.clamp(min=0).squeeze(1), a.new_empty(0)
    away = torch.where(root > 0, cosine / (norm_a * root), 0.0)
    grad = torch.where(distance < 0, 0.0, -b / (norm_a * norm_b) + away * a)
    return distance.clamp(min=0).squeeze(1), grad


@torch.library.custom_op("fastait_kernels::cosine_distance", mutates_args=())
def _forward(features: Tensor, target_features: Tensor, with_grad: bool) -> tuple[Tensor, Tensor]:
    if not use_kernel(features):
        return reference(features, target_features, with_grad)
    distance = features.new_empty(len(features), dtype=torch.float32)
    # fp32 until it is scaled: a loss scale must reach it before 16 bits do.
    grad = features.new_empty(features.shape if with_grad else 0, dtype=torch.float32)
    launch(distance, grad if with_grad else None, features, target_features)
    return distance, grad


@_forward.register_fake
def _(features, target_features, with_grad):
    dtype = accumulate_dtype(features.dtype)
    grad = features.new_empty(features.shape if with_grad else 0, dtype=dtype)
    return features.new_empty(features.shape[0], dtype=dtype), grad


@torch.library.custom_op("fastait_kernels::cosine_distance_backward", mutates_args=())
def _backward(upstream: Tensor, grad: Tensor, dtype: torch.dtype) -> Tensor:
    # An operator without a gradient of its own, so that a second derivative is refused rather than wrong.
    return (upstream[:, None] * grad).to(dtype)


@_backward.register_fake
def _(upstream, grad, dtype):
    return torch.empty_like(grad, dtype=dtype)


def _save(ctx, inputs, output):
    ctx.save_for_backward(output[1])
    ctx.dtype = inputs[0].dtype
    ctx.set_materialize_grads(False)


def _differentiate(ctx, distance_grad, grad_grad):
    if distance_grad is None:
        return None, None, None
    (grad,) = ctx.saved_tensors
    return _backward(distance_grad, grad, ctx.dtype), None, None


torch.library.register_autograd("fastait_kernels::cosine_distance", _differentiate, setup_context=_save)
