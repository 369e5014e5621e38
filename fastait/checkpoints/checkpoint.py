"""The format of checkpoints: what torch saves, with a checksum at its end, and the ones before the last kept."""

import hashlib
import io
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fastait.checkpoints.pickled import Unsafe, unpickled_bytes
from fastait.runtime.errors import InputError
from fastait.runtime.files import PARTIAL, written

FORMAT, FORMAT_WITHOUT_CHECKSUM = "fastait checkpoint 4", "fastait checkpoint 3"

_MARK = b"sha256:"
_LENGTH = struct.Struct("<H")
"""Of a zip archive's comment, in the two bytes before it, which are the last ones where there is none."""


def packed(state: dict[str, Any]) -> bytes:
    """``state``, of tensors, numbers, strings, lists and dicts only, as the bytes of a file.

    They are an archive as ``torch.save`` makes it, whose comment is the checksum of all that stands before it; so
    ``torch.load`` reads it as ever.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    content = buffer.getbuffer()[: -_LENGTH.size]
    return b"".join((content, _closed(content)))


def _closed(content: memoryview) -> bytes:
    """What stands at the end of an archive: the length of its comment, and the comment."""
    comment = _MARK + hashlib.sha256(content).hexdigest().encode()
    return _LENGTH.pack(len(comment)) + comment


def unpacked(data: bytes) -> dict[str, Any] | None:
    """The state whose bytes ``data`` are, on the CPU; None if they are damaged, or none of this version or before.

    Those of version 3 have no checksum.
    """
    content, mark, checksum = data.rpartition(_MARK)
    summed = bool(mark) and len(checksum) == 2 * hashlib.sha256().digest_size
    if summed and _closed(memoryview(content)[: -_LENGTH.size]) != data[len(content) - _LENGTH.size :]:
        return None
    try:
        state = unpickled_bytes(data)
    except (OSError, Unsafe):
        return None
    known = FORMAT if summed else FORMAT_WITHOUT_CHECKSUM
    if not isinstance(state, dict) or state.get("format") != known:
        return None
    return state if summed else _of_now(state)


def _of_now(state: dict[str, Any]) -> dict[str, Any]:
    """What version 3 held, as this one has it."""
    state = dict(state)
    best = state.pop("best", None)
    if best is not None:
        best = {"epoch": best["epoch"], "averaged": False, "pgd10": best["val_pgd10"], "weights": best["weights"]}
    watch = {"best": best, "most": 0.0, "before": None, "collapsed": None}
    return {**state, "watch": watch, "averaged": None}


def save(path: Path, state: dict[str, Any], keep: int) -> None:
    """Make ``state`` the checkpoint at ``path``, and keep those that lay there before, up to ``keep`` in all.

    None of those is given up before the new one is whole and has its name: whichever of them is damaged, and whenever
    this is cut off, a good one is found.

    Raises:
        RunError: it cannot be written; those that were there are unharmed.
    """
    with written(path, packed(state)) as new:
        second = _second_name(path) if keep > 1 and path.exists() else None
        if second is not None:
            os.replace(new, path)
            _make_room(path, keep)
            os.replace(second, before(path, 1))
        else:  # a file system without links: in between the last one is there under its next name alone
            if keep > 1 and path.exists():
                _make_room(path, keep)
                os.replace(path, before(path, 1))
            os.replace(new, path)
        for number in _kept(path):
            if number >= keep:
                before(path, number).unlink()


def load(path: Path, note: Callable[[str], None]) -> dict[str, Any] | None:
    """The last checkpoint that is whole; None if there never was one.

    Args:
        path: where the last one lies.
        note: called with a line about one that is damaged, where one before it is taken.

    Raises:
        InputError: there are checkpoints and all are damaged, or one cannot be read.
    """
    damaged = None
    for number in (0, *_kept(path)):
        file = before(path, number)
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            continue  # a kill between two names
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error.strerror}") from None
        state = unpacked(data)
        if state is not None:
            if damaged is not None:
                note(f"warning: {damaged} is damaged; the run goes on from {file.name}, of step {state['step']}")
            return state
        damaged = damaged or file
    if damaged is not None:
        raise InputError(
            f"{damaged} is truncated, damaged or not a checkpoint of this version, and there is no good one before it; "
            "move it away to begin the run anew"
        )
    return None


def before(path: Path, number: int) -> Path:
    """Where the checkpoint lies that was the last one ``number`` saves ago."""
    return path if number == 0 else path.with_name(f"{path.stem}-{number}{path.suffix}")


def _kept(path: Path) -> list[int]:
    """The numbers of those before the last that are there, the last one first."""
    numbers = (file.stem.removeprefix(f"{path.stem}-") for file in path.parent.glob(f"{path.stem}-*{path.suffix}"))
    return sorted(int(number) for number in numbers if number.isdecimal())


def _make_room(path: Path, keep: int) -> None:
    """Let each of those before the last one be the one before that."""
    for number in range(keep - 1, 1, -1):
        if before(path, number - 1).exists():
            os.replace(before(path, number - 1), before(path, number))


def _second_name(path: Path) -> Path | None:
    """Another name of the file at ``path``; None where files have but one."""
    second = path.with_name(before(path, 1).name + PARTIAL)
    try:
        second.unlink(missing_ok=True)
        os.link(path, second)
    except OSError:
        return None
    return second
