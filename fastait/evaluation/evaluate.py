"""Which images withstand which attacks: fp32, eval mode, one outcome per image and column."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fastait.attacks import Noise, classification, cross_entropy, frozen, margin
from fastait.attacks.autoattack import autoattack
from fastait.attacks.feature import targets, towards
from fastait.attacks.local_search import local_search
from fastait.attacks.spsa import spsa
from fastait.attacks.trajectory import Objective, Point, trajectory
from fastait.data import ImageSet
from fastait.engine.distributed import Ranks
from fastait.engine.precision import full_precision
from fastait.engine.randomness import derive
from fastait.errors import InputError
from fastait.evaluation.batches import channels_last, default_batch_size, placement
from fastait.evaluation.columns import Ascent, Column, groups, parse_all

CLEAN = "clean"

BLACK_BOX_BATCH = 16
"""Images that a kill of a black-box attack can cost, at most."""


class Journal(Protocol):
    """What remembers the finished batches of an evaluation."""

    def get(self, unit: dict[str, Any]) -> dict[str, list[int]]:
        """What is known of ``unit``: {column, or "queries of" column: a number per image}."""
        ...

    def put(self, unit: dict[str, Any], found: dict[str, list[int]]) -> None:
        """Remember, so that a kill from here on does not lose it."""
        ...


@dataclass(frozen=True)
class Outcomes:
    """What ``evaluate`` found, on the CPU.

    Attributes:
        correct: {"clean" or an attack's name: bool [N], whether the image is classified correctly}.
        queries: {a black-box attack's name: int64 [N], how many images were scored for each}.
    """

    correct: dict[str, Tensor] = field(default_factory=dict)
    queries: dict[str, Tensor] = field(default_factory=dict)

    def accuracy(self) -> dict[str, float]:
        """In percent."""
        return {name: 100 * outcome.double().mean().item() for name, outcome in self.correct.items()}


def evaluate(
    model: nn.Module,
    images: ImageSet,
    attacks: Sequence[str],
    *,
    epsilon: float = 8 / 255,
    step_size: float = 2 / 255,
    seed: int = 0,
    batch_size: int | None = None,
    surrogate: nn.Module | None = None,
    journal: Journal | None = None,
    advance: Callable[[str], None] = lambda name: None,
    ranks: Ranks = Ranks(),  # noqa: B008, immutable
) -> Outcomes:
    """Whether each image is classified correctly, clean and under each attack.

    Columns that are points of one trajectory are computed together, and an image that no column needs any more leaves
    its batch. Random starts, targets and the choices of black-box attacks are addressed by (seed, place in the set), so
    outcomes of a model that is not random itself do not depend on batches or on what is asked for together; only
    pyautoattack's choices are those of a batch.

    Args:
        model: logits [B, K] of images in [0, 1]; its parameters' device is used. Left as it was.
        images: the test set.
        attacks: names, see ``fastait.evaluation.columns``.
        epsilon: radius of the Linf ball, on images in [0, 1].
        step_size: of gradient attacks, > 0; FGSM's is epsilon.
        seed: of everything random.
        batch_size: images at a time; None for ``default_batch_size``.
        surrogate: the model that ``transfer-`` attacks are made on.
        journal: what is in it is not computed again.
        advance: called with a column's name after each batch of its group.
        ranks: the processes that share the batches; the outcomes are those of one process.

    Raises:
        InputError: an attack's name is wrong, the surrogate or pyautoattack is missing, or the model returns no logits
            for the set's classes.
    """
    columns = parse_all(attacks)
    if surrogate is None and any(column.needs_surrogate for column in columns):
        raise InputError("transfer attacks need the model that they are made on: --surrogate RUN")
    weight = placement(model)
    device = weight.device
    if batch_size is None:
        with full_precision(device):
            batch_size = default_batch_size(model, images)
    if images.images[0].numel() % 4 and batch_size % 4:
        batch_size = max(4, batch_size - batch_size % 4)  # noise is drawn in fours
    found = Outcomes(
        {name: torch.zeros(len(images), dtype=torch.uint8) for name in (CLEAN, *attacks)},
        {c.name: torch.zeros(len(images), dtype=torch.int64) for c in columns if c.kind in ("spsa", "local-search")},
    )
    setting = {"epsilon": epsilon, "step_size": step_size, "seed": seed}
    models = [model] if surrogate is None else [model, surrogate]
    with full_precision(device), ExitStack() as stack:
        for network in models:
            stack.enter_context(frozen(network))
        sample = images.floats(torch.arange(min(2, len(images))), device, weight.dtype)
        formats = {stack.enter_context(channels_last(network, sample)) for network in models}
        layout = torch.channels_last if formats == {torch.channels_last} else torch.contiguous_format
        for group in ([], *groups(columns)):
            names = [column.name for column in group] or [CLEAN]
            # A black box takes its images one by one, and as long for a few as a gradient attack for many.
            size = min(batch_size, BLACK_BOX_BATCH) if names[0] in found.queries else batch_size
            for first in range(ranks.rank * size, len(images), ranks.size * size):
                place = slice(first, min(first + size, len(images)))
                unit = {**setting, "first": first, "size": place.stop - first}
                known = {} if journal is None else journal.get(unit)
                missing = [column for column in group if column.name not in known]
                if missing or (not group and CLEAN not in known):
                    batch = _Batch(model, surrogate, images, place, setting, layout)
                    new = batch.run(missing) if group else {CLEAN: batch.clean()}
                    lists = {name: values.tolist() for name, values in new.items()}
                    if journal is not None:
                        journal.put(unit, lists)
                    known = {**known, **lists}
                for name in names:
                    found.correct[name][place] = torch.tensor(known[name], dtype=torch.uint8)
                    if name in found.queries:
                        found.queries[name][place] = torch.tensor(known[_queries_of(name)])
                advance(names[-1])
    return Outcomes(
        {name: ranks.merge(outcome).bool() for name, outcome in found.correct.items()},
        {name: ranks.merge(counts) for name, counts in found.queries.items()},
    )


def check_logits(logits: Tensor, classes: int | None = None) -> None:
    """Raise an InputError unless ``logits`` are finite, [B, K], no probabilities, and K is ``classes``."""
    if logits.dim() != 2:
        raise InputError(f"the model returns {tuple(logits.shape)} where logits [B, K] are needed")
    if classes is not None and logits.shape[1] != classes:
        raise InputError(f"the model tells {logits.shape[1]} classes apart, the data set has {classes}")
    if not bool(logits.isfinite().all()):
        raise InputError("the model returns NaN or infinity for clean images")
    rows = logits.sum(dim=1)
    if bool((logits >= 0).all()) and bool((rows - 1).abs().max() < 1e-3):
        raise InputError("the model returns probabilities; attacks need logits, from before the softmax")


class _Batch:
    """A batch of images under attack."""

    def __init__(
        self,
        model: nn.Module,
        surrogate: nn.Module | None,
        images: ImageSet,
        place: slice,
        setting: dict[str, Any],
        layout: torch.memory_format,
    ):
        self.model = model
        self.surrogate = surrogate
        self.images = images
        self.place = place
        self.seed: int = setting["seed"]
        self.epsilon: float = setting["epsilon"]
        self.step_size: float = setting["step_size"]
        self.layout = layout
        weight = placement(model)
        self.device, self.dtype = weight.device, weight.dtype
        self.x = self._floats(torch.arange(place.start, place.stop))
        self.y = images.labels[place].to(self.device)

    def _floats(self, places: Tensor) -> Tensor:
        return self.images.floats(places, self.device, self.dtype).contiguous(memory_format=self.layout)

    def clean(self) -> Tensor:
        """Outcomes of the images themselves, bool [B]."""
        self._reseed(CLEAN)
        with torch.no_grad():
            logits = self.model(self.x)
        check_logits(logits)
        return logits.argmax(dim=1) == self.y

    def run(self, group: Sequence[Column]) -> dict[str, Tensor]:
        """Outcomes of one group's columns, and the queries of black-box ones."""
        return self._run(group, torch.arange(len(self.x), device=self.device))

    def _run(self, group: Sequence[Column], rows: Tensor) -> dict[str, Tensor]:
        column = group[0]
        self._reseed(repr(column.ascent or column.name))
        if column.kind == "ascent":
            assert column.ascent is not None
            if column.ascent.restarts > 1:
                return {column.name: self._restarts(column, rows)}
            points = {c.name: Point(c.count, c.steps) for c in group}
            found = self._ascend(column.ascent, rows, set(points.values()))
            return {name: found[point] for name, point in points.items()}
        if column.kind == "union":
            return {column.name: self._union(column, rows)}
        x, y = self.x[rows], self.y[rows]
        if column.kind == "library":
            seed = derive(self.seed, column.name, self.place.start) % 2**31
            moved = autoattack(self.model, x, y, epsilon=self.epsilon, name=column.name, seed=seed)
            return {column.name: self._correct(moved, y)}
        moved, queries = x.clone(), torch.zeros(len(x), dtype=torch.int64, device=self.device)
        generator = torch.Generator(self.device)
        for i, row in enumerate(rows.tolist()):
            generator.manual_seed(derive(self.seed, column.name, self.place.start + row))
            image, label = x[i : i + 1], y[i : i + 1]
            moved[i : i + 1], queries[i : i + 1] = self._black_box(column, image, label, generator)
        return {column.name: self._correct(moved, y), _queries_of(column.name): queries}

    def _black_box(self, column: Column, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if column.kind == "local-search":
            epsilon = self.epsilon if column.linf else None
            return local_search(self.model, x, y, rounds=column.steps, epsilon=epsilon, generator=generator)
        options = {"epsilon": self.epsilon, "directions": column.directions, "steps": column.steps}
        return spsa(self.model, x, y, **options, generator=generator)  # type: ignore[arg-type]

    def _correct(self, images: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model(images).argmax(dim=1) == y

    def _ascend(self, ascent: Ascent, rows: Tensor, points: set[Point], restart: int = 0) -> dict[Point, Tensor]:
        objective = self._objective(ascent, rows, restart)
        if ascent.eot > 1:
            objective = expected(objective, ascent.eot)
        elif ascent.transfer:
            objective = _without_logits(objective)
        return trajectory(
            objective,
            self.model,
            self.x[rows],
            self.y[rows],
            self._start(restart)[rows] if ascent.random_start else self.x[rows],
            points,
            epsilon=self.epsilon,
            step_size=self.epsilon if ascent.one_step else self.step_size,
        )

    def _start(self, restart: int) -> Tensor:
        noise = Noise.seeded(derive(self.seed, "evaluation"), self.device)
        noise.seek(torch.tensor([restart], device=self.device), self.place.start)
        # Noise follows the order in memory, which must not be the models' to decide.
        start = noise.start(self.x.contiguous(memory_format=torch.channels_last), self.epsilon)
        return start.contiguous(memory_format=self.layout)

    def _objective(self, ascent: Ascent, rows: Tensor, restart: int) -> Objective:
        attacked: nn.Module = self.model
        if ascent.transfer:
            assert self.surrogate is not None
            attacked = self.surrogate
        if ascent.loss == "feature":
            places = targets(self.images.labels, self.seed, restart)[self.place][rows.cpu()]
            try:
                return towards(attacked, self._floats(places))
            except TypeError as error:
                raise InputError(str(error)) from None
        loss = cross_entropy if ascent.loss == "pgd" else margin
        return classification(attacked, self.y[rows], loss)

    def _restarts(self, column: Column, rows: Tensor) -> Tensor:
        assert column.ascent is not None
        point = Point("last", column.steps)
        return _while_standing(
            rows,
            (
                lambda left, restart=restart: self._ascend(column.ascent, left, {point}, restart)[point]  # type: ignore
                for restart in range(column.ascent.restarts)
            ),
        )

    def _union(self, column: Column, rows: Tensor) -> Tensor:
        return _while_standing(
            rows,
            (lambda left, part=part: self._run([part], left)[part.name] for part in column.parts),  # type: ignore[misc]
        )

    def _reseed(self, name: str) -> None:
        for model in (self.model, self.surrogate):
            if hasattr(model, "reseed"):
                model.reseed(derive(self.seed, "defence", name, self.place.start))  # type: ignore[operator, union-attr]


def _while_standing(rows: Tensor, attacks: Iterator[Callable[[Tensor], Tensor]]) -> Tensor:
    """bool like ``rows``: who withstands all ``attacks``, each of which is given those that are left."""
    standing = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    for attack in attacks:
        left = torch.nonzero(standing).flatten()
        if not len(left):
            break
        standing[left] = attack(rows[left])
    return standing


def expected(objective: Objective, draws: int) -> Objective:
    """Ascend the mean of ``draws`` passes of a random model: expectation over transformation (Athalye et al., 2018)."""

    def mean(images: Tensor, rows: Tensor) -> tuple[Tensor, None]:
        return sum(objective(images, rows)[0] for _ in range(draws)) / draws, None  # type: ignore[return-value]

    return mean


def _without_logits(objective: Objective) -> Objective:
    return lambda images, rows: (objective(images, rows)[0], None)


def _queries_of(name: str) -> str:
    return f"queries of {name}"
