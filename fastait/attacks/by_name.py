"""Attacks as functions of a batch, by the names that an evaluation's columns have."""

from typing import Any

import torch
from torch import Tensor

from fastait.attacks.addressed import Addressed
from fastait.attacks.batch import AttackedBatch
from fastait.attacks.checks import budget, public, source
from fastait.attacks.columns import Column, parse
from fastait.attacks.feature import targets
from fastait.attacks.frozen import frozen
from fastait.attacks.noise import Noise
from fastait.attacks.pgd import Attack, cw20, fgsm, pgd20
from fastait.attacks.stages import Stage
from fastait.attacks.subject import Subject
from fastait.attacks.suited import Suited, like, suited
from fastait.runtime.arguments import number


class _Drawn:
    """``Draws`` from a caller's generator, for ``x`` as it lies with the caller, laid out as what is attacked is."""

    def __init__(self, x: Tensor, y: Tensor, epsilon: float, generator: torch.Generator | None, way: Suited):
        self.x, self.y, self.epsilon = x, y, epsilon
        self.source, self.way = generator, way

    def begin(self, column: Column) -> None:
        """See ``Draws``."""

    def start(self, restart: int) -> Tensor:
        """See ``Draws``."""
        return self.way.laid(Noise.drawn(self.source, self.x.device).start(self.x, self.epsilon))

    def targets(self, restart: int) -> Tensor:
        """See ``Draws``."""
        return self.way.laid(self.x[targets(self.y, self._integer(), restart).to(self.x.device)])

    def generator(self, column: Column, row: int) -> torch.Generator:
        """See ``Draws``."""
        return torch.Generator(self.x.device).manual_seed(self._integer())

    def start_of(self, stage: Stage) -> Tensor:
        """See ``Draws``."""
        return self.start(0)

    def numbers_of(self, stage: Stage) -> Addressed:
        """See ``Draws``."""
        return Addressed(self._integer(), torch.arange(len(self.x), device=self.x.device))

    def _integer(self) -> int:
        drawn = torch.randint(0, 2**31, (1,), generator=self.source, device=self.x.device, dtype=torch.int64)
        return int(drawn)


class _Attacks(dict[str, Attack]):
    """Holds the paper's attacks, and makes any other that has a name."""

    def __missing__(self, name: str) -> Attack:
        column = parse(name)

        @public
        def attack(
            model: Any,
            x: Tensor,
            y: Tensor,
            *,
            epsilon: float = 8 / 255,
            step_size: float = 2 / 255,
            generator: torch.Generator | None = None,
            surrogate: Any = None,
        ) -> Tensor:
            radius = budget(epsilon)
            subject = Subject.of(model)
            other = None if surrogate is None else Subject.of(surrogate, subject.classes, "the surrogate")
            step = number("step_size", step_size, 0, above=True)
            if not len(x):
                return x.clone()
            way = suited(subject, x) if other is None else suited(subject, x).both(suited(other, x))
            draws = _Drawn(x, y, radius, source(generator, x.device), way)
            options: dict[str, Any] = {"keep_images": True, "together": way.together}
            batch = AttackedBatch(subject, other, way.laid(x), y, radius, step, draws, **options)
            with frozen(subject), frozen(other or subject):
                return like(batch.run([column]).images[name], x)

        return attack


ATTACKS: dict[str, Attack] = _Attacks(fgsm=fgsm, pgd20=pgd20, cw20=cw20)
"""The paper's attacks as functions of a batch, and by subscript any other name of ``fastait.attacks.columns``:
``ATTACKS["cw100-min5"](model, x, y, epsilon=..., step_size=..., generator=..., surrogate=...)``. What counts is what
counts in the column: of ``-worst`` the first image that fools the model is returned, of ``-minN`` that of any restart;
images of black boxes and of AutoAttack that fool nobody may be the clean ones."""
