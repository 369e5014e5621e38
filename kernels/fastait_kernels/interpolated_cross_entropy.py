"""Cross-entropy against the paper's labels, from integer classes: neither one-hot nor interpolated labels exist.

Beside what ``soft_cross_entropy`` saves, no [B, K] target is written or read: logits once forward, logits and their
gradient once backward. Eager torch takes 19 launches for labels, loss and gradient, this six.
"""

import torch
from torch import Tensor

from fastait_kernels._support import (
    accumulate_dtype,
    cdiv,
    check_label_range,
    check_labels,
    check_number,
    check_reduction,
    check_rows,
    jit,
    on_device_of,
    reduce,
    round_to,
    tl,
)
from fastait_kernels.soft_cross_entropy import (
    exact_dtype,
    kernel_takes,
    reference_backward,
    reference_forward,
    row_gradient,
    row_loss,
    tile,
)


def interpolated_cross_entropy(
    logits: Tensor, y: Tensor, y_partner: Tensor, epsilon_y: float, reduction: str = "mean"
) -> Tensor:
    """``soft_cross_entropy`` with y~ = (1 - epsilon_y) y + epsilon_y (1 - y') / (K - 1), the paper's equation 7.

    Args:
        logits: float [B, K], rows contiguous, K >= 2.
        y: int64 [B], the images' classes.
        y_partner: int64 [B], the partners' classes.
        epsilon_y: how far labels move, in [0, 1]; after L steps of size e it is 1 - (1 - e)^L.
        reduction: ``mean`` over the rows, ``sum`` or ``none``.

    Returns:
        fp32 (fp64 for fp64 logits), a scalar or [B] for ``none``. A class out of range raises on the CPU; on a GPU it
        makes its row's loss and gradient NaN, without a synchronisation.

    Raises:
        TypeError: a dtype is not as above.
        ValueError: a shape, device or label is not as above, or ``epsilon_y`` is out of range.
    """
    check_rows("logits", logits, "logits [B, K]")
    check_labels("y", y, logits)
    check_labels("y_partner", y_partner, logits)
    if logits.shape[1] < 2:
        raise ValueError(f"logits must have at least two classes, got {logits.shape[1]}")
    epsilon_y = check_number("epsilon_y", epsilon_y)
    check_reduction(reduction)
    if not 0 <= epsilon_y <= 1:
        raise ValueError(f"epsilon_y must be in [0, 1], got {epsilon_y}")
    return reduce(_forward(logits, y, y_partner, epsilon_y)[0], reduction)


@jit
def _target(y, y_partner, own, other, column, num_classes):
    """y~ of rows: ``own`` = 1 - epsilon_y at y, plus ``other`` = epsilon_y / (K - 1) everywhere but at y'."""
    t = tl.where(column == y[:, None], own, 0.0) + tl.where(column == y_partner[:, None], 0.0, other)
    valid = (y >= 0) & (y < num_classes) & (y_partner >= 0) & (y_partner < num_classes)
    t = tl.where(valid[:, None], t, float("nan"))
    return tl.where(column < num_classes, t, 0.0)


@jit
def forward_kernel(
    loss_ptr,
    rest_ptr,
    logits_ptr,
    y_ptr,
    y_partner_ptr,
    rows,
    num_classes,
    logits_stride,
    y_stride,
    y_partner_stride,
    own,
    other,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """ROWS rows a program, each in one tile."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)[None, :]
    inside = (row[:, None] < rows) & (column < num_classes)
    z = tl.load(logits_ptr + row[:, None] * logits_stride + column, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + row * y_stride, mask=row < rows, other=0)
    y_partner = tl.load(y_partner_ptr + row * y_partner_stride, mask=row < rows, other=0)
    t = _target(y, y_partner, own, other, column, num_classes)
    loss, rest = row_loss(z, t, column, num_classes, WIDTH)
    tl.store(loss_ptr + row, loss, mask=row < rows)
    tl.store(rest_ptr + row, rest, mask=row < rows)


@jit
def backward_kernel(
    grad_ptr,
    upstream_ptr,
    logits_ptr,
    y_ptr,
    y_partner_ptr,
    rest_ptr,
    rows,
    num_classes,
    logits_stride,
    y_stride,
    y_partner_stride,
    upstream_stride,
    own,
    other,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The logits' gradient, [rows, num_classes] contiguous."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)[None, :]
    inside = (row[:, None] < rows) & (column < num_classes)
    z = tl.load(logits_ptr + row[:, None] * logits_stride + column, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + row * y_stride, mask=row < rows, other=0)
    y_partner = tl.load(y_partner_ptr + row * y_partner_stride, mask=row < rows, other=0)
    rest = tl.load(rest_ptr + row, mask=row < rows, other=0.0)
    upstream = tl.load(upstream_ptr + row * upstream_stride, mask=row < rows, other=0.0)
    t = _target(y, y_partner, own, other, column, num_classes)
    gradient, _ = row_gradient(z, t, rest, upstream, column, num_classes, WIDTH)
    out = row[:, None] * num_classes + column
    tl.store(grad_ptr + out, round_to(gradient, grad_ptr.dtype.element_ty), mask=inside)


def launch_forward(loss: Tensor, rest: Tensor, logits: Tensor, y: Tensor, y_partner: Tensor, epsilon_y: float) -> None:
    """Run the forward kernel."""
    rows, num_classes = logits.shape
    if rows == 0:
        return
    shape = tile(num_classes)
    with on_device_of(logits):
        forward_kernel[(cdiv(rows, shape["ROWS"]),)](
            loss,
            rest,
            logits,
            y,
            y_partner,
            rows,
            num_classes,
            logits.stride(0),
            y.stride(0),
            y_partner.stride(0),
            1 - epsilon_y,
            epsilon_y / (num_classes - 1),
            **shape,
        )


def launch_backward(
    grad: Tensor, upstream: Tensor, logits: Tensor, y: Tensor, y_partner: Tensor, rest: Tensor, epsilon_y: float
) -> None:
    """Run the backward kernel."""
    rows, num_classes = logits.shape
    if rows == 0:
        return
    shape = tile(num_classes)
    with on_device_of(logits):
        backward_kernel[(cdiv(rows, shape["ROWS"]),)](
            grad,
            upstream,
            logits,
            y,
            y_partner,
            rest,
            rows,
            num_classes,
            logits.stride(0),
            y.stride(0),
            y_partner.stride(0),
            upstream.stride(0),
            1 - epsilon_y,
            epsilon_y / (num_classes - 1),
            **shape,
        )


def interpolated_labels(y: Tensor, y_partner: Tensor, epsilon_y: float, num_classes: int, dtype: torch.dtype) -> Tensor:
    """y~ itself, [B, K]: what the kernels never make; NaN in the rows of a class out of range."""
    column = torch.arange(num_classes, device=y.device)
    own, other = 1 - epsilon_y, epsilon_y / (num_classes - 1)
    t = (column == y[:, None]).to(dtype) * own + (column != y_partner[:, None]).to(dtype) * other
    valid = (y >= 0) & (y < num_classes) & (y_partner >= 0) & (y_partner < num_classes)
    return t.masked_fill(~valid[:, None], torch.nan)


@torch.library.custom_op("fastait_kernels::interpolated_cross_entropy", mutates_args=())
def _forward(logits: Tensor, y: Tensor, y_partner: Tensor, epsilon_y: float) -> tuple[Tensor, Tensor]:
    check_label_range("y", y, logits.shape[1])
    check_label_range("y_partner", y_partner, logits.shape[1])
    if not kernel_takes(logits):
        target = interpolated_labels(y, y_partner, epsilon_y, logits.shape[1], exact_dtype(logits))
        return reference_forward(logits, target)
    loss, rest = (logits.new_empty(len(logits), dtype=torch.float32) for _ in range(2))
    launch_forward(loss, rest, logits, y, y_partner, epsilon_y)
    return loss, rest


@_forward.register_fake
def _(logits, y, y_partner, epsilon_y):
    dtype = accumulate_dtype(logits.dtype)
    return logits.new_empty(logits.shape[0], dtype=dtype), logits.new_empty(logits.shape[0], dtype=dtype)


@torch.library.custom_op("fastait_kernels::interpolated_cross_entropy_backward", mutates_args=())
def _backward(upstream: Tensor, logits: Tensor, y: Tensor, y_partner: Tensor, rest: Tensor, epsilon_y: float) -> Tensor:
    if not kernel_takes(logits):
        target = interpolated_labels(y, y_partner, epsilon_y, logits.shape[1], exact_dtype(logits))
        return reference_backward(upstream, logits, target, False)[0]
    grad = logits.new_empty(logits.shape)
    launch_backward(grad, upstream, logits, y, y_partner, rest, epsilon_y)
    return grad


@_backward.register_fake
def _(upstream, logits, y, y_partner, rest, epsilon_y):
    return logits.new_empty(logits.shape)


def _save(ctx, inputs, output):
    logits, y, y_partner, ctx.epsilon_y = inputs
    ctx.save_for_backward(logits, y, y_partner, output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx, loss_grad, rest_grad):
    if loss_grad is None:
        return None, None, None, None
    logits, y, y_partner, rest = ctx.saved_tensors
    return _backward(loss_grad, logits, y, y_partner, rest, ctx.epsilon_y), None, None, None


torch.library.register_autograd("fastait_kernels::interpolated_cross_entropy", _differentiate, setup_context=_save)
