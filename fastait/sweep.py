"""``fastait sweep FILE.toml``: a comparison of one's own, trained and measured like a table of the paper."""

if __name__ == "__main__":  # before the rest is imported, so that Ctrl-C meanwhile is one line
    from fastait.__main__ import end_as

    end_as("sweep")

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fastait.reproduction.company import GROUPS, Company, run_by_slurm, run_here, worker_command
from fastait.runtime import cli
from fastait.runtime.console import say
from fastait.runtime.errors import InputError, one_line
from fastait.runtime.settings import normalise

COMMAND = "fastait sweep"
SUMMARY = (
    "Train and measure a comparison of your own: methods, networks, budgets and seeds that a TOML file lists, every "
    "combination or row by row, as one table with means and standard errors. What is in --out is not made twice."
)


@dataclass(frozen=True)
class File:
    """What stands without a flag, which must be the first field of all."""

    file: Path | None = None
    """A TOML file that says what is compared."""


@dataclass(frozen=True)
class SweepArguments(Company, File):
    """What is compared."""

    out: Path | None = field(default=None, kw_only=True)
    """Folder of the table, runs and outcomes; goes on with what is there. [default: sweeps/ and the file's name]"""

    dry_run: bool = field(default=False, kw_only=True)
    """List the runs and evaluations, what they cost and how long that is estimated to take; do nothing else."""

    def __post_init__(self) -> None:
        normalise(self)

    def check(self) -> None:
        """Raise an InputError unless a file is named and one thing is asked for."""
        if self.file is None:
            raise InputError(f"no file is named: {COMMAND} FILE.toml")
        self.check_company(dry_run=self.dry_run)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return cli.run(COMMAND, _main, argv)


def _main(argv: list[str]) -> None:
    arguments = cli.parse(COMMAND, SweepArguments(), argv, SUMMARY, GROUPS)
    arguments.check()
    assert arguments.file is not None

    from fastait.reproduction.compared import Comparison
    from fastait.runtime.memory import keep_freed_memory
    from fastait.runtime.threads import set_threads

    keep_freed_memory()
    set_threads()
    comparison = Comparison.read(arguments.file, arguments.out)
    choices = comparison.choices
    if arguments.dry_run:
        comparison.show_plan()
    elif arguments.status:
        comparison.show_status()
    elif arguments.worker:
        comparison.work()
    else:
        command = worker_command("sweep", arguments)
        if arguments.submit == "slurm":
            comparison.begin()
            say(one_line(run_by_slurm(command, choices.folder, arguments, choices.device == "cpu")))
        elif arguments.submit == "local":
            comparison.make(_page, partial(run_here, command, choices.folder, arguments.workers))
        else:
            comparison.make(_page)


def _page(runs: list[Path], evaluations: list[Path]) -> str:
    from fastait.report.page import make

    return make(runs, evaluations, figures=False)
