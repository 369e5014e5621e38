"""AutoAttack and Square (Croce & Hein, 2020; Andriushchenko et al., 2020), by the package pyautoattack."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastait.attacks.checks import budget, public, whole
from fastait.attacks.frozen import frozen
from fastait.attacks.gradient import projected
from fastait.runtime.errors import InputError

VERSIONS: dict[str, dict[str, Any]] = {
    "autoattack": {"version": "standard"},
    "autoattack-rand": {"version": "rand"},
    "square": {"version": "custom", "attacks": ["square"]},
    "apgd-ce": {"version": "custom", "attacks": ["apgd-ce"]},
    "apgd-t": {"version": "custom", "attacks": ["apgd-t"]},
}
"""Our names, and what pyautoattack calls them; ``autoattack-rand`` is for randomized defences."""


LEAST_CLASSES = 4
"""What its targeted losses need."""

_alone = threading.RLock()


def available(classes: int = LEAST_CLASSES) -> None:
    """Raise an InputError unless pyautoattack is there and ``classes`` are enough for it; it says what to install."""
    try:
        with _callers_world(torch.get_default_dtype()):
            import pyautoattack  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"AutoAttack cannot be imported ({error}); install it with pip install 'fastait[autoattack]'"
        ) from None
    if classes < LEAST_CLASSES:
        raise InputError(
            f"AutoAttack needs at least {LEAST_CLASSES} classes, there are {classes}; use pgd, cw and spsa"
        )


@public
def autoattack(
    model: Any, x: Tensor, y: Tensor, *, epsilon: float = 8 / 255, name: str = "autoattack", seed: int = 0
) -> Tensor:
    """Adversarial images of one of ``VERSIONS``; those that withstand it are as they were.

    Args:
        model: maps images to logits [B, K], a module or a function; attacked in eval mode and left as it was.
        x: float [B, C, H, W] in [0, 1], in any layout.
        y: whole numbers [B], the true classes.
        epsilon: radius of the Linf ball, in [0, 1].
        name: which of ``VERSIONS``.
        seed: of its random choices, which depend on the batch.

    Returns:
        Like ``x``, within ``epsilon`` of it and in [0, 1].

    Raises:
        TypeError: an argument is not of its type.
        ValueError: ``x``, ``y`` or a number is out of its range.
        InputError: pyautoattack is not installed, or the model returns no logits or tells too few classes apart.
        KeyError: ``name`` is none of ``VERSIONS``.
    """
    epsilon, version, seed = budget(epsilon), VERSIONS[name], whole("seed", seed) % 2**31
    if not len(x):
        return x.clone()
    contiguous = x.contiguous()
    with frozen(model), torch.no_grad():
        classes = model(contiguous[:2]).shape[1]
    available(classes)
    attacked = _Attacked(model, contiguous, epsilon)
    with frozen(model), _callers_world(torch.float32), x.device:
        from pyautoattack import AutoAttack

        attack = AutoAttack(attacked, norm="Linf", eps=epsilon, seed=seed, device=x.device, **version)
        if version["version"] == "custom":
            attack.apgd.n_restarts = 1  # as the standard version has it
        # With few classes there are fewer than its nine targets.
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(9, classes - 1)
        moved, _ = attack.run_standard_evaluation(contiguous.float(), y, batch_size=len(x))
    moved = projected(moved.detach().to(x.dtype), contiguous, epsilon)
    for place, image in attacked.broken.items():
        moved[place] = image
    return torch.empty_like(x).copy_(moved)


class _Attacked(nn.Module):
    """The model as the library may see it: contiguous images of the model's type, finite fp32 logits.

    The library takes NaN for class 0, so the images that logits are not finite of are kept aside, by the place of the
    image that they are in the ball of.
    """

    def __init__(self, model: nn.Module, origins: Tensor, epsilon: float):
        super().__init__()
        self.model = model
        self.origins = origins
        self.epsilon = epsilon
        self.broken: dict[int, Tensor] = {}

    def forward(self, images: Tensor) -> Tensor:
        images = images.to(self.origins.dtype).contiguous()
        logits = self.model(images).float()
        finite = logits.isfinite()
        if bool(finite.all()):
            return logits
        for row in torch.nonzero(~finite.all(dim=1)).flatten().tolist():
            image = images[row].detach()
            distance = (self.origins - image).abs().flatten(1).amax(dim=1)
            place = int(distance.argmin())
            if distance[place] <= self.epsilon + SLACK and image.min() >= 0 and image.max() <= 1:
                self.broken[place] = image.clone()
        return torch.where(finite, logits, torch.zeros_like(logits))


SLACK = 1e-6
"""What rounding may put an image outside of the ball by."""


@contextmanager
def _callers_world(default: torch.dtype) -> Iterator[None]:
    """Put back what the library sets, the process's random states; it makes tensors of the type that is the default.

    One thread at a time, since these belong to the process.
    """
    with _alone:
        dtype, states = torch.get_default_dtype(), (random.getstate(), np.random.get_state())
        gpus = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
        try:
            torch.set_default_dtype(default)
            with torch.random.fork_rng(gpus):
                yield
        finally:
            torch.set_default_dtype(dtype)
            random.setstate(states[0])
            np.random.set_state(states[1])
