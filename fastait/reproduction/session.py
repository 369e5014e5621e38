"""Tables and figures from their names to their files: what ``fastait reproduce`` does."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fastait.evaluation.results import STRONG
from fastait.reproduction.categories import categories
from fastait.reproduction.grids import Table
from fastait.reproduction.layout import Sheet, entries, grid, records, series
from fastait.reproduction.measure import Bench, check_networks, check_system
from fastait.reproduction.orderings import compare
from fastait.reproduction.sentences import heading, missing, notes
from fastait.reproduction.systems import Choices
from fastait.reproduction.tables import TABLES
from fastait.reproduction.worker import Crew, Item, items, settle
from fastait.runtime.console import say
from fastait.runtime.errors import InputError, check_choice, one_line
from fastait.runtime.files import make_folder, write_text
from fastait.runtime.precision import current, resolve_device
from fastait.runtime.processes import launched
from fastait.runtime.report import AUTOATTACK_CAVEAT, Report
from fastait.runtime.signals import StopRequest


def reproduce(
    names: Iterable[str], choices: Choices, *, show: bool = True, helpers: Callable[[], None] = lambda: None
) -> None:
    """Make the tables and figures ``names``, write them into ``choices.folder`` and show them.

    Other processes may be making the same: each run and evaluation is done by one of them, and all wait for it.

    Args:
        names: of tables and figures.
        choices: of the user.
        show: print notes, progress and what was made.
        helpers: called once nothing is found to be wrong; may have others do what there is to do.

    Raises:
        InputError: what is in ``choices.out`` was made with other settings, or a setting or file is not what it must
            be; the former is found before anything is begun.
        RunError: as ``fastait.run_training``; or runs or evaluations failed, which the tables lack.
        Interrupted: a signal that asks for an end (``runtime.signals``); the same command goes on.
    """
    names = [names] if isinstance(names, str) else list(names)
    crew = crew_for(names, choices, Report(show))
    helpers()
    for name in names:
        crew.work(items_of([name], choices))
        if name in TABLES:
            sheet = categories() if name == "table7" else table_sheet(TABLES[name], name, crew)
            written = write_sheet(name, sheet, choices.folder)
            if show:
                sheet.show()
        elif not all(crew.standing.trained(system) for system in _figure(name).systems):
            continue
        else:
            written = _draw(name, crew.benches[choices.seed])
        if show:
            say(f"Written to {', '.join(map(one_line, written))}\n")
    crew.refuse_failed()


def work(names: Iterable[str], choices: Choices, *, show: bool = True) -> None:
    """Be one of any number of workers that make what ``names`` need, until all of it is there; nothing is printed.

    Raises:
        As ``reproduce``.
    """
    names = list(names)
    crew = crew_for(names, choices, Report(show))
    crew.work(items_of(names, choices))
    crew.refuse_failed()


def crew_for(names: Iterable[str], choices: Choices, report: Report) -> Crew:
    """This process as one that makes ``names``, once nothing is found to be wrong with them."""
    resolve_device(choices.device)
    begin(names, choices)
    return Crew(choices, report)


def begin(names: Iterable[str], choices: Choices) -> None:
    """Refuse, before any long work, what cannot be made as asked, and write down what all workers have in common.

    Raises:
        InputError, NotWritten: as ``check`` and ``settle``.
    """
    names = list(names)
    if launched():
        raise InputError("a table is made by single processes; torchrun is for fastait train")
    check(names, choices)
    if items_of(names, choices):
        settle(choices)


def items_of(names: Iterable[str], choices: Choices) -> list[Item]:
    """All runs and evaluations that ``names`` need."""
    names = list(names)
    cells = [cell for name in names if name in TABLES for cell in TABLES[name].cells(choices.scale)]
    return items(choices, systems_of(names, choices), cells)


def check(names: Iterable[str], choices: Choices) -> None:
    """Refuse, before any long work, what cannot be made as asked.

    Raises:
        InputError: a setting is out of its range, a run was begun with other settings, images without labels are not
            where they should be or are bad, the network cannot do what a method or an attack asks of it, or a package
            that a figure needs is missing.
    """
    names = list(names)
    if any(name not in TABLES for name in names):
        from fastait.reproduction.drawing import available
        from fastait.reproduction.figures import FIGURES

        for name in names:
            check_choice("TABLE", name, (*TABLES, *FIGURES))
        if any(name in FIGURES for name in names):
            available()
        if len(choices.seeds) > 1 and (drawn := [name for name in names if name not in TABLES]):
            raise InputError(f"{drawn[0]} is drawn of one training: give --seeds one number")
    systems = systems_of(names, choices)
    for one in choices.each_seed():
        for system in systems:
            check_system(system, one)
    if choices.model is not None:
        cells = [cell for name in names if name in TABLES for cell in TABLES[name].cells(choices.scale)]
        check_networks(systems, choices, {cell.system for cell in cells if cell.attack.startswith("feature")})


def systems_of(names: Iterable[str], choices: Choices) -> list[str]:
    """Whose networks the tables and figures ``names`` need and can have, each once."""
    found: dict[str, None] = {}
    for name in names:
        systems = TABLES[name].systems(choices.scale) if name in TABLES else _figure(name).systems
        found.update((system, None) for system in systems if not choices.lacks_images(system))
    return list(found)


def table_sheet(table: Table, name: str, crew: Crew) -> Sheet:
    """The sheet of a table with figures, of what is there; it says what is missing."""
    scale = crew.choices.scale
    cells = table.cells(scale)
    found = crew.found(cells)
    rows = [entries(block, found, scale) for block in table.blocks]
    pairs = list(zip(table.blocks, rows, strict=True))
    return Sheet(
        heading(table, crew, found),
        [grid(block, lines) for block, lines in pairs],
        [
            *missing(table, crew, found),
            *notes(table, crew.choices, found),
            *compare([one for block, lines in pairs for one in series(block, lines)]),
            *([] if any(cell.attack in STRONG for cell in cells) else [AUTOATTACK_CAVEAT]),
        ],
        [record for block, lines in pairs for record in records(name, block, lines, scale)],
    )


def write_sheet(name: str, sheet: Sheet, out: Path) -> list[Path]:
    """Write a sheet as Markdown and CSV; returns the files."""
    make_folder(out)
    files = {out / f"{name}.md": sheet.markdown(), out / f"{name}.csv": sheet.csv()}
    for path, text in files.items():
        write_text(path, text, shared=True)
    return list(files)


def _figure(name: str) -> Any:
    from fastait.reproduction.figures import FIGURES

    return FIGURES[name]


def _draw(name: str, bench: Bench) -> list[Path]:
    figure, choices = _figure(name), bench.choices
    networks = {system: bench.network(system) for system in figure.systems}
    config = choices.config(figure.systems[0])
    dataset = bench.datasets.of(config)
    make_folder(choices.folder)
    with StopRequest() as stop, current(bench.device):

        def advance() -> None:
            if stop.number is not None:
                raise bench.interrupted(stop.number)

        bench.report.note(f"{name}: drawing")
        return figure.draw(networks, dataset, choices.folder, config.epsilon, choices.seed, advance)
