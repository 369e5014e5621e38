"""What is printed: it survives full disks, closed pipes and terminals, narrow ones and ones that lack characters.

What cannot be said must not stop what is being done, so nothing here raises for want of somewhere to print to.
"""

import errno
import io
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from fastait.runtime.errors import one_line

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 250
"""Of a table that goes to a file or a pipe."""

LEAST_WIDTH, USUAL_WIDTH = 20, 80
"""What a terminal is taken to have that says it has fewer columns, and one that says it has none: nobody knows then, as
in some containers."""

NARROW = 12
"""Words of a table that are shorter than this are not broken."""


class Survivor(io.TextIOBase):
    """A text stream onto ``stream`` that neither raises OSError nor UnicodeEncodeError; onto None it says nothing.

    What the stream's encoding lacks is written as a backslash and a number.

    Attributes:
        error: what the stream raised last, if anything was lost.
    """

    def __init__(self, stream: Any):
        self._stream = stream
        self.error: OSError | ValueError | None = None

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write what can be written of ``text``."""
        if self._stream is not None:
            try:
                try:
                    self._stream.write(text)
                except UnicodeEncodeError:
                    self._stream.write(printable(text, self.encoding))
            except (OSError, ValueError) as error:  # ValueError: the stream was closed
                self.error = error
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        if self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self.error = error

    def isatty(self) -> bool:
        """Whether the stream is a terminal that is still there."""
        try:
            return self._stream is not None and self._stream.isatty()
        except (OSError, ValueError):
            return False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        """The stream's.

        Raises:
            OSError: it has none.
        """
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    def give_up(self) -> None:
        """Flush for the last time; what cannot be flushed is dropped, so that Python's own flush at the end succeeds.

        Python's would otherwise replace the exit code by 120.
        """
        self.flush()
        with suppress(OSError, ValueError):
            try:
                if self._stream is not None:
                    self._stream.flush()
            except OSError:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
                self._stream.flush()


@contextmanager
def surviving_streams(program: str) -> Iterator[None]:
    """While entered, ``sys.stdout`` and ``sys.stderr`` survive, whoever prints; for a command, not for a library.

    At the end stderr says, if it can, that something could not be printed.
    """
    _open_closed_files()
    before = sys.stdout, sys.stderr
    out, err = Survivor(before[0]), Survivor(before[1])
    sys.stdout, sys.stderr = out, err
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        out.flush()
        # Whoever closes a pipe has seen enough.
        if out.error is not None and not isinstance(out.error, BrokenPipeError):
            why = getattr(out.error, "strerror", None) or out.error
            err.write(f"{program}: warning: not everything could be printed ({why}); what was done is complete\n")
        out.give_up()
        err.give_up()


def _open_closed_files() -> None:
    """A file that is opened where stdin, stdout or stderr were closed would get what others print to those."""
    if None in (sys.stdin, sys.stdout, sys.stderr):
        for number in range(3):
            try:
                os.fstat(number)
            except OSError as error:
                if error.errno == errno.EBADF:
                    os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one


def say(text: str, *, error: bool = False) -> None:
    """Print lines to stdout or stderr; nothing in them, such as somebody's names, is obeyed by a terminal."""
    stream = Survivor(sys.stderr if error else sys.stdout)
    stream.write("\n".join(map(one_line, text.split("\n"))) + "\n")
    stream.flush()


def printable(text: str, encoding: str) -> str:
    """``text`` with what ``encoding`` lacks, surrogates of file names too, as backslashes and numbers."""
    try:
        return text.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:
        return text.encode("ascii", "backslashreplace").decode("ascii")


def console(*, error: bool = False, quiet: bool = False, **options: Any) -> "Console":
    """A rich console on stdout or stderr, as they are now, whose ``print(text, markup=False)`` prints it as it is."""
    from rich.console import Console

    stream = sys.stderr if error else sys.stdout
    file: Any = Survivor(getattr(stream, "rich_proxied_file", stream))  # a progress bar stands in for it meanwhile
    made = Console(**{"file": file, "quiet": quiet, "soft_wrap": True, "highlight": False, "emoji": False, **options})
    if made.width < LEAST_WIDTH:
        made.width = LEAST_WIDTH if made.width else USUAL_WIDTH
    return made


def show_table(
    header: Sequence[str],
    lines: Sequence[Sequence[str]],
    *,
    title: str = "",
    words: Collection[int] = (0,),
    ruled: bool = False,
) -> None:
    """Print a table to stdout. Whatever the terminal's width, no figure is cut or broken.

    Where there is no room for a table, a line's cells are printed one below the other. What goes to a file or a pipe
    is given ``WIDTH`` columns, or as many as the environment's COLUMNS says.

    Args:
        header: a title per column.
        lines: as many cells each.
        title: a line above.
        words: which columns hold words, which may be broken, the first of them a line's name; the others' cells are
            figures, to the right and never broken.
        ruled: whether lines are drawn between lines.
    """
    from rich.table import Table
    from rich.text import Text

    out = console()
    said = os.environ.get("COLUMNS", "")
    wide = out.is_terminal or (said.isdecimal() and int(said))
    width = out.width if wide else WIDTH
    out = console(width=width)

    def show(what: Any) -> None:
        out.print(what, soft_wrap=False, overflow="fold")

    header, *lines = ([printable(one_line(cell), out.encoding) for cell in line] for line in (header, *lines))
    if title:
        show(Text(printable(one_line(title), out.encoding)))
    widths = _column_widths(header, lines, words, width - 3 * len(header) - 1)
    if widths is None:
        for text in _one_below_the_other(header, lines, min(words), width):
            show(Text(text))
        return
    table = Table(show_lines=ruled)
    for i, (text, column_width) in enumerate(zip(header, widths, strict=True)):
        table.add_column(Text(text), justify="left" if i in words else "right", width=column_width, overflow="fold")
    for line in lines:
        table.add_row(*map(Text, line))
    show(table)


def _column_widths(
    header: Sequence[str], lines: Sequence[Sequence[str]], words: Collection[int], room: int
) -> list[int] | None:
    """How wide each column is, together at most ``room``; None if figures would have to be broken."""
    from rich.cells import cell_len

    widths, least = [], []
    for i, cells in enumerate(zip(header, *lines, strict=True)):
        breakable = cells if i in words else cells[:1]
        longest = max((cell_len(word) for cell in breakable for word in cell.split()), default=0)
        figures = 0 if i in words else max(map(cell_len, cells[1:]), default=0)
        widths.append(max(1, *map(cell_len, cells)))
        least.append(max(1, figures, min(NARROW, longest)))
    if sum(least) > room:
        return None
    while sum(widths) > room:
        widest = max((i for i in range(len(widths)) if widths[i] > least[i]), key=lambda i: widths[i])
        widths[widest] -= 1
    return widths


def _one_below_the_other(header: Sequence[str], lines: Sequence[Sequence[str]], name: int, width: int) -> Iterator[str]:
    from rich.cells import cell_len

    for line in lines:
        yield f"{line[name]}"
        for i, (title, cell) in enumerate(zip(header, line, strict=True)):
            if i == name or not cell:
                continue
            text = f"  {title}: {cell}"
            if cell_len(text) <= width:
                yield text
            else:
                yield f"  {title}:"
                yield f"  {cell}" if cell_len(cell) + 2 <= width else cell
