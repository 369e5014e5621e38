"""Ways to move a batch of images. Each is an ``ImagePart``; ``fastait.methods.METHODS`` names them."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from fastait.attacks import frozen
from fastait.methods import Settings
from fastait_kernels import cosine_distance, linf_step

ImagePart = Callable[[nn.Module, Tensor, Tensor, Settings, torch.Generator | None], Tensor]
"""(model, x float [B, C, H, W] in [0, 1], y int64 [B], settings, generator) -> images like x, detached, in [0, 1]."""

FeatureFn = Callable[[Tensor], Tensor]
"""Images [B, C, H, W] -> features [B, ...]."""


def clean(model: nn.Module, x: Tensor, y: Tensor, settings: Settings, generator: torch.Generator | None) -> Tensor:
    """The images as they are."""
    return x


def adversarial_interpolation(
    model: nn.Module, x: Tensor, y: Tensor, settings: Settings, generator: torch.Generator | None
) -> Tensor:
    """Algorithm 1: towards the features of the reversed batch."""
    features = cast(FeatureFn, model.features)
    return interpolate(model, features, x, epsilon=settings.epsilon, steps=settings.steps, generator=generator)


def interpolate(
    model: nn.Module,
    feature_fn: FeatureFn,
    x: Tensor,
    *,
    epsilon: float,
    steps: int,
    generator: torch.Generator | None,
) -> Tensor:
    """The image half of Algorithm 1 in the arithmetic it needs: (1 + 3 steps)F less the weight gradients.

    The partners' features are computed once and without a graph, the images' gradients with the model in eval mode
    and its parameters frozen. Arguments and result are those of ``fastait.adversarial_interpolation``.
    """
    x = x.detach()
    moved = x + torch.empty_like(x).uniform_(-epsilon, epsilon, generator=generator)
    with frozen(model):
        with torch.no_grad():
            partner_features = feature_fn(x.flip(0)).flatten(1)
        for _ in range(steps):
            leaf = moved.detach().requires_grad_()
            with torch.enable_grad():
                # A sum, not the paper's mean: only the gradient's sign counts, and half precision underflows later.
                distance = cosine_distance(feature_fn(leaf).flatten(1), partner_features).sum()
            (grad,) = torch.autograd.grad(distance, leaf)
            moved = linf_step(leaf.detach(), grad, x, -epsilon, epsilon)
    return moved
