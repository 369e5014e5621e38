"""A batch of a test set under attack, and what comes of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fastait.attacks import NOT_FINITE, RIGHT, Noise, Subject, verdict
from fastait.attacks.addressed import Addressed
from fastait.attacks.batch import AttackedBatch, Found
from fastait.attacks.columns import Column
from fastait.attacks.feature import targets
from fastait.attacks.gradient import in_parts
from fastait.attacks.spsa import margin
from fastait.attacks.stages import Attempt, Stage
from fastait.data import ImageSet
from fastait.evaluation.logits import check_logits
from fastait.evaluation.outcomes import CLEAN, MARGIN, MARGIN_UNIT, NO_CLASS, class_under, queries_of
from fastait.evaluation.sums import of_attacks, of_clean
from fastait.runtime.randomness import derive

LARGEST = 2**40
"""Of a margin that is written down."""


@dataclass(frozen=True)
class Result:
    """What a batch came to.

    Attributes:
        places: of its images in the set.
        numbers: {a column or a stage, and what else is known of each image: a number for each place}.
        sums: see ``Sums``.
        images: {a column or a stage: the images that decided, like the batch's}.
    """

    places: list[int]
    numbers: dict[str, list[int]]
    sums: dict[str, list[float]] = field(default_factory=dict)
    images: Mapping[str, Tensor] = field(default_factory=dict)


class SetBatch:
    """Randomness is addressed by (seed, place in the set, restart)."""

    def __init__(
        self,
        model: Subject,
        surrogate: Subject | None,
        search: Subject | None,
        images: ImageSet,
        setting: dict[str, Any],
        layout: torch.memory_format,
        where: tuple[torch.device, torch.dtype],
        places: Tensor,
        at_a_time: int | None,
    ):
        self.model, self.surrogate, self.search = model, surrogate, search
        self.images = images
        self.places = places
        self.first = int(places[0])
        self.setting = setting
        self.seed: int = setting["seed"]
        self.layout = layout
        self.device, self.dtype = where
        self.at_a_time = at_a_time
        self.x, self.y = self._floats(places), images.labels[places].to(self.device)

    def _floats(self, places: Tensor) -> Tensor:
        return self.images.floats(places, self.device, self.dtype).contiguous(memory_format=self.layout)

    def clean(self) -> Result:
        """What the images themselves come to.

        Raises:
            InputError: the model returns no finite logits.
        """
        self._reseed(CLEAN)
        with torch.no_grad():
            logits = self.model(self.x)
        check_logits(logits)
        margins = (-margin(logits, self.y).double() / MARGIN_UNIT).clamp(-LARGEST, LARGEST).round().long()
        numbers = {CLEAN: verdict(logits, self.y), class_under(CLEAN): logits.argmax(dim=1), MARGIN: margins}
        return Result(self.places.tolist(), _lists(numbers), of_clean(logits))

    def under(self, group: Sequence[Column]) -> Result:
        """What columns of one group come to."""
        return self._result(self._attacked().run(group))

    def under_stage(self, stage: Stage | Attempt, tick: Callable[[int], None] | None) -> Result:
        """What a stage comes to; for one of AutoAttack, on images that are classified correctly."""
        self._reseed(stage.name)
        rows = torch.arange(len(self.x), device=self.device)
        return self._result(replace(self._attacked(), tick=tick).stage(stage, rows))

    def _attacked(self) -> AttackedBatch:
        # Not kept: two that know each other would hold their images until Python looks for such.
        budgets = self.setting["epsilon"], self.setting["step_size"]
        ways: dict[str, Any] = {"search": self.search, "at_a_time": self.at_a_time, "keep_images": True}
        return AttackedBatch(self.model, self.surrogate, self.x, self.y, *budgets, self, **ways)

    def _result(self, found: Found) -> Result:
        numbers = {**found.verdicts, **{queries_of(name): values for name, values in found.queries.items()}}
        for name, verdicts in found.verdicts.items():
            numbers[class_under(name)] = self._classes(verdicts, found.images[name])
        return Result(self.places.tolist(), _lists(numbers), of_attacks(found), found.images)

    def _classes(self, verdicts: Tensor, images: Tensor) -> Tensor:
        """What the model takes the images for, int64 [B]: the true class of those that withstand, whatever rounding
        makes of another pass, and another one of those that do not."""
        fooled = torch.nonzero(verdicts != RIGHT).flatten()
        found = self.y.clone()
        if len(fooled):
            with torch.no_grad():
                logits = in_parts(self.model, images[fooled], self.at_a_time)
            others = logits.scatter(1, self.y[fooled, None], -torch.inf).argmax(dim=1)
            found[fooled] = torch.where(verdicts[fooled] == NOT_FINITE, NO_CLASS, others)
        return found

    def begin(self, column: Column) -> None:
        """See ``Draws``."""
        self._reseed(repr(column.ascent or column.name))

    def start(self, restart: int) -> Tensor:
        """See ``Draws``."""
        return self._start(derive(self.seed, "evaluation"), restart)

    def _start(self, seed: int, offset: int) -> Tensor:
        noise = Noise.seeded(seed, self.device)
        # Noise follows the order in memory, which must not be the models' to decide.
        x = self.x.contiguous(memory_format=torch.channels_last)
        start = noise.start_at(x, self.setting["epsilon"], offset, self.places)
        return start.contiguous(memory_format=self.layout)

    def targets(self, restart: int) -> Tensor:
        """See ``Draws``."""
        return self._floats(targets(self.images.labels, self.seed, restart)[self.places])

    def generator(self, column: Column, row: int) -> torch.Generator:
        """See ``Draws``."""
        seed = derive(self.seed, column.name, int(self.places[row]))
        return torch.Generator(self.device).manual_seed(seed)

    def start_of(self, stage: Stage) -> Tensor:
        """See ``Draws``."""
        return self._start(derive(self.seed, "evaluation", stage.name), 0)

    def numbers_of(self, stage: Stage) -> Addressed:
        """See ``Draws``."""
        return Addressed(derive(self.seed, "evaluation", stage.name), self.places.to(self.device))

    def _reseed(self, name: str) -> None:
        for model in (self.model, self.surrogate):
            if model is not None:
                model.reseed(derive(self.seed, "defence", name, self.first))


def _lists(numbers: Mapping[str, Tensor]) -> dict[str, list[int]]:
    return {name: values.tolist() for name, values in numbers.items()}
