"""AutoAttack and Square (Croce & Hein, 2020; Andriushchenko et al., 2020), by the package pyautoattack."""

from typing import Any

import torch
from torch import Tensor, nn

from fastait.attacks.frozen import frozen
from fastait.errors import InputError

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


def available(classes: int = LEAST_CLASSES) -> None:
    """Raise an InputError unless pyautoattack is there and ``classes`` are enough for it; it says what to install."""
    try:
        import pyautoattack  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"AutoAttack cannot be imported ({error}); install it with pip install 'fastait[autoattack]'"
        ) from None
    if classes < LEAST_CLASSES:
        raise InputError(
            f"AutoAttack needs at least {LEAST_CLASSES} classes, there are {classes}; use pgd, cw and spsa"
        )


def autoattack(
    model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float = 8 / 255, name: str = "autoattack", seed: int = 0
) -> Tensor:
    """Adversarial images of one of ``VERSIONS``; those that withstand it are as they were.

    Args:
        model: maps images to logits [B, K]; attacked in eval mode and left as it was.
        x: float [B, C, H, W] in [0, 1].
        y: int64 [B], the true classes.
        epsilon: radius of the Linf ball, in [0, 1].
        name: which of ``VERSIONS``.
        seed: of its random choices, which depend on the batch.

    Returns:
        Like ``x``, within ``epsilon`` of it and in [0, 1].

    Raises:
        InputError: pyautoattack is not installed, or the model tells fewer than four classes apart.
        KeyError: ``name`` is none of ``VERSIONS``.
    """
    with frozen(model), torch.no_grad():
        classes = model(x[:1].contiguous()).shape[1]
    available(classes)
    from pyautoattack import AutoAttack

    class Contiguous(nn.Module):
        """Its views need contiguous gradients, which a channels-last network does not return of itself."""

        def forward(self, images: Tensor) -> Tensor:
            return model(images.contiguous())

    with frozen(model):
        attack = AutoAttack(Contiguous(), norm="Linf", eps=epsilon, seed=seed, device=x.device, **VERSIONS[name])
        if VERSIONS[name]["version"] == "custom":
            attack.apgd.n_restarts = 1  # as the standard version has it
        # With few classes there are fewer than its nine targets.
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(9, classes - 1)
        moved, _ = attack.run_standard_evaluation(x.contiguous(), y, batch_size=len(x))
    return moved.detach().to(x.dtype)
