"""Ways to move a batch of labels, each a ``LabelPart``; ``fastait.methods.METHODS`` names them.

A label part is the loss against the moved labels rather than the labels themselves, so that an operator that needs
only their recipe never writes them down.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from fastait.methods import Settings
from fastait_kernels import interpolated_cross_entropy

LabelPart = Callable[[Tensor, Tensor, Settings], Tensor]
"""(logits [B, K], y int64 [B], settings) -> the scalar training loss, a mean over the batch."""


def classes(logits: Tensor, y: Tensor, settings: Settings) -> Tensor:
    """Cross-entropy with the labels as they are."""
    return F.cross_entropy(logits.float(), y)


def adversarial_interpolation(logits: Tensor, y: Tensor, settings: Settings) -> Tensor:
    """Algorithm 1: cross-entropy with labels moved away from the classes of the reversed batch."""
    return interpolated_cross_entropy(logits, y, y.flip(0), effective_epsilon_y(settings.epsilon_y, settings.steps))


def effective_epsilon_y(epsilon_y: float, steps: int) -> float:
    """How far a label has moved towards its target after ``steps`` iterations: 1 - (1 - epsilon_y)^steps."""
    return 1 - (1 - epsilon_y) ** steps


def interpolate(y: Tensor, partner: Tensor, epsilon_y: float) -> Tensor:
    """Equation 7 written out: (1 - epsilon_y) y + epsilon_y (1 - partner) / (C - 1).

    Args:
        y, partner: float32 [B, C], rows sum to one.
        epsilon_y: in [0, 1].

    Returns:
        float32 [B, C], non-negative, rows sum to one.
    """
    away = (1 - partner) / (y.shape[1] - 1)
    return (1 - epsilon_y) * y + epsilon_y * away
