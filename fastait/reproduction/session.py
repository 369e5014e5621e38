"""Tables and figures from their names to their files: what ``fastait reproduce`` does."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fastait.config import TrainConfig
from fastait.evaluation.results import STRONG
from fastait.reproduction.categories import categories
from fastait.reproduction.grids import Cell, Table
from fastait.reproduction.layout import Sheet, entries, grid, records, series
from fastait.reproduction.measure import Bench, Measured, check_networks, check_system
from fastait.reproduction.orderings import compare
from fastait.reproduction.systems import SYSTEMS, Choices, needs_unlabeled
from fastait.reproduction.tables import TABLES
from fastait.runtime.console import say
from fastait.runtime.errors import InputError, check_choice, one_line
from fastait.runtime.files import write_text
from fastait.runtime.precision import current
from fastait.runtime.processes import launched
from fastait.runtime.report import AUTOATTACK_CAVEAT, Report, epsilon_text
from fastait.runtime.signals import StopRequest


def reproduce(names: Iterable[str], choices: Choices, *, show: bool = True) -> None:
    """Make the tables and figures ``names``, write them into ``choices.folder`` and show them.

    Raises:
        InputError: what is in ``choices.out`` was made with other settings, or a setting or file is not what it must
            be; the former is found before anything is begun.
        RunError: as ``fastait.run_training``.
        Interrupted: a signal that asks for an end (``runtime.signals``); the same command goes on.
    """
    if launched():
        raise InputError("tables are made by one process; torchrun is for fastait.train")
    names = [names] if isinstance(names, str) else list(names)
    check(names, choices)
    bench = Bench(choices, Report(show))
    for name in names:
        if name in TABLES:
            sheet = categories() if name == "table7" else table_sheet(name, bench)
            written = write_sheet(name, sheet, choices.folder)
            if show:
                sheet.show()
        else:
            written = _draw(name, bench)
        if show:
            say(f"Written to {', '.join(map(one_line, written))}\n")


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
    systems = systems_of(names, choices)
    for system in systems:
        check_system(system, choices)
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


def table_sheet(name: str, bench: Bench) -> Sheet:
    """The sheet of a table with figures, trained and measured as far as that was not done."""
    table, scale = TABLES[name], bench.choices.scale
    cells = table.cells(scale)
    found = bench.measure(cells, name)
    rows = [entries(block, found, scale) for block in table.blocks]
    pairs = list(zip(table.blocks, rows, strict=True))
    return Sheet(
        _heading(table, bench, found),
        [grid(block, lines) for block, lines in pairs],
        [
            *_notes(table, bench, found),
            *compare([one for block, lines in pairs for one in series(block, lines)]),
            *([] if any(cell.attack in STRONG for cell in cells) else [AUTOATTACK_CAVEAT]),
        ],
        [record for block, lines in pairs for record in records(name, block, lines, scale)],
    )


def write_sheet(name: str, sheet: Sheet, out: Path) -> list[Path]:
    """Write a sheet as Markdown and CSV; returns the files."""
    _make(out)
    files = {out / f"{name}.md": sheet.markdown(), out / f"{name}.csv": sheet.csv()}
    for path, text in files.items():
        write_text(path, text)
    return list(files)


def _heading(table: Table, bench: Bench, found: Mapping[Cell, Measured]) -> list[str]:
    choices = bench.choices
    systems = [system for system in table.systems(choices.scale) if not choices.lacks_images(system)]
    configs = [choices.config(system) for system in systems]
    small = ": not comparable with the paper's figures" if choices.scale.name == "small" else ""
    other = ": not the paper's network" if choices.model is not None and not small else ""
    images = _listed(dict.fromkeys(m.n for cell, m in found.items() if not cell.black_box))
    few = _listed(dict.fromkeys(m.n for cell, m in found.items() if cell.black_box))
    black_box = f"({few} for attacks without gradients) " if few and images else ""
    results = [bench.trained(system).result for system in systems]
    precision = _listed(dict.fromkeys(r["precision"] for r in results))
    trained_on = _listed(dict.fromkeys(f"{r['device']} (torch {r['torch']})" for r in results))
    here = bench.environment
    budgets = _listed(epsilon_text(e) for e in dict.fromkeys(cell.epsilon for cell in found))
    here_on = f", here on {_listed(dict.fromkeys(c.dataset for c in configs))}" if small else ""
    return [
        f"{table.title}: {table.caption}{here_on}. Accuracy in %: ours (the paper's, the difference).",
        f"Scale {choices.scale.name}: {_networks(configs)}{small or other}.",
        f"{images or few} test images {black_box}with the classes in proportion, Linf {budgets}, steps of "
        f"{epsilon_text(choices.scale.step_size)}, seed {choices.seed}; training {precision}, evaluation fp32; "
        f"weights of the {_listed(dict.fromkeys(SYSTEMS[system].weights for system in systems))} epoch.",
        f"Trained on {trained_on}; measured on {here['device']} with {here['threads']} threads, torch {here['torch']}, "
        f"fastait {here['fastait']}, Python {here['python']}.",
    ]


def _networks(configs: Iterable[TrainConfig]) -> str:
    configs = list(configs)
    datasets = _listed(dict.fromkeys(c.dataset for c in configs))
    networks = _listed(dict.fromkeys(c.model for c in configs))
    return f"{datasets}, {networks}, {_listed(sorted({c.epochs for c in configs}))} epochs"


def _notes(table: Table, bench: Bench, found: Mapping[Cell, Measured]) -> list[str]:
    choices = bench.choices
    systems = table.systems(choices.scale)
    notes = list(table.notes)
    if choices.scale.name == "small":
        notes.append(
            f"Budgets and steps are {choices.scale.budget:g} times the paper's, in training too: at 8/255 digits do "
            "not tell methods apart. What the paper sets for CIFAR100 and SVHN alone does not suit digits and is left "
            "out."
        )
    attacks = list(dict.fromkeys(cell.attack for cell in found if cell.black_box))
    if attacks:
        notes.append(f"Attacks without gradients are {_listed(attacks)} of fastait.eval.")
    if any(needs_unlabeled(system) for system in systems):
        if choices.unlabeled_folder is None:
            notes.append("UAT is left out: it needs images without labels, --unlabeled DIR.")
        elif choices.unlabeled is None:
            notes.append(
                "UAT's images without labels are the training images; the paper's has others (--unlabeled DIR)."
            )
        else:
            notes.append(f"UAT's images without labels are those in {choices.unlabeled}.")
    return notes


def _listed(values: Iterable[Any]) -> str:
    """a, b and c."""
    texts = [str(value) for value in values]
    return " and ".join(filter(None, (", ".join(texts[:-1]), texts[-1]))) if texts else ""


def _figure(name: str) -> Any:
    from fastait.reproduction.figures import FIGURES

    return FIGURES[name]


def _draw(name: str, bench: Bench) -> list[Path]:
    figure, choices = _figure(name), bench.choices
    networks = {system: bench.network(system) for system in figure.systems}
    config = choices.config(figure.systems[0])
    dataset = bench.dataset(config.dataset, config.image_size)
    _make(choices.folder)
    with StopRequest() as stop, current(bench.device):

        def advance() -> None:
            if stop.number is not None:
                raise bench.interrupted(stop.number)

        bench.report.note(f"{name}: drawing")
        return figure.draw(networks, dataset, choices.folder, config.epsilon, choices.seed, advance)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out: {folder} cannot be made: {error.strerror}") from None
