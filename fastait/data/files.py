"""Files that images come in: which there are, whether they have changed, and what is no file."""

import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path

TICK = 10_000_000
"""Nanoseconds between two ticks of the clock that file systems take their times from, at most."""

LASTING = {errno.EACCES, errno.EPERM, errno.ELOOP}
"""Errors of the file itself. Others (too many open files, a disk that does not answer) may pass."""

STAND_INS = ("val", "valid", "validation")
"""What the part of a set is called that is tested on where there is no ``test``; the first one that there is."""

_KINDS = {
    stat.S_IFIFO: "is a named pipe, not a file",
    stat.S_IFSOCK: "is a socket, not a file",
    stat.S_IFCHR: "is a device, not a file",
    stat.S_IFBLK: "is a device, not a file",
}


def walk(folder: Path) -> list[Path]:
    """The files in ``folder`` and in the folders below it, in the order of torchvision's ``ImageFolder``.

    Links are followed; hidden files and folders are passed over. What is no file but may stand for some (a broken link,
    a pipe, a folder that may not be read, a link to a folder that it lies in) is listed too, and ``why_no_file`` says
    what it is, so that nothing is left out without a word.

    Raises:
        OSError: a folder cannot be read for a reason that may pass.
    """
    found: list[tuple[str, str]] = []
    real: dict[str, tuple[str, ...]] = {
        str(folder): (os.path.realpath(folder),)
    }  # of a folder and of those it was reached through

    def unreadable(error: OSError) -> None:
        if error.errno not in LASTING:
            raise error
        found.append((str(Path(error.filename).parent), Path(error.filename).name))

    for parent, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        through = real[parent]
        for name in list(folders):
            path = os.path.join(parent, name)
            own = os.path.realpath(path)
            circle = os.path.islink(path) and any(_lies_in(other, own) for other in through)
            if circle and not name.startswith("."):
                found.append((parent, name))
            if circle or name.startswith("."):
                folders.remove(name)
            real[path] = (*through, own)
        found += [(parent, name) for name in files if not name.startswith(".")]
    return [Path(parent, name) for parent, name in sorted(found)]


def _lies_in(path: str, folder: str) -> bool:
    return (path + os.sep).startswith(folder.rstrip(os.sep) + os.sep)


def is_within(path: Path, folder: Path) -> bool:
    """Whether ``walk(folder)`` would come to ``path``."""
    inside, outside = os.path.realpath(path), os.path.realpath(folder)
    return _lies_in(inside, outside) and not any(
        part.startswith(".") for part in Path(inside).relative_to(outside).parts
    )


def why_no_file(path: Path) -> str | None:
    """Why ``path``, which ``walk`` found, is no file that could be read; None if it may be one.

    Raises:
        OSError: it cannot be told, for a reason that may pass.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno == errno.ENOENT and path.is_symlink():
            return "is a broken link"
        if error.errno in LASTING:
            return f"cannot be read: {error.strerror}"
        raise
    if stat.S_ISDIR(mode):
        return "is a link to a folder that it lies in" if path.is_symlink() else "is a folder that cannot be read"
    return _KINDS.get(stat.S_IFMT(mode))


def fingerprint(root: Path, files: Iterable[Path]) -> str:
    """A text that changes when one of ``files``, below ``root``, is renamed, added, removed, replaced or written to.

    Sizes and modification times do not tell: an archive may set the times of all its files alike. The time of the last
    change is the system's own and nobody can set it back; the inode tells files apart that a link pointed to.
    """
    digest = hashlib.sha256()
    newest = 0
    for path in files:
        try:
            about = path.stat()
        except OSError as error:  # a broken link, say, which may be mended
            digest.update(repr((str(path.relative_to(root)), error.errno)).encode())
            continue
        newest = max(newest, about.st_ctime_ns)
        readable = os.access(path, os.R_OK, effective_ids=True)  # for some users of a cache and not for others
        known = (about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino, readable)
        digest.update(repr((str(path.relative_to(root)), *known)).encode())
    # What is written from now on must have another time than what was written just now.
    wait = newest + TICK - time.time_ns()
    if 0 < wait <= TICK:
        time.sleep(wait / 1e9)
    return digest.hexdigest()
