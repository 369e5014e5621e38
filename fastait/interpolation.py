"""Adversarial interpolation as a function of a batch, for use in anybody's training loop."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastait.attacks import Noise, frozen
from fastait.methods import images, labels


def adversarial_interpolation(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float = 8 / 255,
    epsilon_y: float = 0.5,
    steps: int = 1,
    generator: torch.Generator | None = None,
    feature_fn: images.FeatureFn | None = None,
) -> tuple[Tensor, Tensor]:
    """Adversarial images and labels to train on: the paper's Algorithm 1, equal to listing A.1 for ``steps`` = 1.

    Each image takes ``steps`` sign steps towards the features of its partner, the image at the same place of the
    reversed batch; each label moves away from the partner's class. In an odd batch the middle image is its own
    partner. The model is not copied: it is attacked in eval mode with frozen parameters, and its modules' train/eval
    modes and its parameters' ``requires_grad`` are as they were afterwards, also after an exception. No parameter
    gets a gradient. It does not autocast; call it under ``torch.autocast`` for mixed precision.

    Args:
        model: has ``forward(x)`` -> logits [B, K] and ``features(x)`` -> features [B, ...], flattened per image.
        x: float [B, C, H, W] in [0, 1].
        y: int64 [B] classes, or float [B, K] soft labels whose rows sum to one.
        epsilon: radius of the Linf ball and length of a step, in [0, 1].
        epsilon_y: share of the way a label goes towards its target in one step, in [0, 1).
        steps: the paper's L, at least 1.
        generator: source of the random start, on ``x``'s device; the global one if None.
        feature_fn: images -> features, for a model without ``features``; it must call the model itself, so that eval
            mode and freezing act on it. Example: ``lambda x: model.forward_features(x).mean(dim=(2, 3))``.

    Returns:
        ``(x_tilde, y_tilde)``: ``x_tilde`` like ``x``, within ``epsilon`` of it and in [0, 1]; ``y_tilde`` float32
        [B, K], each row moved by 1 - (1 - epsilon_y)^steps towards (1 - y') / (K - 1). Both are detached.

    Raises:
        TypeError: ``x`` is not floating-point, ``y`` neither int64 nor floating-point, or the model has no
            ``features`` and no ``feature_fn`` is given.
        ValueError: a shape or a number is out of its range.
    """
    if feature_fn is None:
        feature_fn = getattr(model, "features", None)
        if not callable(feature_fn):
            raise TypeError(
                f"{type(model).__name__} has no features(x); pass feature_fn, a callable images -> features"
            )
    _check(x, y, epsilon, epsilon_y, steps)
    soft = y.detach().float() if y.dim() == 2 else F.one_hot(y, _num_classes(model, x)).float()
    noise = Noise.drawn(generator, x.device)
    x_tilde = images.interpolate(model, feature_fn, x, epsilon=epsilon, step_size=epsilon, steps=steps, noise=noise)
    return x_tilde, labels.interpolate(soft, soft.flip(0), labels.effective_epsilon_y(epsilon_y, steps))


def _check(x: Tensor, y: Tensor, epsilon: float, epsilon_y: float, steps: int) -> None:
    if not x.is_floating_point():
        raise TypeError(f"x must be floating-point in [0, 1], got {x.dtype}; divide uint8 images by 255")
    if x.dim() != 4:
        raise ValueError(f"x must be [B, C, H, W], got shape {tuple(x.shape)}")
    if not (y.dtype == torch.int64 and y.dim() == 1) and not (y.is_floating_point() and y.dim() == 2):
        raise TypeError(f"y must be int64 [B] or float [B, K], got {y.dtype} of shape {tuple(y.shape)}")
    if len(x) != len(y):
        raise ValueError(f"x and y must have one batch size, got {len(x)} and {len(y)}")
    if not (math.isfinite(epsilon) and 0 <= epsilon <= 1):
        raise ValueError(f"epsilon must be in [0, 1] (8/255 is usual), got {epsilon}")
    if not 0 <= epsilon_y < 1:
        raise ValueError(f"epsilon_y must be in [0, 1), got {epsilon_y}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")


def _num_classes(model: nn.Module, x: Tensor) -> int:
    """``model.num_classes`` where it says so, else the width of the logits of one image."""
    declared = getattr(model, "num_classes", None)
    if isinstance(declared, int):
        return declared
    with frozen(model), torch.no_grad():
        return model(x[:1]).shape[1]
