"""Adversarial weight perturbation (Wu, Xia & Wang, 2020): weights are trained where the loss is higher than at them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def perturbed_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Those that are perturbed: weights of more than one dimension, so neither biases nor norms."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.dim() > 1]


@contextmanager
def perturbed(weights: Sequence[nn.Parameter], gradients: Sequence[Tensor | None], gamma: float) -> Iterator[None]:
    """Within, each weight w is w + gamma |w| / |g| g, with 2-norms of the whole tensor; afterwards, its own bits.

    Where a gradient is zero, not finite (as when fp16 overflows) or None, the weight stays what it is. The tensors stay
    where they are, and nothing is read from them.

    Args:
        weights: what is perturbed, in place.
        gradients: of the loss for each weight, up to a positive factor.
        gamma: length of the perturbation, relative to the weight's.
    """
    pairs = [(w, g) for w, g in zip(weights, gradients, strict=True) if g is not None]
    kept = [w.detach().clone() for w, _ in pairs]
    with torch.no_grad():
        lengths = torch.stack(torch._foreach_norm(kept))
        slopes = torch.stack(torch._foreach_norm([g for _, g in pairs]))
        usable = (slopes > 0) & slopes.isfinite()
        factors = gamma * torch.where(usable, lengths / slopes, torch.zeros_like(lengths))
        for (weight, gradient), factor in zip(pairs, factors.unbind(), strict=True):
            weight.add_(torch.where(factor > 0, factor * gradient, torch.zeros_like(gradient)))
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_([w for w, _ in pairs], kept)


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """What passes within change in the model's buffers, BN statistics for one, is undone, in place."""
    before = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, value in before:
                module._buffers[name] = buffer.copy_(value)
