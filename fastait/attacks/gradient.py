"""The gradient of an attack's loss for its images."""

from collections.abc import Callable

import torch
from torch import Tensor


def input_gradient(loss: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """d loss(x) / dx, like ``x`` also in memory; works under ``no_grad``.

    Args:
        loss: images like ``x`` -> a scalar.
        x: float [B, C, H, W].
    """
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        (grad,) = torch.autograd.grad(loss(leaf), leaf)
    # A channels-last network returns channels-last gradients of contiguous images, and the other way round.
    return grad if grad.stride() == x.stride() else torch.empty_like(x).copy_(grad)
