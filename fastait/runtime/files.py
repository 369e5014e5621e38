"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fastait.runtime.errors import RunError

PARTIAL = ".partial"
"""What the name of a file ends with while it is written."""


def write_text(path: Path, text: str) -> None:
    """``write_whole`` of ``text`` in UTF-8, whatever the locale; surrogates, of file names, as backslashes and numbers.

    Raises:
        RunError: as ``write_whole``.
    """
    write_whole(path, text.encode("utf-8", "backslashreplace"))


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Write ``data`` so that ``path`` holds either all of it or what it held before, whatever happens.

    Raises:
        RunError: the disk is full or the file cannot be written; what was there is unharmed.
    """
    with written(path, data) as partial:
        os.replace(partial, path)


@contextmanager
def written(path: Path, data: bytes | memoryview) -> Iterator[Path]:
    """A file beside ``path`` that holds all of ``data``, on the disk, to be given the name ``path`` within.

    Raises:
        RunError: as ``write_whole``; also where the renaming raises an OSError.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield partial
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise RunError(f"{path} could not be written: {error.strerror}; what it held before is unharmed") from None
