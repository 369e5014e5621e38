"""Errors that a user can act on; commands print them as one line."""

import difflib
from collections.abc import Iterable


class FastaitError(Exception):
    """Base of the errors that a command reports without a traceback; what they quote stays on their one line."""

    exit_code = 1

    def __str__(self) -> str:
        return one_line(super().__str__())


class InputError(FastaitError, ValueError):
    """A flag, file or folder is not what it must be. Found before any long work starts; exit code 2."""

    exit_code = 2


class RunError(FastaitError, RuntimeError):
    """Something went wrong during a run: the loss became NaN, the disk is full. Exit code 1."""


class NotWritten(RunError):
    """The disk is full or a file cannot be written; what was there before is unharmed."""


class OutOfMemory(RunError):
    """Memory did not suffice for the least that can be done at a time."""


class Interrupted(FastaitError):
    """A signal stopped the run, which has been saved. Exit code 128 + the signal's number."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


class SaidElsewhere(FastaitError):
    """The first of several processes has said what went wrong; this one ends with its exit code."""

    def __init__(self, exit_code: int):
        super().__init__("another process of this run has said what went wrong")
        self.exit_code = exit_code


def one_line(text: object) -> str:
    """``text`` on one line: control characters, and bytes of file names that are no text, as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def first_line(error: BaseException) -> str:
    """What an error says first, or what it is called where it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def words(text: object, at_most: int | None = None) -> str:
    """``text`` with single blanks for all its white space, and no more characters of it than ``at_most``."""
    return " ".join(str(text).split())[:at_most]


def quoted(value: object, at_most: int) -> str:
    """``repr(value)`` by ``words``, of whatever a caller gave."""
    try:
        return words(repr(value), at_most)
    except ValueError:  # Python writes no more than 4300 digits
        return "a number of very many digits"


def check_choice(flag: str, value: str, choices: Iterable[str]) -> None:
    """Raise an InputError with the near match unless ``value`` is one of ``choices``."""
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        shown = quoted(value, 100)
        near = difflib.get_close_matches(value if isinstance(value, str) else shown, choices, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(f"{flag}: {shown} is not one of {', '.join(choices)}.{hint}")
