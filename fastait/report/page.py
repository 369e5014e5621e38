"""The page: what its sections are made of, and its text."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from fastait.report import compared, confusions, curves, missing, pictures, signs, sweeps, trained
from fastait.report.charts import COLOURS, Samples
from fastait.report.compared import Entry
from fastait.report.eval_files import read_evaluation
from fastait.report.gaps import Gap, grouped
from fastait.report.on_request import Drawing, drawings
from fastait.report.run_files import Run, read_run
from fastait.reproduction.drawing import available
from fastait.runtime.errors import InputError, one_line
from fastait.runtime.report import AUTOATTACK_CAVEAT
from fastait.runtime.version import __version__

NAMED = 4
"""Runs that the page's title names at most."""

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Group:
    """Charts of runs, or of models, that can be compared.

    Attributes:
        title: the data set's name, where there are several.
        legend: name and place among the page's series.
        panels: the charts.
    """

    title: str
    legend: Sequence[tuple[str, int]]
    panels: Sequence[curves.Panel]


def make(
    runs: Sequence[Path], evaluations: Sequence[Path], *, figures: bool, note: Callable[[str], None] = lambda text: None
) -> str:
    """The page's text, the same for the same files.

    Args:
        runs: run folders.
        evaluations: folders that ``fastait eval`` wrote.
        figures: whether the paper's figures are drawn for the runs.
        note: called with a line for the user.

    Raises:
        InputError: a folder is none, or is given twice, or matplotlib is missing.
    """
    available()
    read = [read_run(path, name) for path, name in zip(runs, names(runs), strict=True)]
    measured = [read_evaluation(path, name) for path, name in zip(evaluations, names(evaluations), strict=True)]
    entries = compared.entries(measured, read)
    groups = _runs_by_data(read)
    drawn: list[Drawing] = []
    undrawn: list[Gap] = []
    if figures:
        for group in groups:
            found, without = drawings([run for _, run in group if run.result and run.classes], note)
            drawn += found
            undrawn += without
    against_epsilon = _groups(entries, sweeps.against_epsilon)
    gaps = [*missing.gaps(read, measured, entries, bool(against_epsilon)), *undrawn]
    return render(
        {
            "title": _title([one.name for one in read or measured]),
            "version": __version__,
            "cards": [trained.card(run, series) for series, run in enumerate(read)],
            "curves": [
                Group(_data_of(group[0][1]) if len(groups) > 1 else "", _legend(group), curves.panels(group, place))
                for place, group in enumerate(groups)
            ],
            "ringed": any(run.best is not None for run in read),
            "crossed": any(run.collapsed is not None for run in read),
            "finals": trained.finals(read),
            "caveat": AUTOATTACK_CAVEAT,
            "tables": compared.tables(entries),
            "masking": signs.reports(entries),
            "no_proof": signs.NO_PROOF,
            "against_epsilon": against_epsilon,
            "against_steps": _groups(entries, sweeps.against_steps),
            "along_steps": _groups(entries, sweeps.along_steps),
            "confusions": confusions.confusions(entries),
            "galleries": pictures.galleries(entries),
            "drawings": drawn,
            "gaps": grouped(gaps),
            "sample": Samples(),
            "colours": COLOURS,
        }
    )


def render(content: dict[str, Any]) -> str:
    """The page of this content; every text in it is escaped."""
    return _template().render(content)


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.finalize = lambda value: value if hasattr(value, "__html__") else one_line(value)
    return environment.get_template("page.html")


def names(paths: Sequence[Path]) -> list[str]:
    """What folders are called: the last part of the path, as many parts as tell them apart.

    Raises:
        InputError: one is given twice.
    """
    absolute = [path.absolute() for path in paths]
    twice = [str(path) for path, count in Counter(absolute).items() if count > 1]
    if twice:
        raise InputError(f"a folder is given twice: {', '.join(twice)}")
    for parts in range(1, max((len(path.parts) for path in absolute), default=0) + 1):
        found = ["/".join(path.parts[-parts:]) for path in absolute]
        if len(set(found)) == len(found):
            return found
    return []


def _title(called: Sequence[str]) -> str:
    more = len(called) - NAMED
    return ", ".join(called[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _runs_by_data(runs: Sequence[Run]) -> list[list[tuple[int, Run]]]:
    found: dict[Any, list[tuple[int, Run]]] = {}
    for series, run in enumerate(runs):
        found.setdefault((_data_of(run), run.classes), []).append((series, run))
    return list(found.values())


def _data_of(run: Run) -> str:
    return run.config.dataset if run.config is not None else "unknown data"


def _legend(group: Iterable[tuple[int, Run]]) -> list[tuple[str, int]]:
    return [(run.name, series) for series, run in group]


def _groups(entries: Sequence[Entry], draw: Callable[[Sequence[Entry], int], list[curves.Panel]]) -> list[Group]:
    """Charts of the models that were measured on the same data set together; of those that there are."""
    sets = compared.data_sets(entries)
    found = []
    for place, data in enumerate(sets):
        alike = [entry for entry in entries if compared.data_set(entry) == data]
        panels = draw(alike, place)
        if panels:
            legend = [(entry.name, entry.series) for entry in alike]
            found.append(Group(data[0] if len(sets) > 1 else "", legend, panels))
    return found
