"""Targeted FAB in Linf (Croce & Hein, 2020, arXiv 1907.02044): the boundary to one class, come at from the image.

It looks for the least perturbation that changes the decision, so that it needs no step size and is not misled by a
loss that is flat or scaled. An iteration takes the difference of two logits for linear, goes to the nearest point in
[0, 1] where that is zero and a little beyond, and keeps near the image; from an adversarial point it goes back towards
the image and searches on.

AutoAttack asks it for 100 iterations of each of nine targets, the classes of the largest logits, with alpha_max 0.1,
eta 1.05 and beta 0.9, from the image itself; its library draws a start for each further restart alone. That library
leaves the paper's final search out; here it is made. An iteration is two forward passes and one backward pass: where a
point is adversarial, as it is in 6 of 10 iterations, another one is linearised than was asked for its class.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastait.attacks.attacked import Attacked
from fastait.attacks.gradient import FP16_SCALE, _carried_in_fp16, input_gradient, projected
from fastait.attacks.projection import move_to_plane
from fastait.attacks.spsa import margin
from fastait.attacks.trajectory import Judge, Objective
from fastait.attacks.verdict import RIGHT, verdict

STEPS = 100
ALPHA_MAX = 0.1
"""The largest weight of the way from the image itself."""
ETA = 1.05
"""How far beyond the plane a step goes."""
BETA = 0.9
"""What is left of an adversarial perturbation where the search goes on."""
FINAL_STEPS = 3
LEAST_MOVE = 1e-8
"""Below it two moves count as equally long."""


def random_start(x: Tensor, uniform: Tensor, epsilon: float) -> Tensor:
    """Where a further restart begins: half of ``epsilon`` from ``x`` in Linf, in [0, 1].

    Args:
        x: float [B, C, H, W] in [0, 1].
        uniform: like ``x``, numbers in [0, 1) that belong to the image and the restart.
        epsilon: radius of the ball.
    """
    noise = 2 * uniform - 1
    return (x + epsilon / 2 * noise / _size(noise).clamp_min(LEAST_MOVE)).clamp(0, 1)


def fab(
    objective: Objective,
    judge: Judge | None,
    x: Tensor,
    y: Tensor,
    start: Tensor | None = None,
    *,
    epsilon: float,
    steps: int = STEPS,
    tick: Callable[[int], None] | None = None,
    counts: Tensor | None = None,
) -> Attacked:
    """Search for the least perturbation of each image that changes its class; within ``epsilon`` it is fooled.

    Algorithm 1 of the paper for one target, then its final search. An image leaves as soon as an adversarial point is
    within ``epsilon`` of it and the judge agrees. Where the judge does not, the search goes on, with the objective
    shifted by as much as they disagree. In the end the judge sees the best of each image that withstood, as returned.

    Args:
        objective: (images [b, C, H, W], rows int64 [b]) -> (logit of the target less that of the true class [b],
            logits [b, K]); ``losses.targeted`` of ``losses.lead``. The logits must not be None.
        judge: whose classification of the returned image counts; None if the objective's logits are the model's.
        x: float [B, C, H, W] in [0, 1]. One that is misclassified as it is comes back as it is.
        y: int64 [B], the true classes.
        start: like ``x``, where the search begins; ``x`` if None.
        epsilon: radius of the ball, in [0, 1].
        steps: iterations, >= 0.
        tick: called after each pass of the images that still stand, with their number; may raise.
        counts: int64 [3] on ``x``'s device; the numbers of zero, of NaN and of all gradients are added to it.

    Returns:
        ``Attacked``. Of an image that withstands: the nearest adversarial one found, brought into the ball, else ``x``.

    Raises:
        ValueError: the objective gives no logits.
    """
    search = _Search(objective, judge, x, y, x if start is None else start, epsilon, tick)
    traces = torch.full((len(x), steps), torch.nan, dtype=search.moved.dtype, device=x.device)
    for step in range(steps + 1):
        if not len(search.rows):
            break
        _, adversarial = search.settle(search.moved, search.logits(search.moved))
        if step == steps or not len(search.rows):
            break
        back = search.origin + BETA * (search.moved - search.origin)
        moved = torch.where(_wide(adversarial), back, search.moved)
        value, gradient = search.linearise(moved, counts)
        traces[search.rows, step] = value
        search.moved = biased_step(moved, search.origin, value, gradient)
    search.finish()
    return Attacked(search.images, search.verdicts, traces)


def biased_step(moved: Tensor, origin: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
    """The paper's equation for the next point, from where the network is ``value`` + <``gradient``, . - ``moved``>.

    (1 - alpha) (moved + eta d) + alpha (origin + eta d_origin) with d and d_origin the moves of both to the plane and
    alpha = min(|d| / (|d| + |d_origin|), alpha_max), clipped to [0, 1].

    Args:
        moved, origin, gradient: float [b, C, H, W].
        value: float [b].
    """
    here = move_to_plane(moved, gradient, value)
    at_origin = value + (gradient * (origin - moved)).sum((1, 2, 3))
    there = move_to_plane(origin, gradient, at_origin)
    from_here, from_there = _size(here).clamp_min(LEAST_MOVE), _size(there).clamp_min(LEAST_MOVE)
    alpha = (from_here / (from_here + from_there)).clamp_max(ALPHA_MAX)
    return ((1 - alpha) * (moved + ETA * here) + alpha * (origin + ETA * there)).clamp(0, 1)


@dataclass
class _Search:
    """The images that still stand, and what has become of all.

    Where the judge disagrees with the objective about a point, the objective is off by what their margins differ there:
    ``offset``, which is added to it from then on, so that the search comes to the judge's boundary.
    """

    objective: Objective
    judge: Judge | None
    x: Tensor
    y: Tensor
    moved: Tensor
    epsilon: float
    tick: Callable[[int], None] | None

    def __post_init__(self) -> None:
        self.images = self.x.clone()
        self.verdicts = torch.full((len(self.x),), RIGHT, dtype=torch.int8, device=self.x.device)
        self.rows = torch.arange(len(self.x), device=self.x.device)
        self.labels = self.y
        # In 16 bits a step would be lost in rounding.
        self.origin = self.x.to(torch.promote_types(self.x.dtype, torch.float32))
        self.moved = self.moved.to(self.origin.dtype)
        self.best = self.origin.clone()
        self.nearest = self.origin.new_full((len(self.x),), torch.inf)
        self.offset = torch.zeros_like(self.nearest)

    def keep(self, chosen: Tensor) -> None:
        self.rows, self.labels, self.origin = self.rows[chosen], self.labels[chosen], self.origin[chosen]
        self.moved, self.best = self.moved[chosen], self.best[chosen]
        self.nearest, self.offset = self.nearest[chosen], self.offset[chosen]

    def logits(self, images: Tensor) -> Tensor:
        """The objective's, less ``offset`` for the true class, of an image for each that stands."""
        with torch.no_grad():
            logits = self._logits(images.to(self.x.dtype), self.rows)
        wide = torch.promote_types(logits.dtype, self.offset.dtype)
        return logits.to(wide).scatter_add(1, self.labels[:, None], -self.offset[:, None].to(wide))

    def _logits(self, images: Tensor, rows: Tensor) -> Tensor:
        logits = self.objective(images, rows)[1]
        if logits is None:
            raise ValueError("fab needs an objective that gives logits, this one gives None")
        return logits

    def settle(self, points: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Let those go whom ``points`` fool within epsilon, and remember the nearest of the other adversarial ones.

        Returns:
            (the places, among those that stood, of those that still do; which of their points are adversarial).
        """
        adversarial = verdict(logits, self.labels) != RIGHT
        distance = _size(points - self.origin).flatten()
        inside = adversarial & (distance <= self.epsilon)
        nearer = adversarial & ~inside & (distance < self.nearest)
        self.best = torch.where(_wide(nearer), points, self.best)
        self.nearest = torch.where(nearer, distance, self.nearest)
        kept = torch.arange(len(self.rows), device=self.rows.device)
        places = torch.nonzero(inside).flatten()
        if len(places):
            judged = self.ask(points[places], places)
            labels = self.labels[places]
            refused = verdict(judged, labels) == RIGHT
            off = margin(judged, labels) - margin(logits[places], labels)
            self.offset[places] += torch.where(refused, off.nan_to_num(0, 0, 0), 0).to(self.offset.dtype)
            adversarial[places] = inside[places] = ~refused
            kept = torch.nonzero(~inside).flatten()
            self.keep(kept)
        if self.tick is not None:
            self.tick(len(self.rows))
        return kept, adversarial[kept]

    def ask(self, points: Tensor, places: Tensor) -> Tensor:
        """The judge's logits of ``points``, clipped to the ball, of the standing images at ``places``; noted down."""
        rows = self.rows[places]
        images = projected(points.to(self.x.dtype), self.x[rows], self.epsilon)
        with torch.no_grad():
            logits = self._logits(images, rows) if self.judge is None else self.judge(images)
        self.images[rows], self.verdicts[rows] = images, verdict(logits, self.y[rows])
        return logits

    def linearise(self, moved: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor]:
        """The objective [b] at ``moved`` and its gradient, both finite."""
        images, seen = moved.to(self.x.dtype), []

        def ascend(leaf: Tensor) -> Tensor:
            value = self.objective(leaf, self.rows)[0]
            seen.append(value.detach())
            return value.sum()

        gradient = input_gradient(ascend, images).to(moved.dtype)
        if _carried_in_fp16(images):
            gradient = gradient / FP16_SCALE
        if counts is not None:
            counts[0] += (gradient == 0).sum()
            counts[1] += gradient.isnan().sum()
            counts[2] += gradient.numel()
        return (seen[0].to(moved.dtype) + self.offset).nan_to_num(0, 0, 0), gradient.nan_to_num(0, 0, 0)

    def finish(self) -> None:
        """The final search, and a last question about the best of each image that withstood it.

        A modified binary search between the image and the nearest adversarial point: it divides where the margin to
        that point's class would be zero if it were linear.
        """
        inner, outer = self.origin, self.best
        if len(self.rows):
            at_inner, at_outer = self.logits(inner), self.logits(outer)
        for _ in range(FINAL_STEPS):
            if not len(self.rows):
                return
            points = inner + _wide(_share(at_inner, at_outer, self.labels)) * (outer - inner)
            logits = self.logits(points)
            kept, adversarial = self.settle(points, logits)
            points, logits = points[kept], logits[kept]
            inner = torch.where(_wide(adversarial), inner[kept], points)
            outer = torch.where(_wide(adversarial), points, outer[kept])
            at_inner = torch.where(adversarial[:, None], at_inner[kept], logits)
            at_outer = torch.where(adversarial[:, None], logits, at_outer[kept])
        if len(self.rows):
            self.ask(self.best, torch.arange(len(self.rows), device=self.rows.device))


def _share(at_inner: Tensor, at_outer: Tensor, y: Tensor) -> Tensor:
    """[b] in (0, 1): where between inner and outer the margin to outer's class is zero if it is linear; else half."""
    pair = torch.stack([y, at_outer.argmax(dim=1)], dim=1)
    at_inner, at_outer = at_inner.gather(1, pair), at_outer.gather(1, pair)
    behind, beyond = at_inner[:, 0] - at_inner[:, 1], at_outer[:, 1] - at_outer[:, 0]
    share = behind / (behind + beyond)
    return torch.where((share > 0) & (share < 1), share, 0.5)


def _size(move: Tensor) -> Tensor:
    """[b, 1, 1, 1]: the Linf norm of each."""
    return move.abs().amax((1, 2, 3), keepdim=True)


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None, None]
