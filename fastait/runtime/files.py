"""Files that are written whole or not at all."""

import errno
import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from glob import escape
from pathlib import Path
from secrets import token_hex
from typing import Any, BinaryIO

from fastait.runtime.errors import InputError, NotWritten

PARTIAL = ".partial"
"""What the name of a file ends with while it is written."""


def write_text(path: Path, text: str, *, shared: bool = False) -> None:
    """``write_whole`` of ``text`` in UTF-8, whatever the locale; surrogates, of file names, as backslashes and numbers.

    Raises:
        NotWritten: as ``write_whole``.
    """
    write_whole(path, text.encode("utf-8", "backslashreplace"), shared=shared)


def write_whole(path: Path, data: bytes | memoryview, *, shared: bool = False) -> None:
    """Write ``data`` so that ``path`` holds either all of it or what it held before, whatever happens.

    A device, such as ``/dev/null``, is written to and stays what it is.

    Args:
        path: the file.
        data: its bytes.
        shared: whether other processes may be writing the same file; the last one wins.

    Raises:
        NotWritten: the disk is full or the file cannot be written; what was there is unharmed.
    """
    if (check := _check.get()) is not None:
        check()
    if _is_device(path):
        _write_to_device(path, data)
        return
    with written(path, data, shared=shared) as partial:
        os.replace(partial, path)


def _is_device(path: Path) -> bool:
    """Whether ``path`` is, or leads to, something that keeps no data: a file put in its place would be everybody's."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode) or stat.S_ISFIFO(mode)


def _write_to_device(path: Path, data: bytes | memoryview) -> None:
    try:
        with open(path, "wb") as device:
            device.write(data)
    except OSError as error:
        raise NotWritten(f"{path} could not be written: {error.strerror}") from None


@contextmanager
def written(path: Path, data: bytes | memoryview, *, shared: bool = False) -> Iterator[Path]:
    """A file beside ``path`` that holds all of ``data``, on the disk, to be given the name ``path`` within.

    Raises:
        NotWritten: as ``write_whole``; also where the renaming raises an OSError.
    """
    partial = path.with_name(path.name + (f".{token_hex(4)}" if shared else "") + PARTIAL)
    try:
        if shared:
            _remove_left(path)
        with _new(partial, shared) as file:  # open, and so locked, until it has its name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            yield partial
        _sync(path.parent)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        if error.errno == errno.ENOENT and not path.parent.exists():
            raise NotWritten(f"{path} could not be written: the folder {path.parent} is not there any more") from None
        raise NotWritten(f"{path} could not be written: {error.strerror}; what it held before is unharmed") from None


def _new(partial: Path, shared: bool) -> BinaryIO:
    """A new file, which those that share what it is for do not take for one that was left."""
    while True:
        file = open(partial, "wb")  # noqa: SIM115
        if not shared:
            return file
        with suppress(OSError):  # a file system without locks, where nothing is ever removed
            fcntl.flock(file, fcntl.LOCK_EX)
        if partial.exists():  # else it was removed before it was locked
            return file
        file.close()


def _remove_left(path: Path) -> None:
    """Remove what processes that were killed left of ``path``: those that still write it hold a lock."""
    for left in path.parent.glob(f"{escape(path.name)}.{'[0-9a-f]' * 8}{PARTIAL}"):
        with suppress(OSError), open(left, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


def make_folder(path: Path) -> None:
    """Make a folder of ``--out``, and those above it, where they are not there yet.

    Raises:
        InputError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out: {path} cannot be made: {error.strerror}") from None


def name_folder(folder: Path, path: Path) -> bool:
    """Give a folder the name ``path``; False, and nothing is changed, if a folder that is not empty has it already.

    Raises:
        NotWritten: the folder cannot be renamed, or is gone.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.rename(folder, path)
        _sync(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise NotWritten(f"{folder} could not be renamed to {path}: {error.strerror}; both are unharmed") from None
    return True


@contextmanager
def checked(check: Callable[[], None]) -> Iterator[None]:
    """While entered, ``check`` is called before this thread writes a file whole, and may raise to prevent it."""
    before = _check.set(check)
    try:
        yield
    finally:
        _check.reset(before)


_check: ContextVar[Callable[[], None] | None] = ContextVar("check", default=None)


def json_of(data: bytes | str) -> Any:
    """What ``data`` says, of a file that anybody may have written.

    Raises:
        ValueError: it is no JSON, no text, or nests deeper than can be read.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
