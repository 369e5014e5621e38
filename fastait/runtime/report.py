"""What a user sees of a run: notes, progress bars and the final table. Python callers see nothing by default."""

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from fastait.runtime.console import console, say, show_table
from fastait.runtime.errors import one_line

EVERY = 60.0
"""Seconds between two lines that say how far it is, where no bar can be drawn."""

COLUMNS = {"clean": "clean", "fgsm": "FGSM", "pgd20": "PGD-20", "cw20": "CW-20"}

AUTOATTACK_CAVEAT = (
    "These attacks are the paper's; none of them is AutoAttack, so read FGSM, PGD-20 and CW-20 as upper bounds of "
    "robustness. On CIFAR-10 (WRN-28-10, 8/255) the authors' own adversarial-interpolation network claims 68.7 % and "
    "keeps 36.45 % under AutoAttack (RobustBench)."
)


BOUNDS = "None of these attacks is AutoAttack: read all of them as upper bounds of robustness."


class Report:
    """Writes to the terminal: progress and notes to stderr, the result to stdout. Silent unless ``show``."""

    def __init__(self, show: bool):
        self.show = show
        self.console = console(error=True, quiet=not show)
        self.progress: Progress | None = None
        self.task: Any = None
        self.total = 0
        self.said = 0.0

    def note(self, text: str) -> None:
        """One line that the user should know of."""
        self.console.print(one_line(text), markup=False)

    def start(self, what: str, total: int, done: int = 0) -> None:
        """Begin a progress bar of ``total`` units; ends the one before."""
        self.finish()
        self.total, self.said = total, time.monotonic()
        if not self.show:
            return
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            _Left(compact=True),
            TextColumn("left"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task = self.progress.add_task(one_line(what), total=total, completed=done, figures="", left=None)
        self.progress.start()

    def update(self, done: int, what: str | None = None, figures: str = "", left: float | None = None) -> None:
        """Move the bar to ``done``.

        Args:
            done: units.
            what: is being done.
            figures: shown beside it.
            left: seconds that the rest takes, where that is known better than by units; where no bar can be drawn, a
                line says all this every minute.
        """
        if self.progress is None:
            return
        description = None if what is None else one_line(what)
        self.progress.update(self.task, completed=done, description=description, figures=figures, left=left)
        if left is not None and not self.console.is_terminal and time.monotonic() - self.said >= EVERY:
            self.said = time.monotonic()
            self.note(f"{what}: {done} of {self.total}, {figures}, about {duration(left)} left")

    def finish(self) -> None:
        """End the progress bar."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    def result(self, result: dict[str, Any], folder: str) -> None:
        """The final table and what it does not show."""
        if not self.show:
            return
        rows = result_rows(result)
        lines = [
            [result["method"] + (f", {which}" if len(rows) > 1 else ""), *(f"{row[key]:.1f}" for key in COLUMNS)]
            for which, row in rows.items()
        ]
        title = (
            f"accuracy in %, {result['dataset']}, {result['test_images']} test images, fp32, "
            f"Linf {epsilon_text(result['epsilon'])}"
        )
        show_table(["method", *COLUMNS.values()], lines, title=title)
        say(AUTOATTACK_CAVEAT)
        say(f"Run folder: {one_line(folder)}")


def result_rows(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """{whose weights: the figures} of ``result.json``, the last epoch's first."""
    rows: dict[str, Mapping[str, Any]] = {"last epoch": result}
    for key, whose in (("best", "best epoch"), ("ema", "averaged weights")):
        figures = result.get(key)
        if isinstance(figures, Mapping):
            epoch = f" ({figures['epoch']})" if key == "best" and "epoch" in figures else ""
            rows[whose + epoch] = figures
    return rows


class _Left(TimeRemainingColumn):
    """The time left as it is said, or else as the bar's units go."""

    def render(self, task: Task) -> Text:
        left = task.fields.get("left")
        return super().render(task) if left is None else Text(duration(left), style="progress.remaining")


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03."""
    return str(timedelta(seconds=round(seconds)))


def epsilon_text(epsilon: float) -> str:
    """8/255 where that is what it is, else three digits."""
    in_255ths = epsilon * 255
    return f"{round(in_255ths)}/255" if abs(in_255ths - round(in_255ths)) < 1e-6 else f"{epsilon:.3g}"
