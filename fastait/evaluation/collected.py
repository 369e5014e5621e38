"""What an evaluation knows, as its batches come in and as an earlier one left it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from fastait.attacks import NOT_FINITE, RIGHT
from fastait.attacks.columns import Column
from fastait.attacks.stages import Attempt, Stage
from fastait.evaluation.cautions import cautions
from fastait.evaluation.journal import Finding
from fastait.evaluation.kept import Kept
from fastait.evaluation.known import Known
from fastait.evaluation.outcomes import CLEAN, MARGIN, NO_CLASS, Outcomes, class_under, queries_of
from fastait.evaluation.set_batch import Result
from fastait.evaluation.staged import decided_by, stage_names
from fastait.evaluation.sums import VALUES, Numbers, Sums, lengths_of
from fastait.runtime.processes import Ranks


class Journal(Protocol):
    """What remembers the finished batches of an evaluation."""

    def get(self, unit: dict[str, Any]) -> list[Finding]:
        """What is known in the setting ``unit``, the oldest first."""
        ...

    def sums(self, unit: dict[str, Any]) -> list[Numbers]:
        """What was summed over batches in the setting ``unit``."""
        ...

    def put(self, unit: dict[str, Any], places: Sequence[int], found: dict[str, list[int]], sums: Numbers) -> None:
        """Remember what was found of the images at ``places``, so that a kill from here on does not lose it."""
        ...


class Collected:
    """Of the images of one process.

    Args:
        columns: what is measured.
        parts: the stages of those that have such.
        own: int64 [n] on the CPU, the images' places.
        images: how many there are in all.
        setting: of the evaluation.
        journal: what is in it is known.
        kept: where adversarial images go; where it is to be complete, an outcome without its image is not known.
        ranks: the processes.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        parts: Mapping[str, Sequence[Stage | Attempt]],
        own: Tensor,
        images: int,
        setting: dict[str, Any],
        journal: Journal | None,
        kept: Kept | None,
        ranks: Ranks,
    ):
        self._columns, self._parts = columns, parts
        self._setting, self._journal, self._kept, self._ranks = setting, journal, kept, ranks
        self._stages = stage_names(list(parts.values()))
        names = [CLEAN, *(column.name for column in columns)]
        classes = [class_under(name) for name in (*names, *self._stages)]
        queries = [queries_of(column.name) for column in columns if column.black_box]
        self.known = Known((*names, MARGIN, *classes, *queries, *self._stages, *map(decided_by, parts)), own, images)
        self._sums = Sums()
        for finding in () if journal is None else journal.get(setting):
            self.known.add(*finding)
        for numbers in () if journal is None or not ranks.first else journal.sums(setting):
            self._sums.add(numbers)
        self.known.fill(classes, NO_CLASS)
        self._wanted = torch.zeros(images, dtype=torch.bool, device="cpu")
        # Of a stage only images that it fools are kept, but of a column's first.
        self._whole = {column.name for column in columns if not column.in_stages}
        self._whole |= {stages[0].name for stages in parts.values() if stages}
        if kept is not None and kept.complete:
            self._forget_without_images(kept)

    def _forget_without_images(self, kept: Kept) -> None:
        here = kept.places()
        for name in (*self._whole, *self._stages):
            lacking = torch.ones_like(self._wanted) if name in self._whole else self.known.of(name) != RIGHT
            lacking[here.get(name, [])] = False
            self.known.forget(name, lacking)

    def take(self, result: Result) -> None:
        """Take up what a batch came to: first the images, then what makes them known."""
        if self._kept is not None and result.images:
            self._kept.put({name: self._chosen(result, name) for name in result.images})
        if self._journal is not None:
            self._journal.put(self._setting, result.places, result.numbers, result.sums)
        self.known.add(result.places, result.numbers)
        self._sums.add(result.sums)

    def _chosen(self, result: Result, name: str) -> tuple[Tensor, Tensor]:
        places = torch.tensor(result.places, device="cpu")
        chosen = self._wanted[places]
        if name not in self._whole:
            chosen &= torch.tensor(result.numbers[name], device="cpu") != RIGHT
        return places[chosen], result.images[name][chosen.to(result.images[name].device)].cpu().contiguous()

    def clean_is_known(self) -> None:
        """Choose whose images are kept; for all processes to call."""
        self._margins = self.known.merged(MARGIN, self._ranks)
        if self._kept is not None:
            self._wanted = self._kept.wanted(self._margins)

    def outcomes(self) -> Outcomes:
        """What was found by all processes, for all of them to call."""
        names = [CLEAN, *(column.name for column in self._columns)]
        verdicts = {name: self._merged(name) for name in names}
        black_boxes = [column.name for column in self._columns if column.black_box]
        followed = [one for stages in self._parts.values() for one in stages if one.along_gradients]
        steps = {stage.name: stage.steps + 1 for stage in followed}
        steps |= {column.name: column.steps for column in self._columns if column.ascent is not None}
        lengths = {key: length for name, count in steps.items() for key, length in lengths_of(name, count).items()}
        self._sums.merge({VALUES: 2, **lengths}, self._ranks)
        losses = {name: self._sums.losses(name) for name in steps}
        found = Outcomes(
            {name: found == RIGHT for name, found in verdicts.items()},
            {name: self._merged(queries_of(name)) for name in black_boxes},
            {name: found == NOT_FINITE for name, found in verdicts.items() if bool((found == NOT_FINITE).any())},
            classes={name: self._merged(class_under(name)) for name in names},
            margins={CLEAN: self._margins},
            stages={name: tuple(stage.name for stage in stages) for name, stages in self._parts.items()},
            decided={name: self._merged(decided_by(name)) for name in self._parts},
            losses={name: means for name, means in losses.items() if len(means)},
        )
        return replace(found, warnings=tuple(cautions(self._columns, self._parts, found, self._sums)))

    def _merged(self, name: str) -> Tensor:
        return self.known.merged(name, self._ranks)
