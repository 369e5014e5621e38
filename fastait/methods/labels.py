"""Ways to move a batch of labels. Each is a ``LabelPart``; ``fastait.methods.METHODS`` names them."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from fastait.methods import Settings

LabelPart = Callable[[Tensor, Settings], Tensor]
"""(y int64 [B] or soft [B, K], settings) -> the loss's targets: int64 [B] or float32 [B, K]."""


def classes(y: Tensor, settings: Settings) -> Tensor:
    """The labels as they are."""
    return y


def adversarial_interpolation(y: Tensor, settings: Settings) -> Tensor:
    """Algorithm 1: away from the class of the reversed batch's image."""
    soft = F.one_hot(y, settings.num_classes).float() if y.dim() == 1 else y.float()
    return interpolate(soft, soft.flip(0), effective_epsilon_y(settings.epsilon_y, settings.steps))


def effective_epsilon_y(epsilon_y: float, steps: int) -> float:
    """How far a label has moved towards its target after ``steps`` iterations: 1 - (1 - epsilon_y)^steps."""
    return 1 - (1 - epsilon_y) ** steps


def interpolate(y: Tensor, partner: Tensor, epsilon_y: float) -> Tensor:
    """Equation 7: (1 - epsilon_y) y + epsilon_y (1 - partner) / (C - 1).

    Args:
        y, partner: float32 [B, C], rows sum to one.
        epsilon_y: in [0, 1].

    Returns:
        float32 [B, C], non-negative, rows sum to one.
    """
    away = (1 - partner) / (y.shape[1] - 1)
    return (1 - epsilon_y) * y + epsilon_y * away
