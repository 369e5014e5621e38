"""A batch of images under the attacks that names stand for."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor

from fastait.attacks.addressed import Addressed
from fastait.attacks.autoattack import run_stage
from fastait.attacks.columns import Ascent, Column
from fastait.attacks.feature import towards
from fastait.attacks.gradient import parts
from fastait.attacks.local_search import local_search
from fastait.attacks.pgd import classification, cross_entropy, margin
from fastait.attacks.spsa import spsa
from fastait.attacks.stages import Attempt, Stage, stages
from fastait.attacks.subject import Subject
from fastait.attacks.trajectory import Objective, Point, judged, trajectory
from fastait.attacks.verdict import RIGHT
from fastait.runtime.errors import InputError


class Draws(Protocol):
    """Where a batch's randomness comes from."""

    def begin(self, column: Column) -> None:
        """Called before ``column`` and those that share its trajectory, for a defence that is random itself."""
        ...

    def start(self, restart: int) -> Tensor:
        """Random starts of all images, laid out as they are."""
        ...

    def targets(self, restart: int) -> Tensor:
        """Images that the feature attack moves each one towards, of other classes."""
        ...

    def generator(self, column: Column, row: int) -> torch.Generator:
        """What a black box draws from for the image at ``row``."""
        ...

    def start_of(self, stage: Stage) -> Tensor:
        """Random starts of all images for a stage of AutoAttack, laid out as they are."""
        ...

    def numbers_of(self, stage: Stage) -> Addressed:
        """The numbers that Square draws for all images."""
        ...


@dataclass
class Found:
    """What a batch's attacks came to.

    Attributes:
        verdicts: {name: int8 [B], see ``verdict``}.
        images: {name: the adversarial images, like the batch's}, where they were asked for.
        queries: {a black box's name: int64 [B], how many images were scored for each}.
        traces: {name: float [B, T], the losses of each image before each step, NaN where it was not in the batch}, of
            attacks along one ascent.
        gradients: {the same: int64 [3], the numbers of zero, of NaN and of all gradients}.
    """

    verdicts: dict[str, Tensor] = field(default_factory=dict)
    images: dict[str, Tensor] = field(default_factory=dict)
    queries: dict[str, Tensor] = field(default_factory=dict)
    traces: dict[str, Tensor] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class AttackedBatch:
    """Images and the model that is to tell them apart. The caller keeps it frozen.

    Attributes:
        model: what is attacked, and the judge of every image.
        surrogate: what ``transfer-`` attacks are made on.
        x: float [B, C, H, W] in [0, 1].
        y: int64 [B].
        epsilon: radius of the Linf ball.
        step_size: of gradient attacks; FGSM's is ``epsilon``.
        draws: where randomness comes from.
        keep_images: whether adversarial images are wanted.
        search: a faster form of ``model``, see ``shortcut``, that finds what ``model`` then judges; None for itself.
        at_a_time: images that black boxes score together, at most; None for their own choice.
        together: images that other attacks move together, at most; None for all.
        tick: called after each iteration, with the number of images that stand; may raise to stop.
    """

    model: Subject
    surrogate: Subject | None
    x: Tensor
    y: Tensor
    epsilon: float
    step_size: float
    draws: Draws
    keep_images: bool = False
    search: Subject | None = None
    at_a_time: int | None = None
    together: int | None = None
    tick: Callable[[int], None] | None = None

    def run(self, group: Sequence[Column], rows: Tensor | None = None) -> Found:
        """What columns of one group (see ``columns.groups``) come to, on all images or on ``rows``, int64 [n]."""
        rows = torch.arange(len(self.x), device=self.x.device) if rows is None else rows
        column = group[0]
        self.draws.begin(column)
        if column.in_stages:
            first, classes = ([self._unattacked], self._classes()) if column.of_autoattack else ([], 0)
            of_stages = (partial(self.stage, stage) for stage in stages(column, classes))
            return self._while_standing(column, rows, chain(first, of_stages))
        return self._alone(column, rows) if column.black_box else self._ascend(group, rows)

    def _while_standing(self, column: Column, rows: Tensor, attacks: "Iterator[Callable[[Tensor], Found]]") -> Found:
        """Who withstands all ``attacks``, each of which is given those that are left."""
        verdicts = torch.full_like(rows, RIGHT, dtype=torch.int8)
        images = self.x[rows]
        for attack in attacks:
            left = torch.nonzero(verdicts == RIGHT).flatten()
            if not len(left):
                break
            found = attack(rows[left])
            (verdicts[left],) = found.verdicts.values()
            if self.keep_images:
                (images[left],) = found.images.values()
        return Found({column.name: verdicts}, {column.name: images})

    def _alone(self, column: Column, rows: Tensor) -> Found:
        x, y = self.x[rows], self.y[rows]
        moved, queries = x.clone(), torch.zeros_like(rows)
        for i, row in enumerate(rows.tolist()):
            generator, one = self.draws.generator(column, row), slice(i, i + 1)
            if column.kind == "local-search":
                moved[one], queries[one] = local_search(
                    self.model,
                    x[one],
                    y[one],
                    rounds=column.steps,
                    epsilon=self.epsilon if column.linf else None,
                    generator=generator,
                    at_a_time=self.at_a_time,
                    scores=self.search,
                )
            else:
                moved[one], queries[one] = spsa(
                    self.model,
                    x[one],
                    y[one],
                    epsilon=self.epsilon,
                    directions=column.directions,
                    steps=column.steps,
                    generator=generator,
                    at_a_time=self.at_a_time,
                    scores=self.search,
                )
        return Found({column.name: judged(self.model, moved, y)}, {column.name: moved}, {column.name: queries})

    def _classes(self) -> int:
        """How many the model tells apart."""
        with torch.no_grad():
            return self.model(self.x[:2]).shape[1]

    def stage(self, stage: Stage | Attempt, rows: Tensor) -> Found:
        """What a stage comes to on ``rows``, int64 [n]; for one of AutoAttack, images that are classified correctly."""
        if isinstance(stage, Attempt):
            column = stage.column
            found = self._alone(column, rows) if column.black_box else self._ascend([column], rows, stage.restart)
            return _renamed(found, stage.name)
        start, draws = cache(lambda: self.draws.start_of(stage)), cache(lambda: self.draws.numbers_of(stage))

        def attack(rows: Tensor) -> Found:
            counts = torch.zeros(3, dtype=torch.int64, device=self.x.device)
            attacked, queries = run_stage(
                stage,
                self.search or self.model,
                None if self.search is None else self.model,
                self.x[rows],
                self.y[rows],
                epsilon=self.epsilon,
                start=lambda: start()[rows],
                draws=lambda: draws().at(rows),
                tick=self.tick,
                counts=counts,
            )
            of_stage = {"queries": queries, "traces": attacked.traces, "gradients": counts}
            more = {kind: {stage.name: value} for kind, value in of_stage.items() if value is not None}
            return Found({stage.name: attacked.verdicts}, {stage.name: attacked.images}, **more)

        return self._in_parts(rows, attack)

    def _in_parts(self, rows: Tensor, attack: "Callable[[Tensor], Found]") -> Found:
        """What ``attack`` comes to on ``rows``, ``together`` of them at a time."""
        found = [attack(rows[part]) for part in parts(len(rows), self.together)]
        return found[0] if len(found) == 1 else _joined(found)

    def _unattacked(self, rows: Tensor) -> Found:
        def judge(rows: Tensor) -> Found:
            x = self.x[rows]
            return Found({"": judged(self.model, x, self.y[rows])}, {"": x})

        return self._in_parts(rows, judge)

    def _ascend(self, group: Sequence[Column], rows: Tensor, restart: int = 0) -> Found:
        """The points of one trajectory."""
        ascent = group[0].ascent
        assert ascent is not None
        points = {column.name: Point(column.count, column.steps) for column in group}
        targets = self.draws.targets(restart) if ascent.loss == "feature" else None
        start = self.draws.start(restart) if ascent.random_start else self.x

        steps, wide = max(column.steps for column in group), torch.promote_types(self.x.dtype, torch.float32)

        def attack(rows: Tensor) -> Found:
            images: dict[Point, Tensor] | None = {} if self.keep_images else None
            traces = torch.full((len(rows), steps), torch.nan, dtype=wide, device=self.x.device)
            counts = torch.zeros(3, dtype=torch.int64, device=self.x.device)
            found = trajectory(
                self._objective(ascent, rows, targets),
                self.model,
                self.x[rows],
                self.y[rows],
                start[rows],
                set(points.values()),
                epsilon=self.epsilon,
                step_size=self.epsilon if ascent.one_step else self.step_size,
                suspects_only=self.search is not None,
                images=images,
                traces=traces,
                counts=counts,
            )
            return Found(
                {name: found[point] for name, point in points.items()},
                {name: images[point] for name, point in points.items()} if images is not None else {},
                traces={name: traces[:, : point.steps] for name, point in points.items()},
                gradients=dict.fromkeys(points, counts),
            )

        return self._in_parts(rows, attack)

    def _objective(self, ascent: Ascent, rows: Tensor, targets: Tensor | None) -> Objective:
        attacked = self.search or self.model
        if ascent.transfer:
            if self.surrogate is None:
                raise InputError(
                    "transfer attacks need the model that they are made on: --surrogate RUN, or surrogate="
                )
            attacked = self.surrogate
        if targets is not None:
            try:
                objective = towards(attacked, targets[rows])
            except TypeError as error:
                raise InputError(str(error)) from None
        else:
            objective = classification(attacked, self.y[rows], cross_entropy if ascent.loss == "pgd" else margin)
        if ascent.eot > 1:
            return expected(objective, ascent.eot)
        return _without_logits(objective) if ascent.transfer else objective


def expected(objective: Objective, draws: int) -> Objective:
    """Ascend the mean of ``draws`` passes of a random model: expectation over transformation (Athalye et al., 2018)."""

    def mean(images: Tensor, rows: Tensor) -> tuple[Tensor, None]:
        return sum(objective(images, rows)[0] for _ in range(draws)) / draws, None  # type: ignore[return-value]

    return mean


def _without_logits(objective: Objective) -> Objective:
    return lambda images, rows: (objective(images, rows)[0], None)


def _joined(found: Sequence[Found]) -> Found:
    """What was found of several parts of a batch, as of the whole."""

    def joined(every: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.cat([one[name] for one in every]) for name in every[0]}

    kinds = ("verdicts", "images", "queries", "traces")
    gradients = {name: torch.stack([one.gradients[name] for one in found]).sum(0) for name in found[0].gradients}
    return Found(**{kind: joined([getattr(one, kind) for one in found]) for kind in kinds}, gradients=gradients)


def _renamed(found: Found, name: str) -> Found:
    """What was found of one attack, as of ``name``."""
    return Found(**{kind: dict(zip([name], of.values(), strict=False)) for kind, of in vars(found).items()})
