"""What a comparison measured, written as ``fastait eval`` writes it, so that whatever reads such folders reads this."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastait.checkpoints.folder import WEIGHTS
from fastait.config import TrainConfig
from fastait.data import Dataset
from fastait.evaluation.details import OUTCOMES_FILE, Source, write_outcomes
from fastait.evaluation.journal import FileJournal
from fastait.evaluation.kept import InMemory
from fastait.evaluation.outcomes import CLEAN, Outcomes
from fastait.evaluation.results import FILE, Evaluation, as_json
from fastait.reproduction.grids import Cell
from fastait.reproduction.images import images_of
from fastait.reproduction.measure import Bench
from fastait.reproduction.points import Point, points
from fastait.reproduction.worker import Crew
from fastait.runtime.files import make_folder, write_text
from fastait.runtime.version import __version__

BY = "by"
"""What ``eval.json`` of a comparison has, and that of an evaluation has not."""


@dataclass(frozen=True)
class _Measured:
    """A network under one epsilon, what each attack was given, and where its weights lie."""

    found: Evaluation
    sources: dict[str, Source]
    dataset: Dataset
    path: Path


def write_evaluations(crew: Crew, cells: Sequence[Cell], folder: Path) -> list[Path]:
    """A folder for each data set that networks were measured on, with ``eval.json`` and ``outcomes.safetensors`` of
    those that are measured completely, by each seed.

    Args:
        crew: whose outcomes.
        cells: of the table.
        folder: what it is called, and with a number behind where there are several.

    Returns:
        The folders.

    Raises:
        NotWritten: a file cannot be written.
    """
    of_network: dict[tuple[str, float], list[tuple[Point, list[str]]]] = {}
    for point, attacks in points(cells).items():
        of_network.setdefault((point.system, point.epsilon), []).append((point, attacks))
    of_data: dict[TrainConfig, list[_Measured]] = {}
    with closing(crew.benches[crew.choices.seed].journal()) as journal:
        for bench in crew.benches.values():
            for (system, _), parts in of_network.items():
                if all(bench.standing.complete(point, attacks) for point, attacks in parts):
                    data = images_of(bench.choices.config(system))
                    of_data.setdefault(data, []).append(_measured(bench, parts, journal))
    written = []
    for number, (data, measured) in enumerate(of_data.items(), 1):
        path = folder if len(of_data) == 1 else folder.with_name(f"{folder.name}-{number}")
        make_folder(path)
        evaluations, sources = [one.found for one in measured], [one.sources for one in measured]
        about = _about(crew, [cell for cell in cells if images_of(crew.choices.config(cell.system)) == data], measured)
        classes = {"classes": about["classes"]}
        write_outcomes(path / OUTCOMES_FILE, evaluations, sources, classes, shared=True)
        write_text(path / FILE, as_json(evaluations, about), shared=True)
        written.append(path)
    return written


def _measured(bench: Bench, parts: list[tuple[Point, list[str]]], journal: FileJournal) -> _Measured:
    choices, (first, _) = bench.choices, parts[0]
    dataset = bench.datasets.of(choices.config(first.system))
    outcomes, sources = Outcomes(), dict[str, Source]()
    for point, attacks in sorted(parts, key=lambda part: part[0].black_box):  # which are given fewer clean images
        images = bench.images(point)
        source = Source(images, dataset.test.stratified_places(len(images)), InMemory())
        outcomes = outcomes.joined(bench.outcomes(point, attacks, journal))
        sources = {**dict.fromkeys([CLEAN, *attacks], source), **sources}
    outcomes = replace(outcomes, correct={name: outcomes.correct[name] for name in sources})
    found = Evaluation(choices.run_name(first.system), first.epsilon, outcomes)
    return _Measured(found, sources, dataset, choices.run(first.system) / WEIGHTS[choices.weights(first.system)])


def _about(crew: Crew, cells: Sequence[Cell], measured: Sequence[_Measured]) -> dict[str, Any]:
    dataset, places = measured[0].dataset, crew.measured_on(cells)
    return {
        BY: "fastait sweep",
        "dataset": dataset.name,
        "classes": list(dataset.classes),
        "data_checksum": dataset.checksum,
        "images": max(one.found.images(CLEAN) for one in measured),
        "models": {one.found.model: str(one.path) for one in measured},
        "step_size": crew.choices.step_size,
        "seed": list(crew.choices.seeds),
        "device": ", ".join(dict.fromkeys(device for device, _ in places)),
        "torch": ", ".join(dict.fromkeys(torch for _, torch in places)),
        "fastait": __version__,
    }
