"""Cross-entropy against soft labels, and against the paper's labels without ever making them.

A forward launch that reads logits and targets once and writes two numbers a row, and a backward launch that reads them
once and writes the gradients. Eager torch takes ten launches for both, these and the mean's three are five, and it
writes and reads a log-softmax tensor in between. ``interpolated_cross_entropy`` has the same arithmetic on a target
that it makes from three numbers a row.
"""

import torch
from torch import Tensor

from fastait_kernels._support import (
    HAS_TRITON,
    accumulate_dtype,
    cdiv,
    check_reduction,
    check_rows,
    jit,
    next_power_of_2,
    on_device_of,
    reduce,
    round_to,
    tl,
    use_kernel,
)

MAX_CLASSES = 1 << 14
"""Rows are held in registers; wider ones are computed by torch."""

LOWEST = tl.constexpr(-150.0) if HAS_TRITON else -150.0
"""exp of less is zero in fp32."""


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
    check_rows("logits", logits, "logits [B, K]")
    if isinstance(target, Tensor) and not (target.is_floating_point() or target.is_complex()):
        raise TypeError(
            f"target must be floating-point (soft labels [B, K]), got {target.dtype} {list(target.shape)}: classes are "
            f"for F.cross_entropy or interpolated_cross_entropy, or F.one_hot(target, {logits.shape[1]}).float()"
        )
    check_rows("target", target, "soft labels [B, K]")
    check_reduction(reduction)
    if target.shape != logits.shape:
        raise ValueError(f"target must have the logits' shape {tuple(logits.shape)}, got {tuple(target.shape)}")
    if target.device != logits.device:
        raise ValueError(f"target must be on the logits' device {logits.device}, got {target.device}")
    return reduce(_forward(logits, target)[0], reduction)


class SoftCrossEntropy(torch.nn.Module):
    """``soft_cross_entropy`` as a module."""

    def __init__(self, reduction: str = "mean"):
        super().__init__()
        check_reduction(reduction)
        self.reduction = reduction

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """See ``soft_cross_entropy``."""
        return soft_cross_entropy(logits, target, self.reduction)


@jit
def row_loss(z, t, column, num_classes, WIDTH: tl.constexpr):
    """Loss and ``rest`` of rows of logits ``z`` and targets ``t``, both fp32 [ROWS, WIDTH].

    ``rest`` is the sum of exp(z - top) over all classes but the largest one, whose own term is 1: where a network is
    sure, 1 + rest would round to 1 and log_softmax of that class to 0.
    """
    difference, powers, largest, top = _below_top(z, column, num_classes, WIDTH)
    # A row of -inf alone has no finite maximum to subtract; its result is NaN as in torch.
    rest = tl.sum(tl.where(largest, 0.0, powers), 1) + (top - top)
    terms = tl.where(t == 0, 0.0, t * (difference - log1p(rest)[:, None]))
    return -tl.sum(terms, 1), rest


@jit
def row_gradient(z, t, rest, upstream, column, num_classes, WIDTH: tl.constexpr):
    """Gradients of the loss for logits and targets.

    For the logits it is softmax times the target's sum, minus the target. Where network and target are sure of one
    class, softmax and target are both nearly one there, and their difference nothing but rounding; so that class's is
    written with the other classes' shares: their targets, minus their softmax times the target's sum.
    """
    difference, powers, largest, _ = _below_top(z, column, num_classes, WIDTH)
    total = 1.0 + rest
    target_sum = tl.sum(t, 1)
    others = tl.sum(tl.where(largest, 0.0, t), 1) - target_sum * (rest / total)
    for_logits = powers / total[:, None] * target_sum[:, None] - t
    for_logits = tl.where(largest, others[:, None], for_logits)
    return upstream[:, None] * for_logits, upstream[:, None] * (log1p(rest)[:, None] - difference)


@jit
def _below_top(z, column, num_classes, WIDTH: tl.constexpr):
    """z - top, its exponential, where the (first) largest logit of each row is, and that logit."""
    z = tl.where(column < num_classes, z, float("-inf"))
    top = tl.max(z, 1)
    largest = column == tl.min(tl.where(z == top[:, None], column, WIDTH), 1)[:, None]
    difference = z - top[:, None]
    # What the subtraction has rounded away (Knuth's two-sum): at a difference of 100 it moves exp by 64 units.
    back = difference - z
    lost = (z - (difference - back)) - (top[:, None] + back)
    return difference, exp(difference, tl.where(difference > LOWEST, lost, 0.0)), largest, top


@jit
def exp(x, lost):
    """exp(x + lost) of x <= 0 to about two units in the last place.

    The hardware's exp2 is that exact only near zero: x log2(e) is rounded at its own size. So x = n ln 2 + r, with ln 2
    in two parts of which the first times n is exact; and 2^n in two factors, for results below the smallest normal one.
    """
    bounded = tl.maximum(x, LOWEST)
    n = tl.floor(bounded * 1.4426950408889634 + 0.5)
    r = ((bounded - n * 0.693359375) + n * 2.12194440e-4) + lost
    n = n.to(tl.int32)
    half = n >> 1
    scaled = tl.exp(r) * ((half + 127) << 23).to(tl.float32, bitcast=True)
    scaled = scaled * ((n - half + 127) << 23).to(tl.float32, bitcast=True)
    return tl.where(x != x, x, scaled)


@jit
def log1p(x):
    """log(1 + x) of x >= 0 to about two units in the last place, also where 1 + x rounds to 1.

    1 + x = 2^k (1 + f) with 1 + f between the roots of 1/2 and 2, and log(1 + f) as the series of 2 atanh(f / (2 + f)).
    """
    k = (((1.0 + x).to(tl.int32, bitcast=True) + 0x4AFB0D) >> 23) - 127
    scale = ((127 - k) << 23).to(tl.float32, bitcast=True)
    f = x * scale + (scale - 1.0)
    s = f / (2.0 + f)
    w = s * s
    series = w * (0.33333333 + w * (0.2 + w * (0.14285714 + w * 0.11111111)))
    return k * 0.6931471805599453 + (2.0 * s + 2.0 * s * series)


@jit
def forward_kernel(
    loss_ptr,
    rest_ptr,
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
    loss, rest = row_loss(z, t, column, num_classes, WIDTH)
    tl.store(loss_ptr + row, loss, mask=row < rows)
    tl.store(rest_ptr + row, rest, mask=row < rows)


@jit
def backward_kernel(
    logits_grad_ptr,
    target_grad_ptr,
    upstream_ptr,
    logits_ptr,
    target_ptr,
    rest_ptr,
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
    rest = tl.load(rest_ptr + row, mask=row < rows, other=0.0)
    upstream = tl.load(upstream_ptr + row * upstream_stride, mask=row < rows, other=0.0)
    out = row[:, None] * num_classes + column
    for_logits, for_target = row_gradient(z, t, rest, upstream, column, num_classes, WIDTH)
    tl.store(logits_grad_ptr + out, round_to(for_logits, logits_grad_ptr.dtype.element_ty), mask=inside)
    if TARGET_GRAD:
        tl.store(target_grad_ptr + out, round_to(for_target, target_grad_ptr.dtype.element_ty), mask=inside)


def tile(num_classes: int) -> dict[str, int]:
    """Rows and columns of a program's tile: about 1,024 elements, a row at least."""
    width = next_power_of_2(num_classes)
    num_warps = 4 if width <= 2048 else 8 if width <= 4096 else 16
    return {"ROWS": max(1, 1024 // width), "WIDTH": width, "num_warps": num_warps}


def launch_forward(loss: Tensor, rest: Tensor, logits: Tensor, target: Tensor) -> None:
    """Run the forward kernel."""
    rows, num_classes = logits.shape
    if rows == 0:
        return
    shape = tile(num_classes)
    with on_device_of(logits):
        forward_kernel[(cdiv(rows, shape["ROWS"]),)](
            loss, rest, logits, target, rows, num_classes, logits.stride(0), target.stride(0), **shape
        )


def launch_backward(
    logits_grad: Tensor, target_grad: Tensor | None, upstream: Tensor, logits: Tensor, target: Tensor, rest: Tensor
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
            rest,
            rows,
            num_classes,
            logits.stride(0),
            target.stride(0),
            upstream.stride(0),
            TARGET_GRAD=target_grad is not None,
            **shape,
        )


def reference_forward(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and ``rest`` of each row, in torch."""
    difference, _, _, rest = _below_top_torch(logits)
    t = target.to(rest.dtype)
    terms = torch.where(t == 0, 0.0, t * (difference - rest.log1p()))
    dtype = accumulate_dtype(logits.dtype)
    return -terms.sum(dim=1).to(dtype), rest.squeeze(1).to(dtype)


def reference_backward(upstream: Tensor, logits: Tensor, target: Tensor, target_grad: bool) -> tuple[Tensor, Tensor]:
    """The gradients for logits and target, in torch; the second is empty where it is not asked for."""
    difference, powers, largest, rest = _below_top_torch(logits)
    t, total = target.to(rest.dtype), 1 + rest
    target_sum = t.sum(dim=1, keepdim=True)
    others = t.masked_fill(largest, 0).sum(dim=1, keepdim=True) - target_sum * (rest / total)
    for_logits = upstream[:, None] * torch.where(largest, others, powers / total * target_sum - t)
    for_target = upstream[:, None] * (rest.log1p() - difference) if target_grad else target.new_empty(0)
    return for_logits.to(logits.dtype), for_target.to(target.dtype)


def exact_dtype(logits: Tensor) -> torch.dtype:
    """What the references compute in: fp64 on a CPU, where that costs nothing beside a network, else like kernels."""
    return torch.float64 if logits.device.type == "cpu" else accumulate_dtype(logits.dtype)


def _below_top_torch(logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z - top, its exponential, where the largest logit is, all [B, K], and ``rest`` [B, 1]."""
    z = logits.to(exact_dtype(logits))
    top, place = z.max(dim=1, keepdim=True)
    largest = torch.arange(z.shape[1], device=z.device) == place
    difference = z - top
    powers = difference.exp()
    # A row of -inf alone has no finite maximum to subtract; its result is NaN as in torch.
    rest = powers.masked_fill(largest, 0).sum(dim=1, keepdim=True) + (top - top)
    return difference, powers, largest, rest


def kernel_takes(logits: Tensor) -> bool:
    """Whether the kernels serve these logits."""
    return use_kernel(logits) and logits.shape[1] <= MAX_CLASSES


@torch.library.custom_op("fastait_kernels::soft_cross_entropy", mutates_args=())
def _forward(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if not kernel_takes(logits):
        return reference_forward(logits, target)
    loss, rest = (logits.new_empty(len(logits), dtype=torch.float32) for _ in range(2))
    launch_forward(loss, rest, logits, target)
    return loss, rest


@_forward.register_fake
def _(logits, target):
    dtype = accumulate_dtype(logits.dtype)
    return logits.new_empty(logits.shape[0], dtype=dtype), logits.new_empty(logits.shape[0], dtype=dtype)


@torch.library.custom_op("fastait_kernels::soft_cross_entropy_backward", mutates_args=())
def _backward(
    upstream: Tensor, logits: Tensor, target: Tensor, rest: Tensor, target_grad: bool
) -> tuple[Tensor, Tensor]:
    if not kernel_takes(logits):
        return reference_backward(upstream, logits, target, target_grad)
    for_logits = logits.new_empty(logits.shape)
    for_target = target.new_empty(target.shape if target_grad else 0)
    launch_backward(for_logits, for_target if target_grad else None, upstream, logits, target, rest)
    return for_logits, for_target


@_backward.register_fake
def _(upstream, logits, target, rest, target_grad):
    return logits.new_empty(logits.shape), target.new_empty(target.shape if target_grad else 0)


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs, output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx, loss_grad, rest_grad):
    if loss_grad is None:
        return None, None
    logits, target, rest = ctx.saved_tensors
    wants_target = ctx.needs_input_grad[1]
    for_logits, for_target = _backward(loss_grad, logits, target, rest, wants_target)
    return for_logits, for_target if wants_target else None


torch.library.register_autograd("fastait_kernels::soft_cross_entropy", _differentiate, setup_context=_save)
