"""Accuracy on clean and attacked images: fp32, eval mode, one outcome per image."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from fastait.attacks import Attack, frozen
from fastait.data import ImageSet, to_float
from fastait.engine.precision import full_precision
from fastait.engine.randomness import derive

CLEAN = "clean"


def evaluate(
    model: nn.Module,
    images: ImageSet,
    attacks: Mapping[str, Attack],
    *,
    epsilon: float,
    seed: int,
    batch_size: int = 250,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Tensor]:
    """Whether each image is classified correctly, clean and under each attack.

    Args:
        model: logits of images in [0, 1]; its parameters' device is used. Left as it was.
        images: the test set.
        attacks: by name.
        epsilon: radius of the Linf ball, on images in [0, 1].
        seed: of the attacks' random starts.
        batch_size: images at a time.
        advance: called after each batch of each column.

    Returns:
        {"clean" or an attack's name: bool [N] on the CPU}.
    """
    device = next(model.parameters()).device
    outcomes: dict[str, list[Tensor]] = {name: [] for name in (CLEAN, *attacks)}
    generator = torch.Generator(device)
    with full_precision(device), frozen(model):
        for start in range(0, len(images), batch_size):
            x = to_float(images.images[start : start + batch_size].to(device))
            y = images.labels[start : start + batch_size].to(device)
            for name in outcomes:
                attacked = x
                if name != CLEAN:
                    generator.manual_seed(derive(seed, "evaluation", name, start))
                    attacked = attacks[name](model, x, y, epsilon=epsilon, generator=generator)
                with torch.no_grad():
                    outcomes[name].append((model(attacked).argmax(dim=1) == y).cpu())
                advance()
    return {name: torch.cat(parts) for name, parts in outcomes.items()}
