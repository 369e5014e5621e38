"""FGSM, PGD and CW: sign steps on a loss of the logits, projected to the ball (Madry et al., 2018)."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastait.attacks.checks import budget, public, source
from fastait.attacks.frozen import frozen
from fastait.attacks.gradient import input_gradient, parts, sign_step
from fastait.attacks.noise import Noise
from fastait.attacks.suited import like, suited
from fastait.attacks.trajectory import Objective
from fastait.runtime.arguments import count, number
from fastait_kernels import margin_loss

AttackLoss = Callable[[Tensor, Tensor], Tensor]
"""(logits [B, K], y int64 [B]) -> what each image ascends, [B]. It is summed: no gradient depends on the batch size."""


class Attack(Protocol):
    """The one calling convention of the attacks: adversarial images for (model, x, y) within ``epsilon``."""

    def __call__(
        self, model: Any, x: Tensor, y: Tensor, *, epsilon: float, generator: torch.Generator | None = None
    ) -> Tensor: ...


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """The loss of FGSM and PGD."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """The loss of CW with the released kappa of 50."""
    return margin_loss(logits, y, kappa=50.0, reduction="none")


def classification(model: nn.Module, y: Tensor, loss: AttackLoss) -> Objective:
    """Ascend ``loss`` of the model's logits for the true classes ``y``, int64 [B]."""

    def objective(images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(images)
        return loss(logits, y[rows]), logits

    return objective


@public
def pgd(
    model: Any,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float = 8 / 255,
    step_size: float = 2 / 255,
    steps: int = 20,
    loss: AttackLoss = cross_entropy,
    random_start: bool = True,
    generator: torch.Generator | None = None,
    at_a_time: int | None = None,
) -> Tensor:
    """The last iterate of projected gradient ascent in the Linf ball.

    As in the authors' evaluation, the random start U(-epsilon, epsilon) is not clipped to [0, 1] before its first
    gradient; every iterate is.

    Args:
        model: maps images to logits [B, K], a module or a function; attacked in eval mode and left as it was.
        x: float [B, C, H, W] in [0, 1], in any layout.
        y: whole numbers [B], the true classes.
        epsilon: radius of the ball, in [0, 1].
        step_size: length of a step, > 0.
        steps: number of gradients, >= 1.
        loss: what to ascend.
        random_start: start from a uniform point of the ball, else from ``x``.
        generator: source of the random start, on ``x``'s device; the global one if None.
        at_a_time: attack no more images than this together; None on a CPU for as many as stay in its cache, elsewhere
            for all. In eval mode images do not see each other, so the result is the same.

    Returns:
        Adversarial images like ``x``, detached, within ``epsilon`` of ``x`` and in [0, 1].

    Raises:
        TypeError: an argument is not of its type.
        ValueError: ``x``, ``y`` or a number is out of its range.
        InputError: the model returns no logits, or no gradient.
    """
    epsilon, steps = budget(epsilon), count("steps", steps)
    step_size = number("step_size", step_size, 0, above=epsilon > 0)
    at_a_time = None if at_a_time is None else count("at_a_time", at_a_time)
    start = Noise.drawn(source(generator, x.device), x.device).start(x, epsilon) if random_start else x.clone()
    way = suited(model, x)
    moved = ascend(
        model,
        way.laid(x),
        y,
        way.laid(start),
        epsilon=epsilon,
        step_size=step_size,
        steps=steps,
        loss=loss,
        at_a_time=at_a_time or way.together,
    )
    return like(moved, x)


def ascend(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    *,
    epsilon: float,
    step_size: float,
    steps: int,
    loss: AttackLoss = cross_entropy,
    at_a_time: int | None = None,
    counts: Tensor | None = None,
) -> Tensor:
    """``pgd`` from ``start``, like ``x``, which may be written over; ``counts`` is that of ``sign_step``.

    ``y``, [B, ...], is whatever ``loss`` takes beside the logits.
    """
    with frozen(model):
        for part in parts(len(x), at_a_time):
            moved, origin, labels = start[part], x[part], y[part]
            for _ in range(steps):
                grad = input_gradient(lambda leaf, labels=labels: loss(model(leaf), labels).sum(), moved)  # type: ignore
                moved = sign_step(moved, grad, origin, step_size, epsilon, counts)
            if len(moved) == len(x):
                return moved
            start[part] = moved
    return start


def fgsm(
    model: Any, x: Tensor, y: Tensor, *, epsilon: float = 8 / 255, generator: torch.Generator | None = None
) -> Tensor:
    """One step of size epsilon from a random start, as the authors evaluate it."""
    epsilon = budget(epsilon)
    return pgd(model, x, y, epsilon=epsilon, step_size=epsilon, steps=1, generator=generator)


def pgd20(
    model: Any, x: Tensor, y: Tensor, *, epsilon: float = 8 / 255, generator: torch.Generator | None = None
) -> Tensor:
    """The paper's PGD20: 20 steps of 2/255 on the cross-entropy, one random start."""
    return pgd(model, x, y, epsilon=epsilon, generator=generator)


def cw20(
    model: Any, x: Tensor, y: Tensor, *, epsilon: float = 8 / 255, generator: torch.Generator | None = None
) -> Tensor:
    """The paper's CW20: PGD20 on the margin loss with kappa 50."""
    return pgd(model, x, y, epsilon=epsilon, loss=margin, generator=generator)
