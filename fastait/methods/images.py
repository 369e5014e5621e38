"""Ways to move a batch of images. Each is an ``ImagePart``; ``fastait.methods.METHODS`` names them."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from fastait.attacks import Noise, ascend, frozen, input_gradient, parts, sign_step
from fastait.methods import Settings
from fastait_kernels import cosine_distance

ImagePart = Callable[[nn.Module, Tensor, Tensor, Settings, Noise, Tensor | None], Tensor]
"""(model, x float [B, C, H, W] in [0, 1], y int64 [B], settings, noise, counts) -> images like x, detached, in [0, 1].

``counts`` is that of ``fastait.attacks.sign_step``.
"""

FeatureFn = Callable[[Tensor], Tensor]
"""Images [B, C, H, W] -> features [B, ...]."""


def clean(
    model: nn.Module, x: Tensor, y: Tensor, settings: Settings, noise: Noise, counts: Tensor | None = None
) -> Tensor:
    """The images as they are."""
    return x


def pgd(
    model: nn.Module, x: Tensor, y: Tensor, settings: Settings, noise: Noise, counts: Tensor | None = None
) -> Tensor:
    """Up the classification loss, from a random start (Madry et al., 2018)."""
    return ascend(
        model,
        x,
        y,
        noise.start(x, settings.epsilon),
        epsilon=settings.epsilon,
        step_size=settings.step_size,
        steps=settings.steps,
        at_a_time=settings.at_a_time,
        counts=counts,
    )


def adversarial_interpolation(
    model: nn.Module, x: Tensor, y: Tensor, settings: Settings, noise: Noise, counts: Tensor | None = None
) -> Tensor:
    """Algorithm 1: towards the features of the reversed batch."""
    return interpolate(
        model,
        cast(FeatureFn, model.features),
        x,
        epsilon=settings.epsilon,
        step_size=settings.step_size,
        steps=settings.steps,
        noise=noise,
        at_a_time=settings.at_a_time,
        counts=counts,
    )


def interpolate(
    model: nn.Module,
    feature_fn: FeatureFn,
    x: Tensor,
    *,
    epsilon: float,
    step_size: float,
    steps: int,
    noise: Noise,
    at_a_time: int | None = None,
    counts: Tensor | None = None,
) -> Tensor:
    """The image half of Algorithm 1 in the arithmetic it needs: 1 + 2 steps passes forward or backward, no more.

    The partners' features are computed once and without a graph, the images' gradients with the model in eval mode
    and its parameters frozen. Arguments and result are those of ``fastait.adversarial_interpolation``.
    """
    x = x.detach()
    start = noise.start(x, epsilon)
    partners = x.flip(0)
    with frozen(model):
        for part in parts(len(x), at_a_time):
            moved, origin = start[part], x[part]
            with torch.no_grad():
                target = feature_fn(partners[part]).flatten(1)

            def distance(leaf: Tensor, target: Tensor = target) -> Tensor:
                # A sum, not the paper's mean: only the gradient's sign counts, and half precision underflows later.
                return cosine_distance(feature_fn(leaf).flatten(1), target, reduction="sum")

            for _ in range(steps):
                grad = input_gradient(distance, moved)
                moved = sign_step(moved, grad, origin, -step_size, epsilon, counts)
            if len(moved) == len(x):
                return moved
            start[part] = moved
    return start
