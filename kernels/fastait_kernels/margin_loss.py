"""The margin loss of Carlini and Wagner (2017), as PGD-style attacks ascend it.

A forward launch that reads the logits once and keeps one number a row, and a backward launch that writes the gradient
from it without reading the logits again: five launches with the mean's three, where eager torch takes 27.
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
    widen,
)
from fastait_kernels.soft_cross_entropy import kernel_takes, tile


def margin_loss(logits: Tensor, y: Tensor, kappa: float = 50.0, reduction: str = "mean") -> Tensor:
    """-max(z_y - max_{j != y} z_j + kappa, 0) of each row: what a CW attack ascends.

    Args:
        logits: float [B, K], rows contiguous, K >= 2.
        y: int64 [B], the true classes.
        kappa: confidence margin, in logits; 50 in the authors' evaluation.
        reduction: ``mean`` over the rows, ``sum`` or ``none``.

    Returns:
        fp32 (fp64 for fp64 logits), at most 0. The gradient is -1 for the true class and +1 for the largest other
        one, the first of them where several are equal, and 0 where the loss is 0 or NaN. A class out of range raises
        on the CPU; on a GPU it makes its row's loss NaN, without a synchronisation.

    Raises:
        TypeError: a dtype is not as above.
        ValueError: a shape, device or label is not as above.
    """
    check_rows("logits", logits, "logits [B, K]")
    check_labels("y", y, logits)
    if logits.shape[1] < 2:
        raise ValueError(f"logits must have at least two classes, got {logits.shape[1]}")
    kappa = check_number("kappa", kappa)
    check_reduction(reduction)
    return reduce(_forward(logits, y, kappa)[0], reduction)


@jit
def forward_kernel(
    loss_ptr,
    rival_ptr,
    logits_ptr,
    y_ptr,
    rows,
    num_classes,
    logits_stride,
    y_stride,
    kappa,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """ROWS rows a program; ``rival`` is the largest other class, -1 where there is no gradient."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)[None, :]
    inside = (row[:, None] < rows) & (column < num_classes)
    z = tl.load(logits_ptr + row[:, None] * logits_stride + column, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + row * y_stride, mask=row < rows, other=0)
    own = column == y[:, None]
    true = tl.sum(tl.where(own, z, 0.0), 1)
    # Among equals the first; a row whose others are all -inf has one of them for a rival, not the padding.
    others = tl.where(own | (column >= num_classes), float("-inf"), z)
    largest = tl.max(others, 1)
    candidates = tl.where((others == largest[:, None]) & (column < num_classes) & (column != y[:, None]), column, WIDTH)
    rival = tl.min(candidates, 1)
    margin = true - largest + kappa
    invalid = (tl.max((z != z).to(tl.int32), 1) > 0) | (y < 0) | (y >= num_classes)
    margin = tl.where(invalid, float("nan"), margin)
    loss = tl.where(margin < 0, 0.0, -margin)
    tl.store(loss_ptr + row, loss, mask=row < rows)
    tl.store(rival_ptr + row, tl.where(margin >= 0, rival, -1).to(tl.int64), mask=row < rows)


@jit
def backward_kernel(
    grad_ptr,
    upstream_ptr,
    y_ptr,
    rival_ptr,
    rows,
    num_classes,
    upstream_stride,
    y_stride,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The logits' gradient, [rows, num_classes] contiguous."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)[None, :]
    inside = (row[:, None] < rows) & (column < num_classes)
    y = tl.load(y_ptr + row * y_stride, mask=row < rows, other=0)[:, None]
    rival = tl.load(rival_ptr + row, mask=row < rows, other=-1)[:, None]
    upstream = tl.load(upstream_ptr + row * upstream_stride, mask=row < rows, other=0.0)[:, None]
    gradient = tl.where(column == y, -upstream, tl.where(column == rival, upstream, 0.0))
    gradient = tl.where(rival >= 0, gradient, 0.0)
    out = row[:, None] * num_classes + column
    tl.store(grad_ptr + out, round_to(gradient, grad_ptr.dtype.element_ty), mask=inside)


def launch_forward(loss: Tensor, rival: Tensor, logits: Tensor, y: Tensor, kappa: float) -> None:
    """Run the forward kernel."""
    rows, num_classes = logits.shape
    if rows == 0:
        return
    shape = tile(num_classes)
    with on_device_of(logits):
        forward_kernel[(cdiv(rows, shape["ROWS"]),)](
            loss, rival, logits, y, rows, num_classes, logits.stride(0), y.stride(0), kappa, **shape
        )


def launch_backward(grad: Tensor, upstream: Tensor, y: Tensor, rival: Tensor) -> None:
    """Run the backward kernel."""
    rows, num_classes = grad.shape
    if rows == 0:
        return
    shape = tile(num_classes)
    with on_device_of(grad):
        backward_kernel[(cdiv(rows, shape["ROWS"]),)](
            grad, upstream, y, rival, rows, num_classes, upstream.stride(0), y.stride(0), **shape
        )


def reference_forward(logits: Tensor, y: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
    """Loss and rival class of each row, in torch."""
    z = widen(logits)
    num_classes = z.shape[1]
    own = torch.arange(num_classes, device=z.device) == y[:, None]
    largest = z.masked_fill(own, -torch.inf).amax(dim=1)
    candidates = (z == largest[:, None]) & ~own
    rival = candidates.to(torch.int8).argmax(dim=1)
    margin = torch.where(own, z, 0.0).sum(dim=1) - largest + kappa
    margin = torch.where(z.isnan().any(dim=1) | (y < 0) | (y >= num_classes), torch.nan, margin)
    return torch.where(margin < 0, 0.0, -margin), torch.where(margin >= 0, rival, -1)


def reference_backward(upstream: Tensor, y: Tensor, rival: Tensor, like: Tensor) -> Tensor:
    """The logits' gradient, in torch."""
    active = torch.where(rival >= 0, upstream, 0.0)[:, None]
    column = torch.arange(like.shape[1], device=like.device)
    grad = torch.where(column == y[:, None], -active, torch.where(column == rival[:, None], active, 0.0))
    return grad.to(like.dtype)


@torch.library.custom_op("fastait_kernels::margin_loss", mutates_args=())
def _forward(logits: Tensor, y: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
    check_label_range("y", y, logits.shape[1])
    if not kernel_takes(logits):
        return reference_forward(logits, y, kappa)
    loss = logits.new_empty(len(logits), dtype=torch.float32)
    rival = torch.empty_like(y, memory_format=torch.contiguous_format)
    launch_forward(loss, rival, logits, y, kappa)
    return loss, rival


@_forward.register_fake
def _(logits, y, kappa):
    return (
        logits.new_empty(logits.shape[0], dtype=accumulate_dtype(logits.dtype)),
        torch.empty_like(y, memory_format=torch.contiguous_format),
    )


@torch.library.custom_op("fastait_kernels::margin_loss_backward", mutates_args=())
def _backward(upstream: Tensor, y: Tensor, rival: Tensor, like: Tensor) -> Tensor:
    if not kernel_takes(like):
        return reference_backward(upstream, y, rival, like)
    grad = like.new_empty(like.shape)
    launch_backward(grad, upstream, y, rival)
    return grad


@_backward.register_fake
def _(upstream, y, rival, like):
    return like.new_empty(like.shape)


def _save(ctx, inputs, output):
    logits, y, _ = inputs
    ctx.save_for_backward(logits, y, output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx, loss_grad, rival_grad):
    if loss_grad is None:
        return None, None, None
    logits, y, rival = ctx.saved_tensors
    return _backward(loss_grad, y, rival, logits), None, None


torch.library.register_autograd("fastait_kernels::margin_loss", _differentiate, setup_context=_save)
