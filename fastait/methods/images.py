"""Ways to move a batch of images. Each is an ``ImagePart``; ``fastait.methods.METHODS`` names them."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from fastait.attacks import Noise, frozen, input_gradient
from fastait.methods import Settings
from fastait_kernels import cosine_distance, linf_step

ImagePart = Callable[[nn.Module, Tensor, Tensor, Settings, Noise], Tensor]
"""(model, x float [B, C, H, W] in [0, 1], y int64 [B], settings, noise) -> images like x, detached, in [0, 1]."""

FeatureFn = Callable[[Tensor], Tensor]
"""Images [B, C, H, W] -> features [B, ...]."""


def clean(model: nn.Module, x: Tensor, y: Tensor, settings: Settings, noise: Noise) -> Tensor:
    """The images as they are."""
    return x


def adversarial_interpolation(model: nn.Module, x: Tensor, y: Tensor, settings: Settings, noise: Noise) -> Tensor:
    """Algorithm 1: towards the features of the reversed batch."""
    features = cast(FeatureFn, model.features)
    return interpolate(model, features, x, epsilon=settings.epsilon, steps=settings.steps, noise=noise)


def interpolate(
    model: nn.Module, feature_fn: FeatureFn, x: Tensor, *, epsilon: float, steps: int, noise: Noise
) -> Tensor:
    """The image half of Algorithm 1 in the arithmetic it needs: 1 + 2 steps passes forward or backward, no more.

    The partners' features are computed once and without a graph, the images' gradients with the model in eval mode
    and its parameters frozen. Arguments and result are those of ``fastait.adversarial_interpolation``.
    """
    x = x.detach()
    moved = noise.start(x, epsilon)
    with frozen(model):
        with torch.no_grad():
            partner_features = feature_fn(x.flip(0)).flatten(1)

        def distance(leaf: Tensor) -> Tensor:
            # A sum, not the paper's mean: only the gradient's sign counts, and half precision underflows later.
            return cosine_distance(feature_fn(leaf).flatten(1), partner_features, reduction="sum")

        for _ in range(steps):
            moved = linf_step(moved, input_gradient(distance, moved), x, -epsilon, epsilon)
    return moved
