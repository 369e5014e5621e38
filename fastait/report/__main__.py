"""``fastait report RUN...``: one page of what runs and evaluations wrote."""

if __name__ == "__main__":  # before the rest is imported, so that Ctrl-C meanwhile is one line
    from fastait.__main__ import end_as

    end_as("report")

from dataclasses import dataclass, field
from pathlib import Path

from fastait.runtime import cli
from fastait.runtime.console import say
from fastait.runtime.errors import InputError, one_line
from fastait.runtime.settings import normalise

COMMAND = "fastait report"
SUMMARY = (
    "Make one page of what runs and evaluations wrote: what was trained and how, curves, tables, signs of masked "
    "gradients, classes, images. It needs no network and no other file, and is the same for the same files."
)


@dataclass(frozen=True)
class ReportArguments:
    """What the page is made of."""

    runs: tuple[Path, ...] = ()
    """Run folders, of fastait train."""

    eval: tuple[Path, ...] = field(default=(), kw_only=True)
    """A folder of fastait eval; repeat the flag for each."""

    figures: bool = field(default=False, kw_only=True)
    """Draw the paper's figures 2, 3 and 4 for the runs too: it takes their networks, their images and minutes."""

    out: Path = field(default=Path("report.html"), kw_only=True)
    """The page."""

    def __post_init__(self) -> None:
        normalise(self)

    def check(self) -> None:
        """Raise an InputError unless there is something to show and the page can be written."""
        if not self.runs and not self.eval:
            raise InputError(f"no run is given: {COMMAND} RUN..., or --eval EVAL")
        try:
            if self.out.is_dir():
                raise InputError(f"--out {self.out} is a folder; name the page, such as {self.out / 'report.html'}")
            if not self.out.absolute().parent.is_dir():
                raise InputError(f"--out {self.out}: there is no folder {self.out.absolute().parent}; make it first")
        except OSError as error:
            raise InputError(f"--out {self.out} cannot be written: {error.strerror}") from None


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return cli.run(COMMAND, _main, argv)


def _main(argv: list[str]) -> None:
    arguments = cli.parse(COMMAND, ReportArguments(), argv, SUMMARY)
    arguments.check()

    from fastait.report.page import make
    from fastait.runtime.files import write_text
    from fastait.runtime.report import Report

    page = make(arguments.runs, arguments.eval, figures=arguments.figures, note=Report(True).note)
    write_text(arguments.out, page)
    say(f"Written to {one_line(arguments.out)}")
