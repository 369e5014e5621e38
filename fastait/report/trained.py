"""What was trained and how: a card for each run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from fastait.config import TrainConfig
from fastait.evaluation.intervals import cell
from fastait.methods import METHODS
from fastait.models import make
from fastait.report.repeat import command
from fastait.report.run_files import Run, is_number
from fastait.reproduction.grids import TITLES
from fastait.runtime.errors import FastaitError, first_line
from fastait.runtime.report import COLUMNS, duration, epsilon_text, result_rows
from fastait.training.cost import Cost, said, step_cost
from fastait.training.prepare import method_settings


@dataclass(frozen=True)
class Card:
    """What is said of a run.

    Attributes:
        name: of the run.
        series: its place among the page's series.
        facts: what and its value.
        command: that it is repeated by, None if there is none.
    """

    name: str
    series: int
    facts: Sequence[tuple[str, str]]
    command: str | None


def card(run: Run, series: int) -> Card:
    """The card of a run."""
    config = run.config
    if config is None:
        return Card(run.name, series, [("folder", str(run.path))], None)
    facts = [
        ("folder", str(run.path)),
        ("method", _method(config)),
        ("images", _images(run, config)),
        ("network", config.model + (", the library's weights to begin with" if config.pretrained else "")),
        ("budget", f"Linf {epsilon_text(config.epsilon)}"),
        ("training", _training(config)),
        ("best epoch", _best(run)),
        ("collapse", f"in epoch {run.collapsed}" if run.collapsed is not None else ""),
        ("time", _time(run)),
        ("cost", _cost(run, config)),
        ("arithmetic", str((run.result or {}).get("precision", ""))),
        ("hardware", _hardware(run.result or {})),
        ("versions", _versions(run.result or {})),
    ]
    return Card(run.name, series, [(what, value) for what, value in facts if value], command(config))


def _method(config: TrainConfig) -> str:
    title = TITLES.get(config.method)
    return config.method + (f" ({title})" if title and title.lower() != config.method else "")


def _images(run: Run, config: TrainConfig) -> str:
    parts = [f"{config.dataset} at {config.image_size}x{config.image_size}"]
    if run.classes is not None:
        parts.append(f"{len(run.classes)} classes")
    counts = run.epochs[-1] if run.epochs else {}
    for key, what in (("images", "to train on"), ("val_images", "held out")):
        if is_number(counts.get(key)):
            parts.append(f"{counts[key]:,} {what}")
    return ", ".join(parts)


def _training(config: TrainConfig) -> str:
    steps = f" at {', '.join(map(str, config.steps_down()))}" if config.schedule == "step" else ""
    return (
        f"{config.epochs} epochs, batches of {config.batch_size}, {config.optimizer}, learning rate {config.lr:g}, "
        f"schedule {config.schedule}{steps}, seed {config.seed}"
    )


def _best(run: Run) -> str:
    if run.best is None:
        return ""
    return f"{run.best}" + ("" if run.result else " so far") + ", by PGD-10 on the images held out"


def _time(run: Run) -> str:
    result = run.result or {}
    training, wall = result.get("training_seconds"), result.get("wall_seconds")
    if is_number(training):
        beside = f", {duration(wall)} with its evaluation" if is_number(wall) else ""
        return f"{duration(training)} of training{beside}"
    spent = sum(seconds for _, seconds in run.curve("seconds"))
    return f"{duration(spent)} of training so far" if spent else ""


def _cost(run: Run, config: TrainConfig) -> str:
    if run.classes is None:
        return ""
    try:
        cost = _counted(_what_costs(config), len(run.classes))
    except FastaitError as error:
        return f"not counted: {first_line(error)}"
    seen = sum(_seen(epoch) for epoch in run.epochs)
    total = f"; {_petaflop(cost.step * seen)} PFLOP for {seen:,} images" if seen and cost.step else ""
    return said(cost).removeprefix("cost: ") + total


def _seen(epoch: Mapping[str, Any]) -> int:
    """How many images an epoch had; of an older version's metrics by its speed."""
    if is_number(epoch.get("images")):
        return int(epoch["images"])
    speed, seconds = epoch.get("images_per_second"), epoch.get("seconds")
    return round(speed * seconds) if is_number(speed) and is_number(seconds) else 0


def _what_costs(config: TrainConfig) -> TrainConfig:
    """The settings that a step's cost hangs on, so that runs that cost the same are counted once."""
    return replace(TrainConfig(), **{name: getattr(config, name) for name in _COSTS})


_COSTS = (
    *("method", "model", "image_size", "batch_size", "epsilon", "attack_steps", "step_size", "awp", "penalty"),
    *("distance", "partners", "partner_features"),
)


@cache
def _counted(config: TrainConfig, classes: int) -> Cost:
    # A function of somebody's own is not called: that a folder names it is no permission.
    network = make(config.model, classes, image_size=config.image_size, generator_seed=None)
    settings = method_settings(config, classes)
    return step_cost(
        network, METHODS[config.method], settings, image_size=config.image_size, batch_size=config.batch_size
    )


def _petaflop(operations: float) -> str:
    return f"{float(f'{operations / 1e15:.3g}'):,g}"


def _hardware(result: Mapping[str, Any]) -> str:
    if not result.get("device"):
        return ""
    parts = [str(result["device"]), *filter(None, [str(result.get("instructions") or "")])]
    for key, one, several in (("threads", "1 thread", "{} threads"), ("processes", "", "{} processes")):
        count = result.get(key)
        if is_number(count):
            parts += filter(None, [one if count == 1 else several.format(count)])
    return ", ".join(parts)


def _versions(result: Mapping[str, Any]) -> str:
    known = {"fastait": "fastait", "torch": "torch", "cuda": "CUDA", "python": "Python"}
    return ", ".join(f"{name} {result[key]}" for key, name in known.items() if result.get(key))


@dataclass(frozen=True)
class Finals:
    """The figures that runs end with.

    Attributes:
        attacks: the columns' names.
        rows: run, whose weights, number of images, and a cell for each column.
    """

    attacks: Sequence[str]
    rows: Sequence[tuple[str, str, str, Sequence[str]]]


def finals(runs: Sequence[Run]) -> Finals:
    """What ``result.json`` of each has, with intervals."""
    rows = []
    for run in runs:
        result = run.result or {}
        n = result.get("test_images")
        if not is_number(n) or n < 1:
            continue
        for whose, figures in result_rows(result).items():
            rows.append((run.name, whose, str(n), [_cell(figures.get(key), int(n)) for key in COLUMNS]))
    return Finals(list(COLUMNS.values()), rows)


def _cell(accuracy: Any, n: int) -> str:
    return cell(round(accuracy * n / 100), n) if is_number(accuracy) and 0 <= accuracy <= 100 else ""
