"""The gradient of an attack's loss for its images, and the step along its sign."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from fastait.runtime.errors import InputError
from fastait_kernels import linf_step

FP16_SCALE = 2.0**10
"""What an attack's loss is multiplied by where fp16 carries its gradient.

Measured under CPU autocast, digits, loss summed over 64 images, a trained WRN-10-1 and a fresh WRN-28-4: gradients
vanish where the loss is a thousandth (up to 89 % of them), none is NaN up to 2^16 and some or all are at 2^20.
"""

NO_GRADIENT = (
    "no gradient reaches the images: the model (or feature_fn) runs under no_grad, detaches, rounds or is not made of "
    "differentiable operations; spsa and square attack it by its logits alone"
)


def input_gradient(loss: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A positive multiple of d loss(x) / dx, like ``x`` also in memory; works under ``no_grad``.

    Autocast of a caller's is for the loss alone: each operation is differentiated in the type that it was computed in.
    Under fp16 autocast and for fp16 images the loss is scaled by ``FP16_SCALE`` and the gradient is not scaled back:
    only its sign is wanted, which underflow would turn to zero. Otherwise the multiple is one.

    Args:
        loss: images like ``x`` -> a scalar.
        x: float [B, C, H, W].

    Raises:
        InputError: the loss does not depend on the images in a way that can be differentiated.
    """
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        value = loss(leaf)
        if not value.requires_grad:
            raise InputError(NO_GRADIENT)
        if _carried_in_fp16(x):
            value = value * FP16_SCALE
    with torch.autocast(x.device.type, enabled=False):
        (grad,) = torch.autograd.grad(value, leaf, allow_unused=True)
    if grad is None:
        raise InputError(NO_GRADIENT)
    # A channels-last network returns channels-last gradients of contiguous images, and the other way round.
    return grad if grad.stride() == x.stride() else torch.empty_like(x).copy_(grad)


def _carried_in_fp16(x: Tensor) -> bool:
    kind = x.device.type
    autocast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
    return autocast or x.dtype == torch.float16


def sign_step(
    x: Tensor, grad: Tensor, origin: Tensor, step_size: float, epsilon: float, counts: Tensor | None = None
) -> Tensor:
    """``linf_step`` on images in [0, 1].

    Args:
        counts: int64 [3] on ``x``'s device; the numbers of zero, of NaN and of all gradients are added to it.
    """
    if counts is None:
        return linf_step(x, grad, origin, step_size, epsilon)
    counts[2] += grad.numel()
    return linf_step(x, grad, origin, step_size, epsilon, counts=counts[:2])


def projected(x: Tensor, origin: Tensor, epsilon: float) -> Tensor:
    """The nearest images to ``x`` in [0, 1] and within ``epsilon`` of ``origin``, like it, as stored in its type."""
    return linf_step(torch.empty_like(origin).copy_(x), torch.zeros_like(origin), origin, 0.0, epsilon)


def parts(images: int, at_most: int | None) -> list[slice]:
    """Cut a batch into the fewest parts of at most ``at_most`` images, as equal as can be; None leaves it whole."""
    if at_most is None or images <= at_most:
        return [slice(0, images)]
    count = -(-images // at_most)
    bounds = [images * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(bounds)]


def in_parts(model: Callable[[Tensor], Tensor], images: Tensor, at_a_time: int | None) -> Tensor:
    """``model(images)``, of at most ``at_a_time`` of them together."""
    return torch.cat([model(images[part]) for part in parts(len(images), at_a_time)])
