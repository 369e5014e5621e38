"""Adversarial interpolation as a function of a batch, for use in anybody's training loop."""

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastait.attacks import Noise, Subject, frozen
from fastait.attacks.checks import budget, checked_images, checked_labels, of_array, readable, source
from fastait.attacks.subject import feature_tensor
from fastait.methods import images, labels
from fastait.models import WideResNet
from fastait.models.features import PROBED
from fastait.runtime.arguments import count, number
from fastait_kernels._support import described

ROUNDED = 0.02
"""What rounding in half precision may change of the sum of a row of soft labels."""


def adversarial_interpolation(
    model: Any,
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
        model: has ``forward(x)`` -> logits [B, K]. Its features [B, ...] are those of a method ``features(x)`` of its
            class, or what its last linear layer is given, see ``fastait.models.feature_function``; flattened per image.
        x: float [B, C, H, W] in [0, 1], in any layout.
        y: whole numbers [B], classes, or float [B, K] soft labels whose rows sum to one; a tensor, an array or a list.
        epsilon: radius of the Linf ball and length of a step, in [0, 1].
        epsilon_y: share of the way a label goes towards its target in one step, in [0, 1).
        steps: the paper's L, at least 1.
        generator: source of the random start, on ``x``'s device; the global one if None.
        feature_fn: images -> features, if they are to be others; it must call the model itself, so that eval mode and
            freezing act on it. Example: ``lambda x: model.forward_features(x).mean(dim=(2, 3))``.

    Returns:
        ``(x_tilde, y_tilde)``: ``x_tilde`` like ``x``, within ``epsilon`` of it and in [0, 1]; ``y_tilde`` float32
        [B, K], each row moved by 1 - (1 - epsilon_y)^steps towards (1 - y') / (K - 1). Both are detached.

    Raises:
        TypeError: ``x`` is not floating-point, the model is a function without ``features`` and no ``feature_fn`` is
            given, or these are no tensor.
        ValueError: a shape, a value of ``x`` or ``y``, or a number is out of its range.
        InputError: the model returns no logits, no linear layer makes them, or no gradient reaches the images.
    """
    epsilon, epsilon_y, steps = budget(epsilon), number("epsilon_y", epsilon_y, 0, 1), count("steps", steps)
    if epsilon_y == 1:
        raise ValueError("epsilon_y must be in [0, 1), got 1")
    with torch.inference_mode(False):
        x, subject = checked_images(x), Subject.of(model)
        if feature_fn is not None and not callable(feature_fn):
            raise TypeError(f"feature_fn must be a function of images, got {described(feature_fn)}")
        soft = _soft_labels(subject, x, y)

        def features(images: Tensor) -> Tensor:
            if feature_fn is None:
                return subject.features(images)
            return feature_tensor(feature_fn(images.clone()), "feature_fn")

        noise = Noise.drawn(source(generator, x.device), x.device)
        x_tilde = images.interpolate(subject, features, x, epsilon=epsilon, step_size=epsilon, steps=steps, noise=noise)
        return x_tilde, labels.interpolate(soft, soft.flip(0), labels.effective_epsilon_y(epsilon_y, steps))


def _soft_labels(model: Subject, x: Tensor, y: Any) -> Tensor:
    """float32 [B, K] of classes or soft labels."""
    if not isinstance(y, Tensor):
        y = of_array("y", np.asarray(y))
    if y.is_floating_point():
        if y.dim() != 2 or len(y) != len(x):
            raise ValueError(f"soft labels must be [{len(x)}, K], as x has {len(x)} images, got {tuple(y.shape)}")
        soft = y.detach().to(x.device, torch.float32)
        if readable(soft) and not bool(((soft >= 0).all(dim=1) & ((soft.sum(dim=1) - 1).abs() < ROUNDED)).all()):
            raise ValueError("soft labels must be at least 0 and sum to 1 in each row; softmax(dim=1) makes such")
        return soft.clone() if soft.is_inference() else soft
    classes = checked_labels(y, x)
    num_classes = _num_classes(model, x)
    if classes.numel() and readable(classes) and int(classes.max()) >= num_classes:
        raise ValueError(f"y must be in [0, {num_classes}), got {int(classes.max())}")
    return F.one_hot(classes, num_classes).float()


_widths: "WeakKeyDictionary[nn.Module, tuple[tuple[tuple[int, torch.Size], ...], int]]" = WeakKeyDictionary()


def _num_classes(model: Subject, x: Tensor) -> int:
    """The width of the model's logits, by a pass of two images, once for each set of its parameters.

    What a model says of itself may be of before its last layer was replaced.
    """
    called = model.called
    if type(called) is WideResNet and isinstance(called.fc, nn.Linear):
        return called.fc.out_features
    now = tuple((id(parameter), parameter.shape) for parameter in model.parameters())
    if isinstance(called, nn.Module) and called in _widths and _widths[called][0] == now:
        return _widths[called][1]
    with frozen(model), torch.no_grad():
        logits = model(x[:PROBED])
    if isinstance(called, nn.Module):
        _widths[called] = now, logits.shape[1]
    return logits.shape[1]
