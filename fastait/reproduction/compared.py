"""A comparison of one's own from its file to its table: what ``fastait sweep`` does."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fastait.evaluation.results import STRONG
from fastait.reproduction.attempts import finished
from fastait.reproduction.evaluated import write_evaluations
from fastait.reproduction.grids import Cell
from fastait.reproduction.layout import Sheet, entries, grid, records
from fastait.reproduction.measure import check_networks, check_system
from fastait.reproduction.plan import Plan, show_costs
from fastait.reproduction.sentences import missing, sweep_heading
from fastait.reproduction.session import write_sheet
from fastait.reproduction.status import show_status
from fastait.reproduction.sweep import ALL, Sweep, SweepChoices, read_sweep
from fastait.reproduction.worker import Crew, Item, items, settle
from fastait.runtime.console import say
from fastait.runtime.errors import InputError, one_line
from fastait.runtime.files import write_text
from fastait.runtime.precision import resolve_device
from fastait.runtime.processes import launched
from fastait.runtime.report import AUTOATTACK_CAVEAT, Report

NAME = "table"
"""What the table's files are called."""

EVALUATION, PAGE = "evaluation", "report.html"


@dataclass(frozen=True)
class Comparison:
    """What a file compares.

    Attributes:
        sweep: what the file says.
        choices: where and with which seeds.
    """

    sweep: Sweep
    choices: SweepChoices

    @classmethod
    def read(cls, file: Path, out: Path | None = None) -> "Comparison":
        """Of a file.

        Args:
            file: TOML.
            out: folder of table, runs and outcomes; None for one of the file's name in ``sweeps``.

        Raises:
            InputError: as ``read_sweep``.
        """
        sweep = read_sweep(file)
        device = next(iter(sweep.rows.values())).device
        folder = Path("sweeps") / file.stem if out is None else out
        return cls(sweep, SweepChoices(ALL, folder, device=device, seeds=sweep.seeds, sweep=sweep))

    def begin(self) -> None:
        """Refuse, before any long work, what cannot be made as asked.

        Raises:
            InputError: a setting or file is not what it must be, or runs were begun here with other settings.
        """
        if launched():
            raise InputError("a table is made by single processes; torchrun is for fastait train")
        self._check()
        settle(self.choices)

    def make(self, page: Callable[[list[Path], list[Path]], str], helpers: Callable[[], None] = lambda: None) -> None:
        """Do what is left, with whoever else is at it, write the table and the page and print the former; see
        ``session.reproduce``.

        Args:
            page: the text of a page of these runs and these evaluations.
            helpers: called once nothing is found to be wrong; may have others do what there is to do.
        """
        resolve_device(self.choices.device)
        self.begin()
        crew = Crew(self.choices, Report(True))
        helpers()
        crew.work(self._items())
        sheet = self.sheet(crew)
        written = write_sheet(NAME, sheet, self.choices.folder)
        runs = [one.run(system) for system in self.sweep.systems for one in self.choices.each_seed()]
        if there := list(filter(finished, runs)):
            measured = write_evaluations(crew, self._cells(), self.choices.folder / EVALUATION)
            written.append(self.choices.folder / PAGE)
            write_text(written[-1], page(there, measured), shared=True)
        sheet.show()
        say(f"Written to {', '.join(map(one_line, written))}\n")
        crew.refuse_failed()

    def work(self) -> None:
        """Be one of any number of workers; nothing is printed.

        Raises:
            As ``session.work``.
        """
        resolve_device(self.choices.device)
        self.begin()
        crew = Crew(self.choices, Report(True))
        crew.work(self._items())
        crew.refuse_failed()

    def sheet(self, crew: Crew) -> Sheet:
        """The table of what is there."""
        table = self.sweep.table()
        (block,) = table.blocks
        found = crew.found(table.cells(ALL))
        rows = entries(block, found, ALL)
        return Sheet(
            sweep_heading(list(self.sweep.systems), crew, found),
            [grid(block, rows)],
            [*missing(table, crew, found), *([] if set(self.sweep.attacks) & {*STRONG} else [AUTOATTACK_CAVEAT])],
            records(NAME, block, rows, ALL),
        )

    def show_plan(self) -> None:
        """Print the runs and evaluations, what is left of each, and the totals."""
        self._check()
        show_costs(Plan(list(self.sweep.systems), self._cells(), self.choices))

    def show_status(self) -> None:
        """Print what is done, running, waiting and failed."""
        show_status(self.choices, {"the table": self._items()})

    def _check(self) -> None:
        systems = list(self.sweep.systems)
        for one in self.choices.each_seed():
            for system in systems:
                check_system(system, one)
        attacked = {cell.system for cell in self._cells() if cell.attack.startswith("feature")}
        check_networks(systems, self.choices, attacked)

    def _items(self) -> list[Item]:
        return items(self.choices, self.sweep.systems, self._cells())

    def _cells(self) -> list[Cell]:
        return self.sweep.table().cells(ALL)
