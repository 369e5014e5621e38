"""Evaluations side by side: which models stand in one table, and what the table says."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from fastait.checkpoints.folder import CHECKPOINT, WEIGHTS
from fastait.evaluation.intervals import cell
from fastait.evaluation.outcomes import CLEAN
from fastait.evaluation.results import LEADING, UNION, Evaluation, rows, words
from fastait.report.eval_files import Measurement
from fastait.report.papers import SCALE, paper_figures, paper_system
from fastait.report.run_files import Run
from fastait.runtime.report import AUTOATTACK_CAVEAT, epsilon_text


@dataclass(frozen=True, eq=False)
class Entry:
    """A model of an evaluation, under all its epsilons.

    Attributes:
        name: in the page, no two alike.
        model: as its evaluation calls it.
        measurement: which evaluation.
        series: its place among the page's series.
        run: that it came of, None if that is not in the page.
        evaluations: by epsilon.
    """

    name: str
    model: str
    measurement: Measurement
    series: int
    run: Run | None
    evaluations: Mapping[float, Evaluation]

    @property
    def shown(self) -> float:
        """The epsilon whose images and classes are shown: that of the training, if it was measured, or the first."""
        trained = self.run.config.epsilon if self.run and self.run.config else None
        return next((e for e in self.evaluations if trained is not None and abs(e - trained) < 1e-6), self._first)

    @property
    def _first(self) -> float:
        return next(iter(self.evaluations))


@dataclass(frozen=True)
class Cell:
    """A figure: accuracy in percent with its interval, of how many images, and the paper's, each a text or empty."""

    text: str
    n: str = ""
    paper: str = ""


@dataclass(frozen=True)
class Table:
    """Attacks down, models across.

    Attributes:
        title: what it is of.
        models: names and places among the page's series.
        rows: an attack and its cells, AutoAttack's first.
        sentences: what the figures say together.
    """

    title: str
    models: Sequence[tuple[str, int]]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    sentences: Sequence[str]


def entries(measurements: Sequence[Measurement], runs: Sequence[Run]) -> list[Entry]:
    """The models of all evaluations. One that is of a run has the run's place among the page's series."""
    models = [(m, model) for m in measurements for model in dict.fromkeys(e.model for e in m.evaluations)]
    alike = Counter(model for _, model in models)
    found: list[Entry] = []
    used: set[int] = set()
    for measurement, model in models:
        run = _run_of(measurement.model_path(model), runs)
        series = len(runs) if run is None else list(runs).index(run)
        while series in used:  # another file of the same run, or somebody else's model
            series = max(len(runs), series + 1)
        used.add(series)
        name = f"{model} ({measurement.name})" if alike[model] > 1 else model
        by_epsilon = {e.epsilon: e for e in measurement.evaluations if e.model == model}
        found.append(Entry(name, model, measurement, series, run, by_epsilon))
    return found


def _run_of(path: Path | None, runs: Sequence[Run]) -> Run | None:
    """The run whose folder, or a file in it, ``path`` is. One that is relative to a folder that is not known any more
    may be that of the only run whose path ends so."""
    if path is None:
        return None
    folder = path.parent if path.name in (*WEIGHTS.values(), CHECKPOINT) else path
    exact = [run for run in runs if run.path.resolve() == folder.resolve()]
    ends = [run for run in runs if run.path.resolve().parts[-len(folder.parts) :] == folder.parts]
    if exact or folder.is_absolute() or len(ends) != 1:
        return exact[0] if exact else None
    return ends[0]


def tables(found: Sequence[Entry]) -> list[Table]:
    """A table for each data set and epsilon."""
    keyed = [(data_set(entry), epsilon, entry) for entry in found for epsilon in entry.evaluations]
    groups = groupby(sorted(keyed, key=lambda one: one[:2]), key=lambda one: one[:2])
    return [_table([entry for *_, entry in group], epsilon) for (_, epsilon), group in groups]


def data_set(entry: Entry) -> tuple[str, str]:
    """What tells whether two models were measured on the same data set: its name and its classes."""
    about = entry.measurement.about
    return str(about.get("dataset", "")), str(entry.measurement.classes)


def _table(found: Sequence[Entry], epsilon: float) -> Table:
    by_model = [{row["attack"]: row for row in rows([entry.evaluations[epsilon]])} for entry in found]
    attacks = sorted(dict.fromkeys(attack for of_model in by_model for attack in of_model), key=_first_the_strongest)
    papers = [_paper(entry, epsilon) for entry in found]
    both = list(zip(by_model, papers, strict=True))
    lines = [
        (attack, [_cell(of_model.get(attack), paper.get(attack)) for of_model, paper in both]) for attack in attacks
    ]
    about = found[0].measurement.about
    steps = {str(epsilon_text(e.measurement.about["step_size"])) for e in found if "step_size" in e.measurement.about}
    title = f"{about.get('dataset', 'images')}, Linf {epsilon_text(epsilon)}"
    title += f", steps of {' and '.join(sorted(steps))}" if steps else ""
    sentences: dict[str, None] = {}
    for measurement, group in groupby(found, key=lambda entry: entry.measurement):
        sentences |= dict.fromkeys(words([entry.evaluations[epsilon] for entry in group]))
        noise = measurement.about.get("input_noise")
        if noise is not None:
            sentences[f"{measurement.name}: random signs of {epsilon_text(noise)} were added to the input."] = None
    counts = {cell.n for _, cells in lines for cell in cells if cell.n}
    if len(counts) == 1:
        title += f", {counts.pop()} test images"
        lines = [(attack, [replace(cell, n="") for cell in cells]) for attack, cells in lines]
    sentences.pop(AUTOATTACK_CAVEAT, None)  # which stands once, below all tables
    return Table(title, [(entry.name, entry.series) for entry in found], lines, list(sentences))


_ORDER = (*LEADING, UNION, CLEAN)


def _first_the_strongest(attack: str) -> int:
    return _ORDER.index(attack) if attack in _ORDER else len(_ORDER)


def _cell(row: Mapping[str, Any] | None, paper: tuple[float, str] | None) -> Cell:
    text = "" if row is None else cell(row["correct"], row["n"])
    return Cell(text, "" if row is None else f"{row['n']:,}", f"{paper[0]:.1f} in {paper[1]}" if paper else "")


def _paper(entry: Entry, epsilon: float) -> dict[str, tuple[float, str]]:
    """The paper's figures of this model by attack, where it is trained and attacked as in the paper."""
    about, path = entry.measurement.about, entry.measurement.model_path(entry.model)
    if entry.run is None or entry.run.config is None or path is None or about.get("input_noise") is not None:
        return {}
    which = {file: which for which, file in WEIGHTS.items()}.get(path.name, "last")
    system = paper_system(entry.run.config, which)
    if system is None or abs(about.get("step_size", 0.0) - SCALE.step_size) > 1e-6:
        return {}
    if about.get("dataset") != entry.run.config.dataset:
        return {}
    return {attack: figure for (attack, at), figure in paper_figures(system).items() if at == round(epsilon, 6)}


def data_sets(found: Iterable[Entry]) -> list[tuple[str, str]]:
    """The different data sets that models were measured on."""
    return list(dict.fromkeys(map(data_set, found)))
