"""What has been computed, a line per batch, so that a killed evaluation goes on where it was."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from fastait.data import ImageSet
from fastait.runtime.errors import InputError, RunError


class FileJournal:
    """A file of JSON lines, to which each finished batch is appended and synced. A line cut short is passed over.

    Args:
        folder: where it lies; each of several processes writes a file of its own there and reads all.
        rank: of this process.

    Raises:
        InputError: the folder cannot be used.
    """

    def __init__(self, folder: Path, rank: int = 0):
        self._known: dict[str, dict[str, list[int]]] = {}
        self._path = folder / f"progress-{rank}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path in sorted(folder.glob("progress-*.jsonl")):
                for line in path.read_bytes().split(b"\n"):
                    self._take(line)
            self._file = open(self._path, "ab")  # noqa: SIM115
            if self._file.tell() and not self._path.read_bytes().endswith(b"\n"):
                self._file.write(b"\n")
        except OSError as error:
            raise InputError(f"--out {folder} cannot be used: {error.strerror}") from None

    def _take(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            self._known.setdefault(entry["unit"], {}).update(entry["found"])
        except (ValueError, KeyError, TypeError, AttributeError):
            pass

    def close(self) -> None:
        """End writing."""
        self._file.close()

    def of(self, **subject: Any) -> "ModelJournal":
        """The journal of one model on one set of images, which ``subject`` identifies."""
        return ModelJournal(self, subject)

    def get(self, unit: dict[str, Any]) -> dict[str, list[int]]:
        """See ``Journal``."""
        return dict(self._known.get(_key(unit), {}))

    def put(self, unit: dict[str, Any], found: dict[str, list[int]]) -> None:
        """See ``Journal``.

        Raises:
            RunError: the disk is full; what was written before is unharmed.
        """
        key, numbers = _key(unit), {name: [int(v) for v in values] for name, values in found.items()}
        self._known.setdefault(key, {}).update(numbers)
        try:
            self._file.write(json.dumps({"unit": key, "found": numbers}).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise RunError(f"{self._path} could not be written: {error.strerror}; earlier batches are kept") from None


class ModelJournal:
    """A ``Journal`` whose units are those of one model on one set of images."""

    def __init__(self, journal: FileJournal, subject: dict[str, Any]):
        self._journal = journal
        self._subject = subject

    def get(self, unit: dict[str, Any]) -> dict[str, list[int]]:
        """See ``Journal``."""
        return self._journal.get({**self._subject, **unit})

    def put(self, unit: dict[str, Any], found: dict[str, list[int]]) -> None:
        """See ``Journal``."""
        self._journal.put({**self._subject, **unit}, found)


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
