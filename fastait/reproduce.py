"""``fastait reproduce TABLE...``: the paper's tables and figures, made again."""

if __name__ == "__main__":  # before the rest is imported, so that Ctrl-C meanwhile is one line
    from fastait.__main__ import end_as

    end_as("reproduce")

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

from fastait.reproduction.company import GROUPS, Company, numbers, run_by_slurm, run_here, worker_command
from fastait.reproduction.figures import FIGURES
from fastait.reproduction.systems import SCALES, Choices
from fastait.reproduction.tables import TABLES
from fastait.runtime import cli
from fastait.runtime.console import say
from fastait.runtime.errors import InputError, check_choice, one_line
from fastait.runtime.settings import Written, normalise

COMMAND = "fastait reproduce"
SUMMARY = (
    "Make tables and figures of the paper again: train what is missing, measure it, and print each in the paper's "
    "layout, the paper's figures beside ours. What is in --out is not made twice."
)


@dataclass(frozen=True)
class Names:
    """What stands without a flag, which must be the first field of all."""

    names: tuple[str, ...] = ()
    """Tables and figures: table1 to table9, tableA6, fastat, figure2 to figure4, epsilons."""


@dataclass(frozen=True)
class ReproduceArguments(Company, Names):
    """What to make."""

    list_: bool = field(default=False, kw_only=True, metadata={"negative": ""})
    """Say what there is to make, and end."""

    scale: str = field(default="small", kw_only=True)
    """small (the embedded digits and a small network: minutes on a CPU, not comparable with the paper's figures) or
    paper (its data sets, networks and epochs: days of a GPU)."""

    out: Path = field(default=Path("reproduction"), kw_only=True)
    """Folder of tables, figures, runs and outcomes, one for each scale in it; goes on with what is there."""

    data_dir: Path | None = field(default=None, kw_only=True)
    """Where cifar10, cifar100 and svhn lie or are downloaded to, at the paper's scale. [default: ./data]"""

    unlabeled: Path | None = field(default=None, kw_only=True)
    """Folder of images without labels, for UAT in table 8."""

    model: str | None = field(default=None, kw_only=True)
    """Train this network in place of the scale's (wrn-28-10 in the paper, wrn-10-1 at the small scale), by a name as
    fastait train takes."""

    device: str = field(default="auto", kw_only=True)
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""

    amp: bool = field(default=False, kw_only=True)
    """Train in mixed precision where the hardware has it natively; what is measured is fp32."""

    dali: bool = field(default=False, kw_only=True)
    """Load and augment with NVIDIA DALI."""

    seeds: Annotated[tuple[int, ...], Written(numbers)] = field(default=(0,), kw_only=True)
    """Of training and of the attacks, with commas between: of several, each figure is the mean with its standard
    error."""

    dry_run: bool = field(default=False, kw_only=True)
    """List the runs and evaluations, what they cost and how long that is estimated to take; do nothing else."""

    def __post_init__(self) -> None:
        normalise(self)

    def check(self) -> None:
        """Raise an InputError unless there is something to make and its scale is known."""
        if not self.names:
            raise InputError(f"no table is named; {COMMAND} --list says what there is")
        for name in self.names:
            check_choice("TABLE", name, (*TABLES, *FIGURES))
        check_choice("--scale", self.scale, SCALES)
        self.check_company(dry_run=self.dry_run)

    def choices(self) -> Choices:
        """How it is to be made."""
        return Choices(
            SCALES[self.scale],
            self.out,
            self.data_dir,
            self.unlabeled,
            device=self.device,
            amp=self.amp,
            dali=self.dali,
            seeds=self.seeds,
            model=self.model,
        )


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return cli.run(COMMAND, _main, argv)


def _main(argv: list[str]) -> None:
    arguments = cli.parse(COMMAND, ReproduceArguments(), argv, SUMMARY, GROUPS)
    if arguments.list_:
        _list()
        return
    arguments.check()
    names = list(dict.fromkeys(arguments.names))

    from fastait.runtime.memory import keep_freed_memory
    from fastait.runtime.threads import set_threads

    keep_freed_memory()
    set_threads()
    choices = arguments.choices()
    if arguments.dry_run:
        from fastait.reproduction.plan import show_plan

        show_plan(names, choices)
    elif arguments.status:
        from fastait.reproduction.session import items_of
        from fastait.reproduction.status import show_status

        show_status(choices, {name: items_of([name], choices) for name in names})
    elif arguments.worker:
        from fastait.reproduction.session import work

        work(names, choices)
    else:
        from fastait.reproduction.session import begin, reproduce

        command = worker_command("reproduce", arguments)
        if arguments.submit == "slurm":
            begin(names, choices)
            say(one_line(run_by_slurm(command, choices.folder, arguments, choices.device == "cpu")))
        elif arguments.submit == "local":
            reproduce(names, choices, helpers=partial(run_here, command, choices.folder, arguments.workers))
        else:
            reproduce(names, choices)


def _list() -> None:
    for name, table in TABLES.items():
        say(f"{name:9} {table.caption}")
    for name, figure in FIGURES.items():
        say(f"{name:9} {figure.title}")
