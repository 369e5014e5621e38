"""APGD: sign steps with momentum whose length is halved where the loss no longer grows (Croce & Hein, 2020)."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from fastait.attacks.attacked import Attacked
from fastait.attacks.gradient import input_gradient, projected
from fastait.attacks.trajectory import Judge, Objective
from fastait.attacks.verdict import RIGHT, verdict
from fastait_kernels import linf_step, linf_step_

ALPHA = 0.75
"""The share of the new step in an update; the rest is the way from the iterate before."""

FIRST_CHECK, FEWER, FEWEST = 22, 3, 6
"""Percent of the steps: before the first check, fewer from check to check, and the fewest between two."""


def apgd(
    objective: Objective,
    judge: Judge | None,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    *,
    epsilon: float,
    steps: int = 100,
    averaged: int = 1,
    counts: Tensor | None = None,
    tick: Callable[[int], None] | None = None,
) -> Attacked:
    """Algorithm 1 of Croce & Hein (2020), arXiv 2003.01690, from ``start``, on images that leave when they fool.

    Steps begin at 2 epsilon. At each of ``checkpoints`` an image's step is halved, and it goes on from its iterate of
    the highest loss, if

    1. the loss grew in less than 3/4 of the steps since the checkpoint before, or
    2. neither its step was halved at that one nor its highest loss has grown since.

    Where the paper can be read in two ways this follows the released code: a checkpoint w looks at the iterates up to
    that of step w, the first for condition 1 alone; the losses that are compared are those of the iterates as they
    came, before any return to the best; the step after a return has the momentum of the way to the best from the
    iterate before. Where the released code departs from the paper this does not: it halves at just 3/4 as well, takes
    the loss before the first step for zero, and rounds checkpoints down, which for 100 steps are the same.

    The objective's logits say whom to suspect; ``judge`` decides on the very image, and where it disagrees the attack
    goes on. It also sees the best found of those that withstand, at the end. Nothing depends on which images are
    attacked together.

    Args:
        objective: what is ascended, for a frozen model.
        judge: the model whose predictions count; None where the objective's logits are its.
        x: float [B, C, H, W] in [0, 1].
        y: int64 [B], the true classes.
        start: like ``x``, where the ascent begins: its nearest images in the ball and in [0, 1] are the first iterates.
        epsilon: radius of the ball, in [0, 1].
        steps: how many, >= 1; the loss is computed once more, since that of the last iterate counts.
        averaged: how many gradients and losses of a random model each step takes the mean of, >= 1. Whom to suspect is
            said by the logits of the last.
        counts: int64 [3] on ``x``'s device; the numbers of zero, of NaN and of all gradients are added to it. A NaN
            gradient moves nothing.
        tick: called after each iterate was looked at, with the number of images that stand; may raise.

    Returns:
        ``Attacked`` with ``steps + 1`` losses for each image that stands to the end.

    Raises:
        ValueError: the objective gives no logits and there is no judge.
        InputError: no gradient reaches the images.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    images, verdicts = x.clone(), torch.full((len(x),), RIGHT, dtype=torch.int8, device=x.device)
    traces = torch.full((len(x), steps + 1), torch.nan, dtype=wide, device=x.device)
    state = _State.first(x, y, projected(start, x, epsilon), 2 * epsilon, wide)
    checks, checked = checkpoints(steps), 0
    for step in range(steps + 1):
        if not len(state.rows):
            break
        losses, logits, grad = _evaluate(objective, state, averaged, with_gradient=step < steps)
        traces[state.rows, step] = losses.to(wide)
        state.record(losses.to(wide), grad)
        fooled, how = _fooled(judge, state, logits)
        if len(fooled):
            rows = state.rows[fooled]
            images[rows], verdicts[rows] = state.moved[fooled], how
            state.leave(fooled)
        if tick is not None:
            tick(len(state.rows))
        if step in checks:
            state.check(step - checked)
            checked = step
        if step < steps and len(state.rows):
            state.advance(epsilon, ALPHA if step else 1.0, counts)
    if len(state.rows):
        images[state.rows] = state.best
        if judge is not None:
            verdicts[state.rows] = _judged(judge, state.best, state.labels)
    return Attacked(images, verdicts, traces)


def checkpoints(steps: int) -> list[int]:
    """After which of ``steps`` steps their length is looked at: ceil(p_j steps), ascending.

    p_0 = 0, p_1 = 0.22 and p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), section 3.1 of the paper.
    """
    found, percent, width = set(), FIRST_CHECK, FIRST_CHECK
    while percent < 100:
        found.add(-(-percent * steps // 100))
        width = max(width - FEWER, FEWEST)
        percent += width
    return sorted(found - {steps})


@dataclass
class _State:
    """What the images that stand carry from step to step, one image in each row.

    Attributes:
        rows: int64 [b], their places in the batch.
        origin, labels: what is attacked, and its true classes.
        moved, grad: the iterates, and their gradients.
        before: the iterates before.
        best, best_grad, highest: those of the highest loss so far, and it.
        losses: of the last iterates, as they came.
        rises: int64 [b], in how many steps the loss grew since the last checkpoint.
        step_size: [b, 1, 1, 1].
        halved, highest_then: whether the last checkpoint halved it, and the highest loss then.
    """

    rows: Tensor
    origin: Tensor
    labels: Tensor
    moved: Tensor
    grad: Tensor
    before: Tensor
    best: Tensor
    best_grad: Tensor
    highest: Tensor
    losses: Tensor
    rises: Tensor
    step_size: Tensor
    halved: Tensor
    highest_then: Tensor

    @classmethod
    def first(cls, x: Tensor, y: Tensor, start: Tensor, step_size: float, wide: torch.dtype) -> "_State":
        """Before the first iterate, ``start``, was looked at."""
        lowest = torch.full((len(x),), -torch.inf, dtype=wide, device=x.device)
        return cls(
            rows=torch.arange(len(x), device=x.device),
            origin=x,
            labels=y,
            moved=start,
            grad=torch.zeros_like(start),
            before=start,
            best=start,
            best_grad=torch.zeros_like(start),
            highest=lowest,
            losses=torch.full_like(lowest, torch.inf),  # the first iterate is no rise
            rises=torch.zeros_like(y),
            step_size=torch.full((len(x), 1, 1, 1), step_size, dtype=wide, device=x.device),
            halved=torch.zeros_like(y, dtype=torch.bool),
            highest_then=lowest,
        )

    def record(self, losses: Tensor, grad: Tensor | None) -> None:
        """Take up what was found of the iterates; of the last there is no gradient."""
        higher = losses > self.highest
        self.rises = self.rises + (losses > self.losses)
        self.losses = losses
        self.highest = torch.where(higher, losses, self.highest)
        self.best = torch.where(_each(higher), self.moved, self.best)
        if grad is not None:
            self.grad = grad
            self.best_grad = torch.where(_each(higher), grad, self.best_grad)

    def leave(self, places: Tensor) -> None:
        """Go on without the images at ``places``, int64 [n]."""
        gone = torch.zeros_like(self.rows).index_fill_(0, places, 1)
        stay = gone.argsort(stable=True)[: len(gone) - len(places)]  # how many is known: no synchronisation
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[stay])

    def check(self, interval: int) -> None:
        """Halve steps and return to the best, at a checkpoint ``interval`` steps after the one before."""
        few_rises = 4 * self.rises < 3 * interval
        stuck = ~self.halved & (self.highest <= self.highest_then)
        self.halved = few_rises | stuck
        self.step_size = torch.where(_each(self.halved), self.step_size / 2, self.step_size)
        self.moved = torch.where(_each(self.halved), self.best, self.moved)
        self.grad = torch.where(_each(self.halved), self.best_grad, self.grad)
        self.rises = torch.zeros_like(self.rises)
        self.highest_then = self.highest

    def advance(self, epsilon: float, alpha: float, counts: Tensor | None) -> None:
        """One step, of which ``alpha`` is new."""
        ahead = None if counts is None else counts[:2]
        if counts is not None:
            counts[2] += self.grad.numel()
        moved = linf_step(self.moved, self.grad, self.origin, self.step_size, epsilon, counts=ahead)
        if alpha < 1:
            moved = self.moved + alpha * (moved - self.moved) + (1 - alpha) * (self.moved - self.before)
            linf_step_(moved, self.grad, self.origin, 0.0, epsilon)  # no step: projected
        self.moved, self.before = moved, self.moved


def _each(values: Tensor) -> Tensor:
    """[b] as [b, 1, 1, 1]."""
    return values[:, None, None, None]


def _evaluate(
    objective: Objective, state: _State, averaged: int, *, with_gradient: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The iterates' mean losses, logits of the last pass, and a positive multiple of the mean gradient."""
    passes: list[tuple[Tensor, Tensor | None]] = []

    def ascended(images: Tensor) -> Tensor:
        losses, logits = objective(images, state.rows)
        passes.append((losses.detach(), None if logits is None else logits.detach()))
        return losses.sum()

    grad: Tensor | None = None
    for _ in range(averaged):
        if with_gradient:
            one = input_gradient(ascended, state.moved)
            grad = one if grad is None else grad + one
        else:
            with torch.no_grad():
                ascended(state.moved)
    losses = torch.stack([losses for losses, _ in passes]).mean(0)
    return losses, passes[-1][1], grad


def _fooled(judge: Judge | None, state: _State, logits: Tensor | None) -> tuple[Tensor, Tensor]:
    """(places in the state of the iterates that fool the judge, int64 [n], and the verdicts on them, int8 [n])."""
    if logits is None:
        if judge is None:
            raise ValueError("the objective gives no logits: a judge must say who is fooled")
        found = _judged(judge, state.moved, state.labels)
        places = torch.nonzero(found != RIGHT).flatten()
        return places, found[places]
    found = verdict(logits, state.labels)
    places = torch.nonzero(found != RIGHT).flatten()
    if judge is None or not len(places):
        return places, found[places]
    found = _judged(judge, state.moved[places], state.labels[places])
    confirmed = torch.nonzero(found != RIGHT).flatten()
    return places[confirmed], found[confirmed]


def _judged(judge: Judge, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return verdict(judge(images), labels)
