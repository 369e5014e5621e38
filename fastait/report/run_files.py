"""What a run folder holds, as far as it can be read; what cannot is left out, with a word."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from fastait.checkpoints.folder import RunFolder
from fastait.config import CLASSES, TrainConfig
from fastait.report.gaps import Gap, quoted
from fastait.runtime.errors import FastaitError, InputError, first_line
from fastait.runtime.files import json_of
from fastait.training.watch import WATCHED

LARGEST = 1e11
"""What is larger is no figure of a run."""

CHOSEN_BY = (f"val_{WATCHED}", f"val_ema_{WATCHED}")
"""What the best epoch is chosen by."""


@dataclass(frozen=True, eq=False)
class Run:
    """A run, as its folder tells it.

    Attributes:
        name: in the page, no two alike.
        path: the folder.
        config: its settings, None if they cannot be read.
        classes: the names of its classes, None if an older version did not write them.
        epochs: of ``metrics.jsonl``, an object each, in order.
        result: of ``result.json``, None if the run is not finished or it cannot be read.
        gaps: what is missing.
    """

    name: str
    path: Path
    config: TrainConfig | None
    classes: tuple[str, ...] | None = None
    epochs: Sequence[Mapping[str, Any]] = ()
    result: Mapping[str, Any] | None = None
    gaps: Sequence[Gap] = field(default_factory=tuple)

    def curve(self, key: str) -> list[tuple[int, float]]:
        """Epoch and value of what is written under ``key``, where it is a finite number."""
        return [(epoch["epoch"], float(epoch[key])) for epoch in self.epochs if is_number(epoch.get(key))]

    @property
    def best(self) -> int | None:
        """The epoch whose weights are the best, so far; None where no images are held out."""
        best = (self.result or {}).get("best")
        if isinstance(best, dict) and isinstance(best.get("epoch"), int):
            return best["epoch"]
        found = [(accuracy, -epoch) for key in CHOSEN_BY for epoch, accuracy in self.curve(key)]
        return -max(found)[1] if found else None

    @property
    def collapsed(self) -> int | None:
        """The first epoch that was a collapse."""
        return next((epoch["epoch"] for epoch in self.epochs if epoch.get("collapsed") is True), None)


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether ``value`` is a number that can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def read_run(path: Path, name: str) -> Run:
    """The run in ``path``.

    Raises:
        InputError: there is none.
    """
    folder = RunFolder(path)
    if not RunFolder.begun(path):
        raise InputError(f"{path} is no run folder (no {folder.config_file.name}); give one that fastait train wrote")
    gaps: list[Gap] = []
    config = classes = None
    try:
        config, classes = folder.config(), folder.classes()
    except (FastaitError, TypeError, AttributeError) as error:
        gaps.append(Gap(name, f"{folder.config_file.name} cannot be read ({first_line(error)})", "Bring it back."))
    if config is not None and classes is None:
        gaps.append(Gap(name, f"{folder.config_file.name} has no {CLASSES}, as those of older versions"))
    result = _result(folder, name, gaps)
    epochs = _epochs(folder, name, gaps)
    if result is None and not folder.result_file.exists():
        far = f"{epochs[-1]['epoch']} of {config.epochs} epochs" if epochs and config else "no epoch is finished"
        gaps.append(
            Gap(
                name,
                f"the training is not finished ({far}): no final figures, times and versions",
                "It is still going, or it was stopped and goes on by",
                quoted("fastait", "train", "--resume", path),
            )
        )
    return Run(name, path, config, classes, epochs, result, gaps)


def _result(folder: RunFolder, name: str, gaps: list[Gap]) -> Mapping[str, Any] | None:
    try:
        return folder.result()
    except InputError as error:
        why = first_line(error)
    gaps.append(
        Gap(
            name,
            f"{folder.result_file.name} is damaged ({why})",
            "Move it away and have the run measured again by",
            quoted("fastait", "train", "--resume", folder.path),
        )
    )
    return None


def _epochs(folder: RunFolder, name: str, gaps: list[Gap]) -> list[Mapping[str, Any]]:
    file = folder.metrics_file
    try:
        text = file.read_text("utf-8", "replace")
    except OSError as error:
        gaps.append(Gap(name, f"{file.name} cannot be read ({error.strerror}): no curves"))
        return []
    found, bad = list(_objects(text)), []
    epochs: dict[int, Mapping[str, Any]] = {}
    for number, epoch in found:
        if epoch is None:
            bad.append(str(number))
        else:
            epochs[epoch["epoch"]] = epoch
    if bad:
        lines = f"line {bad[0]} of" if len(bad) == 1 else f"{len(bad)} lines, the first of them line {bad[0]}, of"
        gaps.append(Gap(name, f"{lines} {file.name} cannot be read: left out of the curves"))
    return [epochs[number] for number in sorted(epochs)]


def _objects(text: str) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
    """Number and content of each line; None of one that is no epoch."""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            epoch = json_of(line)
        except ValueError:
            epoch = None
        good = isinstance(epoch, dict) and type(epoch.get("epoch")) is int and 0 < epoch["epoch"] < LARGEST
        yield number, epoch if good else None
