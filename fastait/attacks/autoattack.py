"""AutoAttack's attacks on a batch, a stage at a time (Croce & Hein, 2020; Andriushchenko et al., 2020)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastait.attacks.addressed import Addressed
from fastait.attacks.apgd import apgd
from fastait.attacks.attacked import Attacked
from fastait.attacks.fab import fab
from fastait.attacks.losses import dlr, lead, targeted, targeted_dlr, targets_of
from fastait.attacks.pgd import classification, cross_entropy
from fastait.attacks.square import square
from fastait.attacks.stages import Stage
from fastait.attacks.trajectory import Judge, Objective


def run_stage(
    stage: Stage,
    model: nn.Module,
    judge: Judge | None,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    start: Callable[[], Tensor],
    draws: Callable[[], Addressed],
    tick: Callable[[int], None] | None = None,
    counts: Tensor | None = None,
) -> tuple[Attacked, Tensor | None]:
    """One stage on images that the judge gets right.

    Args:
        stage: which attack.
        model: what is searched by, frozen: the judge, or a faster form of it.
        judge: the model whose predictions count; None where ``model`` is it.
        x: float [B, C, H, W] in [0, 1].
        y: int64 [B], the true classes.
        epsilon: radius of the ball, in [0, 1].
        start: where APGD begins, like ``x``; called by attacks that want it.
        draws: Square's numbers.
        tick: called after each iteration with the number of images that stand; may raise to stop.
        counts: int64 [3] on ``x``'s device; APGD adds the numbers of zero, of NaN and of all gradients to it.

    Returns:
        (what came of it; int64 [B], queries, for Square alone).
    """
    if stage.attack == "square":
        return square(model, judge, x, y, draws(), epsilon=epsilon, queries=stage.steps, tick=tick)
    options: dict[str, Any] = {"epsilon": epsilon, "steps": stage.steps, "tick": tick}
    if stage.attack == "fab-t":
        return fab(targeted(model, y, _target(stage, judge or model, x, y), lead), judge, x, y, **options), None
    objective: Objective
    if stage.attack == "apgd-t":
        objective = targeted(model, y, _target(stage, judge or model, x, y), targeted_dlr)
    else:
        objective = classification(model, y, cross_entropy if stage.attack == "apgd-ce" else dlr)
    return apgd(objective, judge, x, y, start(), averaged=stage.averaged, counts=counts, **options), None


def _target(stage: Stage, judge: Judge, x: Tensor, y: Tensor) -> Tensor:
    """The classes that a stage aims at, int64 [B]."""
    with torch.no_grad():
        return targets_of(judge(x), y, stage.target)[:, stage.target - 1]
