"""What has been computed, a line per batch, so that a killed evaluation goes on where it was.

A line is {"unit": a model, images and a setting as JSON; "places": [[first, count], ...] of the batch in the images;
"found": {column: a number for each place}; "sums": {what is summed over the batch: numbers}; "crc": of all that}. What
is known of an image does not depend on the batches that it was measured in: later lines add to earlier ones, and win
where they disagree. A line that is damaged is as if it had not been written, so that its batch is measured again; lines
of older versions have no checksum.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from fastait.data import ImageSet
from fastait.evaluation.sums import Numbers
from fastait.runtime.errors import InputError, NotWritten
from fastait.runtime.files import json_of
from fastait.runtime.places import places_of, runs

Finding = tuple[list[int], dict[str, list[int]]]
"""Places in a set of images, and what was found of each: {column, or "queries of" column: a number per place}."""


_CRC = "crc"
_KEYS = {"unit", "places", "found", "sums", _CRC}

_MOST = 2**62
"""What a place or a number can be: a tensor holds it."""


class FileJournal:
    """A file of JSON lines, to which each finished batch is appended and synced. A line cut short or
    damaged is passed over.

    Args:
        folder: where it lies; each of several processes writes a file of its own there and reads all.
        name: of this process's file: its rank, or a worker's name.
        anywhere: parts of a unit that need not be the same where something is read.
        check: called before anything is written; may raise to prevent it.

    Raises:
        InputError: the folder cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        name: int | str = 0,
        anywhere: Collection[str] = (),
        check: Callable[[], None] = lambda: None,
    ):
        self._check = check
        self._path = folder / f"progress-{name}.jsonl"
        self._anywhere = anywhere
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._known: dict[str, list[Finding]] = {}
            self._sums: dict[str, list[Numbers]] = {}
            for unit, finding, sums in _entries(folder):
                key = self._index(json.loads(unit)) if anywhere else unit
                self._known.setdefault(key, []).append(finding)
                self._sums.setdefault(key, []).append(sums)
            self._file = open(self._path, "ab")  # noqa: SIM115
            if self._file.tell() and not self._path.read_bytes().endswith(b"\n"):
                self._file.write(b"\n")
        except OSError as error:
            raise InputError(f"--out {folder} cannot be used: {error.strerror}") from None

    def close(self) -> None:
        """End writing; a file that nothing was written to goes."""
        self._file.close()
        with suppress(OSError):
            if not self._path.stat().st_size:
                self._path.unlink()

    def _index(self, unit: dict[str, Any]) -> str:
        return _key({name: value for name, value in unit.items() if name not in self._anywhere})

    def of(self, **subject: Any) -> "ModelJournal":
        """The journal of one model on one set of images, which ``subject`` identifies."""
        return ModelJournal(self, subject)

    def get(self, unit: dict[str, Any]) -> list[Finding]:
        """See ``Journal``."""
        return list(self._known.get(self._index(unit), ()))

    def sums(self, unit: dict[str, Any]) -> list[Numbers]:
        """See ``Journal``."""
        return list(self._sums.get(self._index(unit), ()))

    def put(
        self, unit: dict[str, Any], places: Sequence[int], found: dict[str, list[int]], sums: Numbers | None = None
    ) -> None:
        """See ``Journal``.

        Raises:
            NotWritten: the disk is full, and what was written before is unharmed; or the file was removed.
        """
        self._check()
        key, numbers = self._index(unit), {name: [int(v) for v in values] for name, values in found.items()}
        self._known.setdefault(key, []).append((list(places), numbers))
        line: dict[str, Any] = {"unit": _key(unit), "places": runs(places), "found": numbers}
        if sums:
            self._sums.setdefault(key, []).append(sums)
            line["sums"] = sums
        try:
            self._file.write(json.dumps({**line, _CRC: _crc(line)}, separators=(",", ":")).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise NotWritten(f"{self._path} could not be written: {error.strerror}; earlier batches are kept") from None
        if not self._is_there():
            raise NotWritten(
                f"{self._path} was removed or replaced while batches were written to it; what it held is measured "
                "again by the same command"
            )

    def _is_there(self) -> bool:
        """Whether what is written can be found by its name."""
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._file.fileno()))
        except OSError:
            return False


class ModelJournal:
    """A ``Journal`` whose units are those of one model on one set of images."""

    def __init__(self, journal: FileJournal, subject: dict[str, Any]):
        self._journal = journal
        self._subject = subject

    def get(self, unit: dict[str, Any]) -> list[Finding]:
        """See ``Journal``."""
        return self._journal.get({**self._subject, **unit})

    def sums(self, unit: dict[str, Any]) -> list[Numbers]:
        """See ``Journal``."""
        return self._journal.sums({**self._subject, **unit})

    def put(
        self, unit: dict[str, Any], places: Sequence[int], found: dict[str, list[int]], sums: Numbers | None = None
    ) -> None:
        """See ``Journal``."""
        self._journal.put({**self._subject, **unit}, places, found, sums)


class Recorded:
    """What the journals in a folder have, read on as others write.

    Args:
        folder: of the journals; it need not be there yet.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._read: dict[Path, int] = {}
        self._found: dict[str, tuple[dict[str, Any], list[Finding]]] = {}

    def units(self) -> list[tuple[dict[str, Any], list[Finding]]]:
        """(a unit, what was known of it at the last ``read``, the oldest line of each file first)."""
        return list(self._found.values())

    def read(self) -> None:
        """Take up what has been written since.

        Raises:
            OSError: a file cannot be read.
        """
        for path in sorted(self._folder.glob("progress-*.jsonl")):
            text = b""
            with suppress(FileNotFoundError), open(path, "rb") as file:  # one that stayed empty has gone
                file.seek(self._read.get(path, 0))
                text = file.read()
            whole = text.rfind(b"\n") + 1  # what is being written is read the next time
            self._read[path] = self._read.get(path, 0) + whole
            for unit, finding, _ in _lines(text[:whole]):
                self._found.setdefault(unit, (json.loads(unit), []))[1].append(finding)


def _entries(folder: Path) -> Iterator[tuple[str, Finding, Numbers]]:
    """(a unit as JSON, what was found, what is summed) of each line that can be read."""
    for path in sorted(folder.glob("progress-*.jsonl")):
        with suppress(FileNotFoundError):  # one that stayed empty has gone
            yield from _lines(path.read_bytes())


def _lines(text: bytes) -> Iterator[tuple[str, Finding, Numbers]]:
    for line in text.split(b"\n"):
        try:
            yield _parsed(line)
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
            continue


def _parsed(line: bytes) -> tuple[str, Finding, Numbers]:
    """A line's unit and what it says; raises something of many kinds where it is none."""
    entry = json_of(line)
    if not entry.keys() <= _KEYS or entry.pop(_CRC, None) not in (None, _crc(entry)):
        raise ValueError("the line is damaged")  # of another key, perhaps the checksum's
    unit, found = dict(json_of(entry["unit"])), entry["found"]
    # Units of version 0.2 were batches.
    pieces = entry["places"] if "places" in entry else [(unit.pop("first"), unit.pop("size"))]
    pieces = [(int(first), int(count)) for first, count in pieces]
    images = sum(count for _, count in pieces)
    fits = found and min(map(min, pieces)) >= 0 and all(len(values) == images for values in found.values())
    if not fits or max(map(sum, pieces)) > _MOST:
        raise ValueError("not a number for each place")
    findings = {name: [int(v) for v in values] for name, values in found.items()}
    if any(abs(v) > _MOST for values in findings.values() for v in values):
        raise ValueError("no number that is found of an image")
    sums = {str(name): [float(v) for v in values] for name, values in dict(entry.get("sums", {})).items()}
    return _key(unit), (places_of(pieces), findings), sums


def weights_checksum(model: nn.Module) -> str:
    """SHA-256 of a model's parameters and buffers, and of their names."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).data)
    return digest.hexdigest()


def images_checksum(images: ImageSet) -> str:
    """SHA-256 of images and labels."""
    digest = hashlib.sha256(np.ascontiguousarray(images.images.numpy()).data)
    digest.update(np.ascontiguousarray(images.labels.numpy()).data)
    return digest.hexdigest()


def _key(unit: dict[str, Any]) -> str:
    return json.dumps(unit, sort_keys=True)


def _crc(line: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(line, sort_keys=True).encode())
