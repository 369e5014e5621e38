"""LocSearchAdv (Narodytska & Kasiviswanathan, arXiv 1612.06299, algorithm 3): a black-box attack on few pixels."""

from typing import Any

import torch
from torch import Tensor, nn

from fastait.attacks.checks import budget, public, source
from fastait.attacks.frozen import frozen
from fastait.attacks.gradient import in_parts, projected
from fastait.attacks.verdict import RIGHT, verdict
from fastait.runtime.arguments import count

P, R = 10.0, 1.5
"""Strength of the probe and of the change, on images in [-1/2, 1/2]."""

HALF_SIDE, PIXELS = 5, 5
"""Half the side of the square that is searched around a changed pixel, and pixels that are changed in a round."""

CANDIDATES = 128
"""Pixels that are probed in a round, at most; a tenth of the image in the first round."""

ROUNDS = 150


@public
def local_search(
    model: Any,
    x: Tensor,
    y: Tensor,
    *,
    rounds: int = ROUNDS,
    epsilon: float | None = None,
    generator: torch.Generator | None = None,
    at_a_time: int | None = None,
    scores: nn.Module | None = None,
) -> tuple[Tensor, Tensor]:
    """Greedy search for the pixels whose change lowers the true class's probability most.

    A round probes candidate pixels one by one, each set to P times its sign; changes the PIXELS that lowered the
    probability most, multiplying them by R and wrapping around at the ends of the range; and takes the squares around
    them for the next round's candidates. As published it changes few pixels freely: an L0 attack, whose probes are no
    valid images though its results are. With ``epsilon`` probes and results are clipped to the Linf ball instead.

    Args:
        model: maps images to logits [B, K], a module or a function; only its outputs are used. In eval mode meanwhile,
            left as it was.
        x: float [B, C, H, W] in [0, 1], in any layout.
        y: whole numbers [B], the true classes.
        rounds: at most, >= 1.
        epsilon: radius of the Linf ball, in [0, 1]; None for the published attack.
        generator: source of the first round's candidates and of choices among too many, on ``x``'s device; the global
            one if None.
        at_a_time: score no more images than this together; None for all of a round's.
        scores: a faster form of ``model`` that pixels are probed by; None for itself, which says who is fooled.

    Returns:
        (adversarial images like ``x``, in [0, 1]; int64 [B], how many images were scored for each).

    Raises:
        TypeError: an argument is not of its type.
        ValueError: ``x``, ``y`` or a number is out of its range.
        InputError: the model returns no logits.
    """
    rounds, epsilon = count("rounds", rounds), None if epsilon is None else budget(epsilon)
    at_a_time = None if at_a_time is None else count("at_a_time", at_a_time)
    generator = source(generator, x.device)
    moved, queries = x.clone(), torch.ones(len(x), dtype=torch.int64, device=x.device)
    with frozen(model), torch.no_grad():
        standing = verdict(in_parts(model, x, at_a_time), y) == RIGHT
        for row in torch.nonzero(standing).flatten().tolist():
            image, label = x[row], y[row : row + 1]
            moved[row], used = _search(model, scores or model, image, label, rounds, epsilon, generator, at_a_time)
            queries[row] += used
    return moved, queries


def _search(
    model: nn.Module,
    scores: nn.Module,
    image: Tensor,
    label: Tensor,
    rounds: int,
    epsilon: float | None,
    generator: torch.Generator | None,
    at_a_time: int | None,
) -> tuple[Tensor, int]:
    channels, height, width = image.shape
    size = height * width
    layout = torch.contiguous_format if image.is_contiguous() else torch.channels_last
    origin = image.reshape(channels, size) - 0.5
    low, high = torch.full_like(origin, -0.5), torch.full_like(origin, 0.5)
    if epsilon is not None:
        low, high = torch.maximum(low, origin - epsilon), torch.minimum(high, origin + epsilon)
    current, used = origin.clone(), 0
    order = torch.randperm(size, generator=generator, device=image.device)
    candidates = order[: max(1, min(size // 10, CANDIDATES))]
    for _ in range(rounds):
        if len(candidates) > CANDIDATES:
            order = torch.randperm(len(candidates), generator=generator, device=image.device)
            candidates = candidates[order[:CANDIDATES]]
        probed = P * current[:, candidates].sign()
        if epsilon is not None:
            probed = torch.minimum(torch.maximum(probed, low[:, candidates]), high[:, candidates])
        probes = current.repeat(len(candidates), 1, 1)
        probes[torch.arange(len(candidates), device=image.device), :, candidates] = probed.T
        probes = (probes + 0.5).view(-1, channels, height, width).contiguous(memory_format=layout)
        logits = in_parts(scores, probes, at_a_time)
        left = logits.softmax(dim=1)[:, int(label)]
        left = left.nan_to_num(0.0)  # no probability at all is the lowest
        chosen = candidates[left.argsort(stable=True)[:PIXELS]]
        changed = R * current[:, chosen]
        if epsilon is None:
            changed = torch.where(changed < -0.5, changed + 1, torch.where(changed > 0.5, changed - 1, changed))
        else:
            changed = torch.minimum(torch.maximum(changed, low[:, chosen]), high[:, chosen])
        current[:, chosen] = changed
        used += len(candidates) + 1
        # Back by the way it came: untouched pixels keep their bits.
        result = torch.where(current == origin, image.reshape(channels, size), current + 0.5).clamp(0, 1)
        if epsilon is not None:
            result = projected(result, image.reshape(channels, size), epsilon)
        if verdict(model(result.view(1, channels, height, width)), label) != RIGHT:
            break
        candidates = _neighbours(chosen, height, width)
    return result.view_as(image), used


def _neighbours(pixels: Tensor, height: int, width: int) -> Tensor:
    """The pixels of the squares around ``pixels``, each once."""
    offsets = torch.arange(-HALF_SIDE, HALF_SIDE + 1, device=pixels.device)
    rows = (pixels // width)[:, None, None] + offsets[:, None]
    columns = (pixels % width)[:, None, None] + offsets
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return (rows * width + columns)[inside].unique()
