"""What is there of a comparison: which networks are trained, and of how many images each outcome is known."""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from fastait.attacks import RIGHT
from fastait.attacks.columns import parse_all
from fastait.attacks.stages import stages
from fastait.checkpoints.folder import WEIGHTS
from fastait.evaluation.entrants import code_of
from fastait.evaluation.evaluate import CLEAN
from fastait.evaluation.journal import Finding, Recorded, weights_checksum
from fastait.evaluation.model_files import load_model
from fastait.models.names import parse
from fastait.reproduction import attempts
from fastait.reproduction.measured import Measured
from fastait.reproduction.points import Point
from fastait.reproduction.systems import Choices
from fastait.runtime.version import __version__

ANYWHERE = ("torch", "device")
"""Parts of a unit that say where something was measured; it counts wherever that was."""


class Standing:
    """Of one seed's choices; nothing is written.

    Args:
        choices: of the user.
        recorded: what the journals have; several seeds share it.

    Attributes:
        checksum: of a system's network; None while it is not trained.
    """

    def __init__(self, choices: Choices, recorded: Recorded | None = None):
        self.choices = choices
        self._recorded = Recorded(journal_folder(choices)) if recorded is None else recorded
        self._finished: set[Path] = set()
        self._of = cache(self._checksum)
        self._images = cache(lambda point: choices.images_wanted(point.system, point.black_box))

    def trained(self, system: str) -> bool:
        """Whether a system's run is finished."""
        run = self.choices.run(system)
        if run not in self._finished and attempts.finished(run):
            self._finished.add(run)
        return run in self._finished

    def checksum(self, system: str) -> str | None:
        """Of a system's network; None while it is not trained."""
        return self._of(system) if self.trained(system) else None

    def images(self, point: Point) -> int:
        """How many test images a point is measured on."""
        return self._images(point)["n"]

    def known(self, point: Point, attacks: Iterable[str]) -> dict[str, list[int]]:
        """The verdicts on a point's images that are known, clean and under each attack."""
        of: dict[str, dict[int, int]] = {CLEAN: {}}
        for _, findings in self._units(point):
            for places, found in findings:
                for name, numbers in found.items():
                    of.setdefault(name, {}).update(zip(places, numbers, strict=True))
        known = {CLEAN: list(of[CLEAN].values())}
        for column in parse_all(list(attacks)):
            verdicts = of.get(column.name, {})
            if column.in_stages:
                names = [stage.name for stage in stages(column, self.choices.classes(point.system))]
                verdicts = dict(_by_stages(of[CLEAN], column.of_autoattack, [of.get(name, {}) for name in names]))
            known[column.name] = list(verdicts.values())
        return known

    def complete(self, point: Point, attacks: Iterable[str]) -> bool:
        """Whether all outcomes of a point under ``attacks`` are known."""
        if not all(map(self.trained, point.systems)):
            return False
        images = self.images(point)
        return all(len(verdicts) >= images for verdicts in self.known(point, attacks).values())

    def measured(self, point: Point, attacks: Iterable[str]) -> dict[str, Measured]:
        """The figures of a point that is ``complete``: clean and under each attack."""
        known = self.known(point, attacks)
        return {name: Measured(verdicts.count(RIGHT), len(verdicts)) for name, verdicts in known.items()}

    def measured_on(self, points: Iterable[Point]) -> list[tuple[str, str]]:
        """(device, version of torch) where the outcomes of points come from, each once."""
        units = (unit for point in points for unit, _ in self._units(point))
        return list(dict.fromkeys((unit["device"], unit["torch"]) for unit in units))

    def read(self) -> None:
        """Take up what others have measured since."""
        self._recorded.read()

    def subject(self, point: Point) -> dict[str, Any]:
        """What identifies outcomes of a point, whose networks are trained, besides images and what ``evaluate`` adds.

        Those of another version of this package are measured anew.
        """
        return {
            "model": self.checksum(point.system),
            "surrogate": point.surrogate and self.checksum(point.surrogate),
            "noise": point.epsilon if point.noisy else None,
            "fastait": __version__,
        }

    def _units(self, point: Point) -> list[tuple[dict[str, Any], list[Finding]]]:
        if not all(map(self.trained, point.systems)):
            return []
        wanted = {
            **self.subject(point),
            **self._images(point),
            "epsilon": point.epsilon,
            "step_size": self.choices.step_size,
            "seed": self.choices.seed,
        }
        return [found for found in self._recorded.units() if wanted.items() <= found[0].items()]

    def _checksum(self, system: str) -> str:
        choices = self.choices
        name = choices.config(system).model
        return checksum(load_model(choices.run(system) / WEIGHTS[choices.weights(system)], model=name)[0], name)


def journal_folder(choices: Choices) -> Path:
    """Where outcomes are remembered."""
    return choices.folder / "outcomes"


def checksum(network: Any, name: str) -> str:
    """Of the weights of the network called ``name``, and of what makes it, where that is not of this package."""
    code = code_of(parse(name), network)
    return weights_checksum(network) + (f" by {code}" if code else "")


def _by_stages(clean: dict[int, int], from_clean: bool, each: list[dict[int, int]]) -> Iterator[tuple[int, int]]:
    """(place, verdict) of the images that the stages of a column have decided on, as ``attack_in_stages`` does."""
    for place, verdict in clean.items():
        found: int | None = verdict if from_clean else RIGHT
        for stage in each:
            if found != RIGHT:
                break
            found = stage.get(place)
        if found is not None:
            yield place, found
