"""Many columns of a table from one ascent: PGD-20, PGD-100 and PGD-1000 of one start are points of one trajectory.

The prediction at an iterate comes with the gradient that is computed there anyway, so all points of a trajectory cost
what its last one does. A sample leaves the batch as soon as no column needs it any more.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from fastait.attacks.gradient import input_gradient, sign_step
from fastait.attacks.verdict import NOT_FINITE, RIGHT, verdict

Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""(images [b, C, H, W], rows int64 [b]) -> what each of them ascends [b], and their logits [b, K] or None.

``rows`` are the images' places in the whole batch, by which an objective finds their labels or targets."""

Judge = Callable[[Tensor], Tensor]
"""Images [b, C, H, W] -> logits [b, K] of the model whose accuracy is asked for."""


@dataclass(frozen=True)
class Point:
    """What is asked of a trajectory.

    Attributes:
        count: ``last``: is the iterate classified correctly? ``worst``: are the image itself and every iterate so far?
            ``best``: is the iterate of the highest loss so far?
        steps: after how many steps, >= 1.
    """

    count: str
    steps: int


def trajectory(
    objective: Objective,
    judge: Judge,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    points: Collection[Point],
    *,
    epsilon: float,
    step_size: float,
    suspects_only: bool = False,
    images: dict[Point, Tensor] | None = None,
    traces: Tensor | None = None,
    counts: Tensor | None = None,
) -> dict[Point, Tensor]:
    """Sign steps from ``start``, and whether each image withstands them at each of ``points``.

    An iterate whose logits are not finite is one that an image does not withstand, and of the highest loss.

    Args:
        objective: what is ascended. Where it gives no logits, ``judge`` is called for each iterate that counts.
        judge: the model whose predictions count; it is also what ``worst`` asks about the images themselves.
        x: float [B, C, H, W] in [0, 1].
        y: int64 [B], the true classes.
        start: like ``x``, where the ascent begins; itself no iterate.
        points: what to find out.
        epsilon: radius of the ball, in [0, 1].
        step_size: length of a step, > 0.
        suspects_only: whether the objective's logits only say whom to suspect; otherwise they are the judge's. Where
            they do, the judge sees every image at each point of ``last`` and ``best``; for ``worst`` it sees those
            that seem to be fooled, and everything that is left after the last step.
        images: takes up the images at each point, like ``x``: of ``worst`` the first that the image did not withstand,
            else the last.
        traces: float [B, at least the most steps]; column t takes up the losses that step t ascends, of the images that
            are still in the batch.
        counts: int64 [3] on ``x``'s device; the numbers of zero, of NaN and of all gradients are added to it.

    Returns:
        {point: verdicts int8 [B], see ``verdict``}, on ``x``'s device.
    """
    asked = {count: {point.steps for point in points if point.count == count} for count in ("last", "worst", "best")}
    whole = max(asked["last"] | asked["best"], default=0)  # up to here every image is needed
    final = max(whole, *asked["worst"], 0)
    found: dict[Point, Tensor] = {}
    rows = torch.arange(len(x), device=x.device)
    moved, origin, labels = start, x, y
    worst = torch.full((len(x),), RIGHT, dtype=torch.int8, device=x.device)
    highest = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
    at_highest = worst.clone()
    keeps_worst, keeps_highest = images is not None, images is not None or (suspects_only and bool(asked["best"]))
    seen_worst, seen_highest = x.clone() if keeps_worst else x, x.clone() if keeps_highest else x

    def keep(chosen: Tensor) -> None:
        nonlocal rows, moved, origin, labels
        if not bool(chosen.all()):
            rows, moved, origin, labels = rows[chosen], moved[chosen], origin[chosen], labels[chosen]

    def keep_point(count: str, steps: int, verdicts: Tensor, moved: Tensor) -> None:
        found[Point(count, steps)] = verdicts.clone()
        if images is not None:
            images[Point(count, steps)] = moved.clone()

    if asked["worst"]:
        worst = judged(judge, x, y)
        if not whole:
            keep(worst == RIGHT)
    for step in range(final + 1):
        seen: list[Tensor | None] = []

        def ascend(images: Tensor, rows: Tensor = rows, seen: list[Tensor | None] = seen) -> Tensor:
            losses, logits = objective(images, rows)
            seen[:] = losses.detach(), None if logits is None else logits.detach()
            return losses.sum()

        grad = None
        if step < final and len(rows):
            grad = input_gradient(ascend, moved)
            if traces is not None and seen[0] is not None:
                traces[rows, step] = seen[0].to(traces.dtype)
        cumulative = step <= max(asked["worst"] | asked["best"], default=0)
        if step and len(rows) and (cumulative or step in asked["last"]):
            if grad is None and step in asked["best"]:
                with torch.no_grad():
                    ascend(moved)
            losses, logits = seen or (None, None)
            if logits is None or (suspects_only and step in asked["last"]):
                now = judged(judge, moved, labels)
            else:
                now = verdict(logits, labels)
                if suspects_only:
                    suspects = (now == NOT_FINITE) | ((now != RIGHT) & (worst[rows] == RIGHT) & bool(asked["worst"]))
                    now = doubted(judge, moved, labels, now, suspects)
            if step in asked["last"]:
                keep_point("last", step, now, moved)
            if asked["best"] and step <= max(asked["best"]):
                assert losses is not None
                losses = torch.where(now == NOT_FINITE, torch.inf, losses)
                higher = losses > highest
                highest = torch.where(higher, losses, highest)
                at_highest = torch.where(higher, now, at_highest)
                if keeps_highest:
                    seen_highest = torch.where(higher[:, None, None, None], moved, seen_highest)
            if asked["worst"]:
                standing = worst[rows] == RIGHT
                worst[rows] = torch.where(standing, now, worst[rows])
                if keeps_worst:
                    seen_worst[rows] = torch.where(standing[:, None, None, None], moved, seen_worst[rows])
        if step in asked["best"]:
            keep_point("best", step, judged(judge, seen_highest, y) if suspects_only else at_highest, seen_highest)
        if step in asked["worst"]:
            keep_point("worst", step, worst, seen_worst)
        if step == final:
            break
        if grad is not None:
            moved = sign_step(moved, grad, origin, step_size, epsilon, counts)
        if step >= whole:
            keep(worst[rows] == RIGHT)
    return found


def judged(judge: Judge, images: Tensor, y: Tensor) -> Tensor:
    """The judge's verdicts, int8 [b], on images of classes ``y``, int64 [b]."""
    with torch.no_grad():
        return verdict(judge(images), y)


def doubted(judge: Judge, images: Tensor, y: Tensor, verdicts: Tensor, asks: Tensor) -> Tensor:
    """``verdicts`` int8 [b] of somebody else, with the judge's in their place where ``asks``, bool [b]."""
    places = torch.nonzero(asks).flatten()
    if not len(places):
        return verdicts
    return verdicts.index_copy(0, places, judged(judge, images[places], y[places]))
