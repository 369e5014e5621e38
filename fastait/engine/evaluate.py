"""Accuracy on clean and attacked images: fp32, eval mode, one outcome per image."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from fastait.attacks import Attack, frozen
from fastait.data import ImageSet, to_float
from fastait.engine.distributed import Ranks
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
    ranks: Ranks = Ranks(),  # noqa: B008, immutable
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
        ranks: the processes that share the batches; the outcomes are those of one process.

    Returns:
        {"clean" or an attack's name: bool [N] on the CPU}.
    """
    device = next(model.parameters()).device
    outcomes = {name: torch.zeros(len(images), dtype=torch.uint8) for name in (CLEAN, *attacks)}
    generator = torch.Generator(device)
    with full_precision(device), frozen(model):
        for start in range(ranks.rank * batch_size, len(images), ranks.size * batch_size):
            batch = slice(start, start + batch_size)
            x = to_float(images.images[batch].to(device))
            y = images.labels[batch].to(device)
            for name in outcomes:
                attacked = x
                if name != CLEAN:
                    generator.manual_seed(derive(seed, "evaluation", name, start))
                    attacked = attacks[name](model, x, y, epsilon=epsilon, generator=generator)
                with torch.no_grad():
                    outcomes[name][batch] = (model(attacked).argmax(dim=1) == y).cpu()
                advance()
    return {name: ranks.merge(outcome).bool() for name, outcome in outcomes.items()}
