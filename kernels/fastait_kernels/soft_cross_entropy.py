"""Cross-entropy against soft labels, and against the paper's labels without ever making them.

A forward launch that reads logits and targets once and writes two numbers a row, and a backward launch that reads them
once and writes the gradients. Eager torch takes ten launches for both, these and the mean's three are five, and it
writes and reads a log-softmax tensor in between. ``interpolated_cross_entropy`` has the same arithmetic on a target
that it makes from three numbers a row.
"""

import torch
from torch import Tensor

from fastait_kernels._support import (
    accumulate_dtype,
    cdiv,
    check_rows,
    jit,
    next_power_of_2,
    on_device_of,
    reduce,
    round_to,
    tl,
    use_kernel,
    widen,
)

MAX_CLASSES = 1 << 14
"""Rows are held in registers; wider ones are computed by torch."""


def soft_cross_entropy(logits: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """-sum(target log_softmax(logits)) of each row.

    Targets need not sum to one: the gradient for the logits is softmax times the target's sum, minus the target. Where
    a target is zero its term is zero, also beside a logit of -inf.

    Args:
        logits: float [B, K], rows contiguous.
        target: float [B, K], of any floating-point dtype, on the same device; may require grad.
        reduction: ``mean`` over the rows, ``sum`` or ``none``.

    Returns:
        fp32 (fp64 for fp64 logits), a scalar or [B] for ``none``; the mean of an empty batch is NaN, as in torch.

    Raises:
        TypeError: a dtype is not floating-point.
        ValueError: shapes or devices differ, rows are not contiguous, or ``reduction`` is another word.
    """
    check_rows("logits", logits)
    check_rows("target", target)
    if target.shape != logits.shape:
        raise ValueError(f"target must have the logits' shape {tuple(logits.shape)}, got {tuple(target.shape)}")
    if target.device != logits.device:
        raise ValueError(f"target must be on the logits' device {logits.device}, got {target.device}")
    return reduce(_forward(logits, target)[0], reduction)


class SoftCrossEntropy(torch.nn.Module):
    """``soft_cross_entropy`` as a module."""

    def __init__(self, reduction: str = "mean"):
        super().__init__()
        self.reduction = reduction

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """See ``soft_cross_entropy``."""
        return soft_cross_entropy(logits, target, self.reduction)


@jit
def row_loss(z, t, column, num_classes):
    """Loss and log-sum-exp of rows of logits ``z`` and targets ``t``, both fp32 [ROWS, WIDTH]."""
    z = tl.where(column < num_classes, z, float("-inf"))
    top = tl.max(z, 1)
    # A row of -inf alone has no finite maximum to subtract; its result is NaN as in torch.
    log_sum = top + tl.log(tl.sum(tl.exp(z - top[:, None]), 1))
    terms = tl.where(t == 0, 0.0, t * (z - log_sum[:, None]))
    return -tl.sum(terms, 1), log_sum


@jit
def row_gradient(z, t, log_sum, upstream, column, num_classes):
    """Gradient of the loss for the logits: softmax times the target's sum, minus the target."""
    z = tl.where(column < num_classes, z, float("-inf"))
    return upstream[:, None] * (tl.exp(z - log_sum[:, None]) * tl.sum(t, 1)[:, None] - t)


@jit
def forward_kernel(
    loss_ptr,
    log_sum_ptr,
    logits_ptr,
    target_ptr,
    rows,
    num_classes,
    logits_stride,
    target_stride,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """ROWS rows a program, each in one tile."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)[None, :]
    inside = (row[:, None] < rows) & (column < num_classes)
    z = tl.load(logits_ptr + row[:, None] * logits_stride + column, mask=inside, other=0.0).to(tl.float32)
    t = tl.load(target_ptr + row[:, None] * target_stride + column, mask=inside, other=0.0).to(tl.float32)
    loss, log_sum = row_loss(z, t, column, num_classes)
    tl.store(loss_ptr + row, loss, mask=row < rows)
    tl.store(log_sum_ptr + row, log_sum, mask=row < rows)


@jit
def backward_kernel(
    logits_grad_ptr,
    target_grad_ptr,
    upstream_ptr,
    logits_ptr,
    target_ptr,
    log_sum_ptr,
    rows,
    num_classes,
    logits_stride,
    target_stride,
    upstream_stride,
    TARGET_GRAD: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The gradients, [rows, num_classes] contiguous; the target's where asked for."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)[None, :]
    inside = (row[:, None] < rows) & (column < num_classes)
    z = tl.load(logits_ptr + row[:, None] * logits_stride + column, mask=inside, other=0.0).to(tl.float32)
    t = tl.load(target_ptr + row[:, None] * target_stride + column, mask=inside, other=0.0).to(tl.float32)
    log_sum = tl.load(log_sum_ptr + row, mask=row < rows, other=0.0)
    upstream = tl.load(upstream_ptr + row * upstream_stride, mask=row < rows, other=0.0)
    out = row[:, None] * num_classes + column
    gradient = row_gradient(z, t, log_sum, upstream, column, num_classes)
    tl.store(logits_grad_ptr + out, round_to(gradient, logits_grad_ptr.dtype.element_ty), mask=inside)
    if TARGET_GRAD:
        gradient = upstream[:, None] * (log_sum[:, None] - z)
        tl.store(target_grad_ptr + out, round_to(gradient, target_grad_ptr.dtype.element_ty), mask=inside)


def tile(num_classes: int) -> dict[str, int]:
    """Rows and columns of a program's tile: about 1,024 elements, a row at least."""
    width = next_power_of_2(num_classes)
    return {"ROWS": max(1, 1024 // width), "WIDTH": width, "num_warps": 4 if width <= 2048 else 8}


def launch_forward(loss: Tensor, log_sum: Tensor, logits: Tensor, target: Tensor) -> None:
    """Run the forward kernel."""
    rows, num_classes = logits.shape
    if rows == 0:
        return
    shape = tile(num_classes)
    with on_device_of(logits):
        forward_kernel[(cdiv(rows, shape["ROWS"]),)](
            loss, log_sum, logits, target, rows, num_classes, logits.stride(0), target.stride(0), **shape
        )


def launch_backward(
    logits_grad: Tensor, target_grad: Tensor | None, upstream: Tensor, logits: Tensor, target: Tensor, log_sum: Tensor
) -> None:
    """Run the backward kernel."""
    rows, num_classes = logits.shape
    if rows == 0:
        return
    shape = tile(num_classes)
    with on_device_of(logits):
        backward_kernel[(cdiv(rows, shape["ROWS"]),)](
            logits_grad,
            target_grad,
            upstream,
            logits,
            target,
            log_sum,
            rows,
            num_classes,
            logits.stride(0),
            target.stride(0),
            upstream.stride(0),
            TARGET_GRAD=target_grad is not None,
            **shape,
        )


def reference_forward(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and log-sum-exp of each row, in torch."""
    z, t = widen(logits), target.to(accumulate_dtype(logits.dtype))
    log_sum = torch.logsumexp(z, dim=1)
    # torch's logsumexp of a row of -inf is -inf; softmax and log_softmax make it NaN.
    log_sum = torch.where(log_sum == -torch.inf, torch.nan, log_sum)
    terms = torch.where(t == 0, 0.0, t * (z - log_sum[:, None]))
    return -terms.sum(dim=1), log_sum


def reference_backward(
    upstream: Tensor, logits: Tensor, target: Tensor, log_sum: Tensor, target_grad: bool
) -> tuple[Tensor, Tensor]:
    """The gradients for logits and target, in torch; the second is empty where it is not asked for."""
    z, t = widen(logits), target.to(accumulate_dtype(logits.dtype))
    for_logits = upstream[:, None] * ((z - log_sum[:, None]).exp() * t.sum(dim=1, keepdim=True) - t)
    for_target = upstream[:, None] * (log_sum[:, None] - z) if target_grad else target.new_empty(0)
    return for_logits.to(logits.dtype), for_target.to(target.dtype)


def kernel_takes(logits: Tensor) -> bool:
    """Whether the kernels serve these logits."""
    return use_kernel(logits) and logits.shape[1] <= MAX_CLASSES


@torch.library.custom_op("fastait_kernels::soft_cross_entropy", mutates_args=())
def _forward(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if not kernel_takes(logits):
        return reference_forward(logits, target)
    loss, log_sum = (logits.new_empty(len(logits), dtype=torch.float32) for _ in range(2))
    launch_forward(loss, log_sum, logits, target)
    return loss, log_sum


@_forward.register_fake
def _(logits, target):
    dtype = accumulate_dtype(logits.dtype)
    return logits.new_empty(logits.shape[0], dtype=dtype), logits.new_empty(logits.shape[0], dtype=dtype)


@torch.library.custom_op("fastait_kernels::soft_cross_entropy_backward", mutates_args=())
def _backward(
    upstream: Tensor, logits: Tensor, target: Tensor, log_sum: Tensor, target_grad: bool
) -> tuple[Tensor, Tensor]:
    if not kernel_takes(logits):
        return reference_backward(upstream, logits, target, log_sum, target_grad)
    for_logits = logits.new_empty(logits.shape)
    for_target = target.new_empty(target.shape if target_grad else 0)
    launch_backward(for_logits, for_target if target_grad else None, upstream, logits, target, log_sum)
    return for_logits, for_target


@_backward.register_fake
def _(upstream, logits, target, log_sum, target_grad):
    return logits.new_empty(logits.shape), target.new_empty(target.shape if target_grad else 0)


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs, output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx, loss_grad, log_sum_grad):
    if loss_grad is None:
        return None, None
    logits, target, log_sum = ctx.saved_tensors
    wants_target = ctx.needs_input_grad[1]
    for_logits, for_target = _backward(loss_grad, logits, target, log_sum, wants_target)
    return for_logits, for_target if wants_target else None


torch.library.register_autograd("fastait_kernels::soft_cross_entropy", _differentiate, setup_context=_save)
