"""Takes one unfinished run or evaluation after the other, each under a claim, until nothing is left to be done."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastait.checkpoints.folder import RunFolder
from fastait.evaluation.journal import Recorded
from fastait.reproduction.company import refuse_not_shared
from fastait.reproduction.grids import Cell
from fastait.reproduction.images import Datasets
from fastait.reproduction.measure import Bench
from fastait.reproduction.measured import Figure, Measured, together
from fastait.reproduction.points import Point, point_name, point_of, points
from fastait.reproduction.standing import Standing, journal_folder
from fastait.reproduction.systems import Choices
from fastait.runtime.claims import DONE, FAILED, RELEASED, Claim, Claims, Worker, last_numbers
from fastait.runtime.errors import FastaitError, InputError, Interrupted, NotWritten, OutOfMemory, RunError
from fastait.runtime.files import json_of, make_folder, write_text
from fastait.runtime.report import Report
from fastait.runtime.signals import LOST, StopRequest
from fastait.runtime.version import __version__

SETTINGS = "settings.json"
"""What all workers have in common, beside their claims."""

SOON, LATER = 1.0, 10.0
"""Seconds between two looks at what others are doing: after something has changed, and when nothing has for long."""


@dataclass(frozen=True)
class Item:
    """A run or an evaluation.

    Attributes:
        name: of its claims.
        seed: whose it is.
        system: that is trained or measured.
        point: None for a run.
        attacks: of an evaluation.
    """

    name: str
    seed: int
    system: str
    point: Point | None = None
    attacks: Sequence[str] = field(default=(), compare=False)

    def done(self, standing: Standing) -> bool:
        """Whether nothing is left to do."""
        if self.point is None:
            return standing.trained(self.system)
        return standing.complete(self.point, self.attacks)

    def runs(self, choices: Choices) -> list[str]:
        """The names of the runs that it needs."""
        return [] if self.point is None else [choices.run_name(system) for system in self.point.systems]

    def ready(self, standing: Standing) -> bool:
        """Whether what it needs is there."""
        return self.point is None or all(map(standing.trained, self.point.systems))


def items(choices: Choices, systems: Iterable[str], cells: Iterable[Cell]) -> list[Item]:
    """All that ``systems`` and ``cells`` need, with each seed: runs first, then evaluations, each once."""
    found: dict[str, Item] = {}
    cells = [cell for cell in cells if not choices.lacks_images(cell.system)]
    each = choices.each_seed()
    for one in each:
        for system in systems:
            found.setdefault(one.run_name(system), Item(one.run_name(system), one.seed, system))
    for one in each:
        for point, attacks in points(cells).items():
            name = point_name(one, point)
            found[name] = Item(name, one.seed, point.system, point, attacks)
    return list(found.values())


class Crew:
    """One of the workers at a comparison.

    Args:
        choices: of the user.
        report: where notes and progress go.

    Attributes:
        benches: a bench for each seed.
        claims: in the folder that all share.
        failed: {item: why} of what failed here or elsewhere and is not tried again by this worker.

    Raises:
        InputError: there is no such device.
    """

    def __init__(self, choices: Choices, report: Report):
        self.choices, self.report = choices, report
        self.worker = Worker.here()
        self.recorded = Recorded(journal_folder(choices))
        self.benches: dict[int, Bench] = {}
        datasets = Datasets(report.note)
        for one in choices.each_seed():
            self.benches[one.seed] = Bench(one, report, self.worker, Standing(one, self.recorded), datasets)
        self.failed: dict[str, str] = {}
        self._done: set[str] = set()
        self.claims = Claims(claims_folder(choices), self.worker)

    def work(self, wanted: Iterable[Item]) -> None:
        """Do all of ``wanted`` that others do not; come back when everything is done, or has failed.

        Raises:
            InputError, NotWritten, OutOfMemory: this worker cannot go on, others may; what it was at can be claimed.
            Interrupted: a signal that asks for an end; what is done is saved.
        """
        wanted, wait, waiting = list(wanted), SOON, False
        with StopRequest() as stop:
            while True:
                self.recorded.read()
                left = [item for item in wanted if not self._is_done(item)]
                if not left:
                    return
                item, possible = self._take(left, stop)
                if item is not None:
                    wait, waiting = SOON, False
                elif not possible:
                    return
                else:
                    if not waiting:
                        self.report.note(f"waiting for other workers, who are at what is left: {_listed(left)}")
                    waiting = True
                    _sleep(wait, stop)
                    wait = min(LATER, 1.2 * wait)
                if stop.number is not None:
                    raise self.benches[self.choices.seed].interrupted(stop.number)

    @property
    def standing(self) -> Standing:
        """Of the first seed."""
        return self.benches[self.choices.seed].standing

    def found(self, cells: Iterable[Cell]) -> dict[Cell, Figure]:
        """The figures of ``cells`` that are there, of all seeds together; nothing is computed."""
        cells = [cell for cell in cells if not self.choices.lacks_images(cell.system)]
        self.recorded.read()
        each: dict[Cell, list[Measured]] = {}
        for bench in self.benches.values():
            for point, attacks in points(cells).items():
                if bench.standing.complete(point, attacks):
                    figures = bench.standing.measured(point, attacks)
                    for cell in dict.fromkeys(cell for cell in cells if point_of(cell) == point):
                        each.setdefault(cell, []).append(figures[cell.attack])
        return {cell: figure for cell, found in each.items() if (figure := together(found)) is not None}

    def results(self, system: str) -> list[dict[str, Any]]:
        """What the finished runs of a system say of themselves."""
        found = (RunFolder(bench.choices.run(system)).result() for bench in self.benches.values())
        return [result for result in found if result is not None]

    def measured_on(self, cells: Iterable[Cell]) -> list[tuple[str, str]]:
        """(device, version of torch) where the figures of ``cells`` come from, each once."""
        where = [place for bench in self.benches.values() for place in bench.standing.measured_on(points(cells))]
        return list(dict.fromkeys(where))

    def refuse_failed(self) -> None:
        """Raise a RunError if something has failed."""
        if self.failed:
            what = "; ".join(f"{item} ({why})" for item, why in self.failed.items())
            raise RunError(f"some of it failed, and the same command tries it again: {what}")

    def _take(self, left: Sequence[Item], stop: StopRequest) -> tuple[Item | None, bool]:
        """The item of ``left`` that was claimed and done, or tried; and whether another look may find one."""
        last, possible = last_numbers(self.claims.folder), False
        for item in left:
            why = self.failed.get(item.name) or self.claims.failed(item.name, last.get(item.name, 0))
            if why is not None:
                self.failed[item.name] = why
                continue
            if not item.ready(self.benches[item.seed].standing):
                possible |= not any(run in self.failed for run in item.runs(self.benches[item.seed].choices))
                continue
            possible = True
            claim = self.claims.take(item.name, last.get(item.name, 0))
            if claim is None:
                continue
            with claim:
                self.recorded.read()
                if self._is_done(item):  # while this worker looked at others
                    claim.end(DONE)
                else:
                    self._do(item, claim)
            if stop.number == LOST:  # which was about this claim alone
                stop.number = None
            return item, True
        return None, possible

    def _do(self, item: Item, claim: Claim) -> None:
        bench = self.benches[item.seed]
        try:
            settle(self.choices)  # again: others may have begun in the same moment
            if item.point is None:
                bench.train(item.system, claim)
            else:
                bench.measure(item.point, list(item.attacks), claim)
            claim.end(DONE)
        except FastaitError as error:
            self.report.finish()
            if self._is_done(item):  # by a late worker, that came first
                claim.end(DONE)
            elif claim.is_lost():
                self.report.note(f"{item.name}: given up, another worker has taken it over")
            elif isinstance(error, RunError) and not isinstance(error, (NotWritten, OutOfMemory)):
                self.report.note(f"{item.name} failed: {error}")
                claim.end(FAILED, str(error))
                self.failed[item.name] = str(error)
            else:  # nothing that is said of the item: another worker, or this one later, may well be able to do it
                claim.end(RELEASED, "stopped by a signal" if isinstance(error, Interrupted) else str(error))
                raise

    def _is_done(self, item: Item) -> bool:
        if item.name not in self._done and item.done(self.benches[item.seed].standing):
            self._done.add(item.name)
        return item.name in self._done


def claims_folder(choices: Choices) -> Path:
    """Where claims lie."""
    return choices.folder / "claims"


def settle(choices: Choices) -> None:
    """Write down what all workers must have in common, or refuse to be one that has not.

    Raises:
        InputError: a job's machine does not share the folder; workers of another version, or with other settings, have
            begun here.
        NotWritten: it cannot be written.
    """
    refuse_not_shared(claims_folder(choices))
    asked = {"fastait": __version__, **choices.decides()}
    path = claims_folder(choices) / SETTINGS
    make_folder(path.parent)
    saved = _settings(path)
    for name in asked.keys() & saved.keys():
        if saved[name] != asked[name]:
            said = [f"{key} {value}" for key, value in _differences(saved[name], asked[name], name)]
            raise InputError(
                f"{choices.folder} was begun with {said[0]}, and this is {said[1]}: all workers must be alike; choose "
                f"another --out, or, once no worker is left there, remove {path}"
            )
    if asked.keys() - saved.keys():
        write_text(path, json.dumps({**saved, **asked}, indent=2) + "\n", shared=True)


def _differences(saved: Any, asked: Any, name: str) -> list[tuple[str, Any]]:
    """(what, its value) then and now, of the first thing that differs."""
    if isinstance(saved, dict) and isinstance(asked, dict):
        key = next(key for key in sorted(saved.keys() | asked.keys()) if saved.get(key) != asked.get(key))
        return [(f"{name}: {key}", saved.get(key)), (key, asked.get(key))]
    return [(name, saved), (name, asked)]


def _settings(path: Path) -> dict[str, Any]:
    try:
        return dict(json_of(path.read_bytes()))
    except (OSError, TypeError, ValueError):
        return {}


def _sleep(seconds: float, stop: StopRequest) -> None:
    until = time.monotonic() + seconds
    while stop.number is None and time.monotonic() < until:
        time.sleep(min(0.2, seconds))


def _listed(left: Sequence[Item]) -> str:
    names = [item.name for item in left[:5]]
    return ", ".join(names) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
