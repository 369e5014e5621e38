"""A run that several workers may come to: each trains in a folder of its own, and the first to end gives it its name.

``runs/NAME`` is a finished run, or one that somebody began there by hand. Under a claim a worker trains in
``attempts/NAME@N...``, which no other worker writes to; it begins with a copy of what the attempt before had come to.
A finished attempt is renamed to ``runs/NAME``, which fails where that is there already. So whatever a worker that was
given up still does, it cannot overwrite anything: it can only come first, with the same run, or too late.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from secrets import token_hex

from fastait.checkpoints.folder import RunFolder
from fastait.runtime.errors import NotWritten
from fastait.runtime.files import name_folder


def finished(run: Path) -> bool:
    """Whether the run of this name is done."""
    return RunFolder(run).result_file.is_file()


def begun(run: Path) -> Path | None:
    """Where the run of this name has come furthest: under its name, or in the last attempt; None if nowhere.

    Raises:
        InputError: it cannot be read.
    """
    if RunFolder.begun(run):
        return run
    return next((attempt for attempt in reversed(attempts(run)) if RunFolder.begun(attempt)), None)


def attempts(run: Path) -> list[Path]:
    """The folders of all attempts at a run, the first one first."""
    found = []
    for path in _folder(run).glob("*@*"):
        name, _, rest = path.name.rpartition("@")
        number = rest.partition(".")[0]
        if name == run.name and number.isdecimal():
            found.append((int(number), path))
    return [path for _, path in sorted(found)]


def new(run: Path, number: int, worker: str) -> Path:
    """The folder of a worker's attempt under its claim of this number; nothing is made."""
    return _folder(run) / f"{run.name}@{number}.{worker}"


def take_over(run: Path) -> Path | None:
    """What an attempt goes on from: the last one that came to something; None if there is none.

    A run that was begun under its name by other means becomes an attempt.

    Raises:
        InputError: somebody is training in it.
        NotWritten: it cannot be renamed.
    """
    if run.exists() and not finished(run):
        _put_aside(run)
    return begun(run)


def publish(attempt: Path, run: Path) -> None:
    """Give a finished attempt the run's name, unless a finished one has it, and remove all others.

    Raises:
        InputError: somebody is training under that name.
        NotWritten: it cannot be renamed.
    """
    folder = RunFolder(attempt)
    try:
        folder.change(replace(folder.config(), out=run))
        while not finished(run) and not name_folder(attempt, run):
            if not finished(run):
                _put_aside(run)
    except (NotWritten, ValueError):
        if not finished(run):  # by another worker, who then removed this attempt
            raise
    for other in attempts(run):
        shutil.rmtree(other, ignore_errors=True)


def forget_before(source: Path, run: Path) -> None:
    """Remove the attempts before ``source``, which a later one was copied from."""
    for other in attempts(run):
        if other == source:
            break
        shutil.rmtree(other, ignore_errors=True)


def _put_aside(run: Path) -> None:
    with RunFolder(run) as folder:
        folder.lock()
        name_folder(run, _folder(run) / f"{run.name}@0.{token_hex(3)}")  # claims are numbered from 1


def _folder(run: Path) -> Path:
    return run.parent.parent / "attempts"
