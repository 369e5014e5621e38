"""Robustness of any model on any tensors, as functions for other people's code."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastait.attacks import frozen
from fastait.data import FloatSet
from fastait.evaluation.batches import placement
from fastait.evaluation.evaluate import Outcomes, check_logits, evaluate
from fastait.evaluation.masking import Check, masking_report


def evaluate_robustness(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attacks: Sequence[str] = ("fgsm", "pgd20", "cw20"),
    *,
    epsilon: float = 8 / 255,
    step_size: float = 2 / 255,
    seed: int = 0,
    batch_size: int | None = None,
    surrogate: nn.Module | None = None,
) -> Outcomes:
    """Which images a model classifies correctly, clean and under attacks, in eval mode and its parameters' dtype.

    Args:
        model: logits [B, K] of images in [0, 1]; with ``features(x)`` if it is to be attacked by ``featureT``. Left as
            it was.
        x: float [N, C, H, W] in [0, 1].
        y: int64 [N], the true classes.
        attacks: names, see ``fastait.evaluation.columns``: ``pgd100``, ``cw-min``, ``autoattack``, ...
        epsilon: radius of the Linf ball, in (0, 1].
        step_size: of gradient attacks, > 0; FGSM's is epsilon.
        seed: of everything random.
        batch_size: images at a time; None for what suits the device.
        surrogate: the model that ``transfer-`` attacks are made on.

    Returns:
        Outcomes per image: ``.correct["pgd20"]`` is bool [N], ``.accuracy()`` the percentages.

    Raises:
        TypeError: ``x`` is not floating-point or ``y`` not int64.
        ValueError: a shape, a value of ``x`` or ``y``, or a number is out of its range.
        InputError: an attack's name is wrong, something that it needs is missing, or the model returns no logits.
    """
    images = _checked(model, x, y, epsilon)
    if step_size <= 0:
        raise ValueError(f"step_size must be above 0, got {step_size}")
    return evaluate(
        model,
        images,
        attacks,
        epsilon=epsilon,
        step_size=step_size,
        seed=seed,
        batch_size=batch_size,
        surrogate=surrogate,
    )


def masking_signs(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float = 8 / 255,
    seed: int = 0,
    batch_size: int | None = None,
    surrogate: nn.Module | None = None,
) -> list[Check]:
    """``masking_report`` on tensors, which are as for ``evaluate_robustness``."""
    images = _checked(model, x, y, epsilon)
    return masking_report(model, images, epsilon=epsilon, seed=seed, batch_size=batch_size, surrogate=surrogate)


def _checked(model: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> FloatSet:
    if not x.is_floating_point():
        raise TypeError(f"x must be floating-point in [0, 1], got {x.dtype}; divide uint8 images by 255")
    if y.dtype != torch.int64:
        raise TypeError(f"y must be int64, got {y.dtype}")
    if x.dim() != 4 or y.shape != x.shape[:1] or not len(x):
        raise ValueError(f"x must be [N, C, H, W] and y [N], got {tuple(x.shape)} and {tuple(y.shape)}")
    low, high = float(x.min()), float(x.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"x must be in [0, 1], got {low:.4g} to {high:.4g}; normalise inside the model")
    if not 0 < epsilon <= 1:
        raise ValueError(f"epsilon must be in (0, 1] (8/255 is usual), got {epsilon}")
    weight = placement(model)
    with frozen(model), torch.no_grad():
        logits = model(x[:2].to(weight.device, weight.dtype).contiguous())
    check_logits(logits)
    if int(y.min()) < 0 or int(y.max()) >= logits.shape[1]:
        raise ValueError(f"y must be in [0, {logits.shape[1]}), got {int(y.min())} to {int(y.max())}")
    return FloatSet(x.detach(), y.cpu())
