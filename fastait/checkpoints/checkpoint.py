"""The format of checkpoints: what torch saves, with a checksum at its end, and the ones before the last kept."""

import hashlib
import io
import itertools
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fastait.runtime.errors import InputError
from fastait.runtime.files import PARTIAL, write_whole

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
    comment = _MARK + hashlib.sha256(content).hexdigest().encode()
    return b"".join((content, _LENGTH.pack(len(comment)), comment))


def unpacked(data: bytes) -> dict[str, Any] | None:
    """The state whose bytes ``data`` are, on the CPU; None if they are damaged, or none of this version or before.

    Those of version 3 have no checksum.
    """
    content, mark, checksum = data.rpartition(_MARK)
    summed = bool(mark) and len(checksum) == 2 * hashlib.sha256().digest_size
    if summed and hashlib.sha256(content[: -_LENGTH.size]).hexdigest().encode() != checksum:
        return None
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    # torch raises RuntimeError, UnpicklingError, EOFError, KeyError and others on what it did not write.
    except Exception:
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

    Raises:
        RunError: it cannot be written; the one that was there is unharmed.
    """
    data = packed(state)
    for number in range(keep - 1, 1, -1):
        if before(path, number - 1).exists():
            os.replace(before(path, number - 1), before(path, number))
    if keep > 1 and path.exists():
        _keep(path, before(path, 1))
    write_whole(path, data)


def load(path: Path, note: Callable[[str], None]) -> dict[str, Any] | None:
    """The last checkpoint that is whole; None if there never was one.

    Args:
        path: where the last one lies.
        note: called with a line about one that is damaged, where one before it is taken.

    Raises:
        InputError: there are checkpoints and all are damaged, or one cannot be read.
    """
    damaged = None
    for number in itertools.count():
        file = before(path, number)
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            if number:
                break
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


def _keep(path: Path, as_: Path) -> None:
    """Give the file at ``path`` a second name, so that it is there under one of them at any time."""
    partial = as_.with_name(as_.name + PARTIAL)
    try:
        partial.unlink(missing_ok=True)
        os.link(path, partial)
        os.replace(partial, as_)
    except OSError:  # a file system without links: for the time of the write it is there under the second alone
        os.replace(path, as_)
