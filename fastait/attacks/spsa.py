"""SPSA (Uesato et al., 2018): a black-box attack that estimates gradients from the scores of random directions."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastait.attacks.checks import budget, public, source
from fastait.attacks.frozen import frozen
from fastait.attacks.gradient import in_parts, projected
from fastait.attacks.verdict import RIGHT, verdict
from fastait.runtime.arguments import count

DELTA = 0.01
LEARNING_RATE = 0.01
BETA1, BETA2, TINY = 0.9, 0.999, 1e-8
AT_A_TIME = 1024
"""Images that are scored together, twice as many as directions are drawn together."""


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """[B]: the largest wrong logit less the true one; above zero the image is misclassified."""
    true = logits.gather(1, y[:, None])[:, 0]
    return logits.masked_fill(F.one_hot(y, logits.shape[1]).bool(), -torch.inf).amax(dim=1) - true


@public
def spsa(
    model: Any,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float = 8 / 255,
    directions: int = 2048,
    steps: int = 100,
    generator: torch.Generator | None = None,
    at_a_time: int | None = None,
    scores: nn.Module | None = None,
) -> tuple[Tensor, Tensor]:
    """Adam ascent of the margin along two-sided gradient estimates, projected to the ball.

    A step estimates the gradient g = mean over directions v of (m(x + delta v) - m(x - delta v)) / (2 delta) v, with v
    uniform on {-1, 1} per pixel and m the margin, and takes an Adam step of 0.01 along it. The paper's full strength
    is 2,048 directions and 100 steps. An image that is misclassified is left alone.

    Args:
        model: maps images to logits [B, K], a module or a function; only its outputs are used. In eval mode meanwhile,
            left as it was.
        x: float [B, C, H, W] in [0, 1], in any layout.
        y: whole numbers [B], the true classes.
        epsilon: radius of the Linf ball, in [0, 1].
        directions: v per step, >= 1.
        steps: >= 1.
        generator: source of the directions, on ``x``'s device; the global one if None.
        at_a_time: score no more images than this together; None for 1,024 of one image's.
        scores: a faster form of ``model`` that directions are scored by; None for itself, which says who is fooled.

    Returns:
        (adversarial images like ``x``, within ``epsilon`` of it and in [0, 1]; int64 [B], how many images were scored
        for each).

    Raises:
        TypeError: an argument is not of its type.
        ValueError: ``x``, ``y`` or a number is out of its range.
        InputError: the model returns no logits.
    """
    epsilon, directions, steps = budget(epsilon), count("directions", directions), count("steps", steps)
    at_a_time = None if at_a_time is None else count("at_a_time", at_a_time)
    generator = source(generator, x.device)
    moved, queries = x.clone(), torch.zeros(len(x), dtype=torch.int64, device=x.device)
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    with frozen(model), torch.no_grad():
        for step in range(1, steps + 2):
            queries += 1 if step == 1 else 0
            left = verdict(in_parts(model, moved, at_a_time), y) == RIGHT
            if step > steps or not bool(left.any()):
                break
            for row in torch.nonzero(left).flatten().tolist():
                grad = _estimate(scores or model, moved[row], y[row], directions, generator, at_a_time)
                first[row].mul_(BETA1).add_(grad, alpha=1 - BETA1)
                second[row].mul_(BETA2).addcmul_(grad, grad, value=1 - BETA2)
                mean, square = first[row] / (1 - BETA1**step), second[row] / (1 - BETA2**step)
                moved[row] += LEARNING_RATE * mean / (square.sqrt() + TINY)
            moved = torch.where(left[:, None, None, None], projected(moved, x, epsilon), moved)
            queries += left * (2 * directions + 1)
    return moved, queries


def _estimate(
    model: nn.Module,
    image: Tensor,
    label: Tensor,
    directions: int,
    generator: torch.Generator | None,
    at_a_time: int | None,
) -> Tensor:
    total = torch.zeros_like(image)
    pairs = AT_A_TIME // 2
    for begin in range(0, directions, pairs):
        many = min(pairs, directions - begin)
        bits = torch.randint(0, 2, (many, *image.shape), generator=generator, device=image.device)
        v = bits.to(image.dtype) * 2 - 1
        logits = in_parts(model, torch.cat([image + DELTA * v, image - DELTA * v]), at_a_time)
        scores = margin(logits, label.expand(2 * many))
        # Where scores are not finite the difference says nothing of the way.
        rise = (scores[:many] - scores[many:]).to(v.dtype).nan_to_num(0.0, 0.0, 0.0)
        total += torch.tensordot(rise, v, dims=1)
    return total / (2 * DELTA * directions)
