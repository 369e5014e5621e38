"""The difference of logits ratio, and losses that aim at a class, which of them at which (Croce & Hein, 2020)."""

from collections.abc import Callable

import torch
from torch import Tensor

from fastait.attacks.trajectory import Objective

TargetedLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits [B, K], y int64 [B], targets int64 [B]) -> what each image ascends towards its target, [B]."""

TINY = 1e-12
"""Added to denominators, as in the released code: equal logits make a loss of zero, not NaN."""


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """-(z_y - max_{i != y} z_i) / (z_1st - z_3rd): equation 6 of Croce & Hein (2020), arXiv 2003.01690.

    It is unchanged where logits are shifted or multiplied, so that a model which is too sure of itself keeps its
    gradients. Positive where ``y`` is not the largest.

    Args:
        logits: float [B, K], K >= 3.
        y: int64 [B], the true classes.

    Returns:
        [B], fp32 or wider.

    Raises:
        ValueError: K < 3: of two logits the ratio is -1 or 1 whatever they are.
    """
    logits = _at_least(3, logits, "dlr")
    highest, classes = logits.topk(3, dim=1)
    rival = torch.where(classes[:, 0] == y, highest[:, 1], highest[:, 0])
    return (rival - _of(logits, y)) / (highest[:, 0] - highest[:, 2] + TINY)


def targeted_dlr(logits: Tensor, y: Tensor, targets: Tensor) -> Tensor:
    """-(z_y - z_t) / (z_1st - (z_3rd + z_4th) / 2): equation 7 of Croce & Hein (2020), arXiv 2003.01690.

    Args:
        logits: float [B, K], K >= 4.
        y: int64 [B], the true classes.
        targets: int64 [B], the classes t that are to overtake them.

    Returns:
        [B], fp32 or wider.

    Raises:
        ValueError: K < 4: the ratio needs a fourth logit, so that it varies where ``y`` and t are the largest two.
    """
    logits = _at_least(4, logits, "targeted_dlr")
    highest = logits.topk(4, dim=1).values
    spread = highest[:, 0] - 0.5 * (highest[:, 2] + highest[:, 3])
    return (_of(logits, targets) - _of(logits, y)) / (spread + TINY)


def lead(logits: Tensor, y: Tensor, targets: Tensor) -> Tensor:
    """z_t - z_y, above zero where the target is preferred: what FAB takes for linear.

    Args:
        logits: float [B, K].
        y: int64 [B], the true classes.
        targets: int64 [B], the classes t that are to overtake them.

    Returns:
        [B], fp32 or wider.
    """
    logits = _at_least(2, logits, "lead")
    return _of(logits, targets) - _of(logits, y)


def targets_of(logits: Tensor, y: Tensor, count: int) -> Tensor:
    """The wrong classes of the highest logits, the highest first; of equal ones the first.

    Args:
        logits: float [B, K], of the clean images.
        y: int64 [B], the true classes.
        count: how many, in 1..K - 1.

    Returns:
        int64 [B, count].

    Raises:
        ValueError: ``count`` is not in 1..K - 1.
    """
    classes = logits.shape[1]
    if not 1 <= count < classes:
        raise ValueError(f"of {classes} classes there are 1 to {classes - 1} targets, got {count}")
    order = logits.detach().scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)
    return order[order != y[:, None]].view(len(y), -1)[:, :count]


def targeted(model: Callable[[Tensor], Tensor], y: Tensor, targets: Tensor, loss: TargetedLoss) -> Objective:
    """Ascend ``loss`` of the model's logits for the true classes ``y`` and ``targets``, int64 [B] each."""

    def objective(images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(images)
        return loss(logits, y[rows], targets[rows]), logits

    return objective


def _at_least(classes: int, logits: Tensor, name: str) -> Tensor:
    if logits.shape[1] < classes:
        raise ValueError(f"{name} needs logits of at least {classes} classes, got {logits.shape[1]}")
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _of(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None])[:, 0]
