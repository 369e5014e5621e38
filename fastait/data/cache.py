"""Decoded splits, kept beside their source, or in a folder of their own, so that they are decoded once.

A split's pixels lie in a file of their own, as they are in memory, and are mapped rather than read. A JSON file beside
it says what they were decoded from and holds checksums of itself and of the pixels, so a file that is half-written,
damaged or of another source is not used but replaced.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastait.data.decode import Contents, Decoded, Split, decode, quiet
from fastait.data.files import is_within
from fastait.runtime.errors import InputError, RunError, one_line
from fastait.runtime.files import PARTIAL, json_of, write_whole
from fastait.runtime.settings import as_path

CACHE = ".fastait-cache"
"""The name of a folder of what is kept beside its source."""

VARIABLE = "FASTAIT_CACHE"
"""The environment variable that names a folder for what is made of any source."""

FORMAT = 2


@dataclass(frozen=True)
class Request:
    """How a split is to be decoded; see ``decode``.

    Attributes:
        size: height and width.
        skip_bad: whether bad images are left out.
        formats: the file formats that are good; all if None.
        keep: whether the pixels are wanted, or only what is to be known of them.
    """

    size: int
    skip_bad: bool = False
    formats: Collection[str] | None = None
    keep: bool = True


def chosen(cache_dir: Path | None) -> Path | None:
    """The folder of caches of their own: ``cache_dir``, or what the environment names; None to keep them beside."""
    named = os.environ.get(VARIABLE)
    return cache_dir or (as_path(VARIABLE, named) if named else None)


def place(kind: str, root: Path, cache_dir: Path | None) -> Path:
    """The folder of what is made of the set ``root``, told from whatever is made of another set or kind."""
    own = chosen(cache_dir)
    if own is None:
        return root / CACHE / kind
    return own / f"{kind}-{hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:32]}"


def refuse_within(cache_dir: Path | None, folders: Collection[Path]) -> None:
    """Raise InputError if caches of their own would lie in one of ``folders``, whose files are all taken for images."""
    own = chosen(cache_dir)
    for folder in folders:
        if own is not None and is_within(own, folder):
            raise InputError(
                f"--cache-dir (or {VARIABLE}) {one_line(own)} lies in {one_line(folder)}, where every file must be an "
                "image; choose another folder"
            )


def load(
    split: Split, request: Request, folder: Path | None, note: Callable[[str], None]
) -> tuple[Decoded, Tensor | None]:
    """Decode ``split``, or take what was decoded before.

    Args:
        split: what to decode.
        request: how.
        folder: the cache's; None for none.
        note: called with a line if the cache is damaged or cannot be written.

    Returns:
        What was found, and the pixels as uint8 [N, size, size, 3] if they are wanted; not to be written to.

    Raises:
        InputError: as ``decode``.
    """
    if folder is None:
        return _in_memory(split.open(), request)
    cache = _Cache(folder, split, request)
    found = cache.read(note)
    if found is not None:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w")  # noqa: SIM115
        fcntl.lockf(lock, fcntl.LOCK_EX)  # of processes that need the same split, one decodes it
    except OSError as error:
        note(f"{folder} cannot be written ({error.strerror}), so the {split.name} images are decoded at every start")
        return _in_memory(split.open(), request)
    with lock:
        found = cache.read()
        if found is not None:
            return found
        try:
            return cache.fill(split.open())
        except (OSError, RunError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            note(
                f"{cache.pixels_file} cannot be written ({why}), so the {split.name} images are decoded at every start"
            )
            return _in_memory(split.open(), request)


class _Cache:
    def __init__(self, folder: Path, split: Split, request: Request):
        stem = f"{split.name}-{request.size}px" + ("" if request.keep else "-checked")
        self.pixels_file = folder / f"{stem}.u8"
        self.about_file = folder / f"{stem}.json"
        self.name = split.name
        self.request = request
        self.key = {"format": FORMAT, "source": split.source, "formats": sorted(request.formats or ())}

    def read(self, note: Callable[[str], None] = lambda text: None) -> tuple[Decoded, Tensor | None] | None:
        """What was decoded before from the same source, if it is whole and has no images that are bad now."""
        try:
            file = json_of(self.about_file.read_bytes())
            about = file["about"]
            if file["checksum"] != _text_checksum(about):
                raise ValueError("its checksum is wrong")
            if about["key"] != self.key:
                return None
            decoded = _from_json(about["decoded"])
            pixels = _map(self.pixels_file, len(decoded.labels), self.request.size) if self.request.keep else None
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            note(f"{self.about_file} is damaged ({error}), so the {self.name} images are decoded again")
            return None
        if pixels is not None and _checksum(pixels, decoded.labels) != decoded.checksum:
            note(f"{self.pixels_file} is damaged, so the {self.name} images are decoded again")
            return None
        return None if decoded.skipped and not self.request.skip_bad else (decoded, pixels)

    def fill(self, contents: Contents) -> tuple[Decoded, Tensor | None]:
        """Decode and keep. To be called under the lock.

        Raises:
            OSError, RunError: the disk has no room or cannot be written.
        """
        for left in self.pixels_file.parent.glob(f"*{PARTIAL}"):  # of a process that was killed
            left.unlink()
        size, pixels = self.request.size, None
        partial = self.pixels_file.with_name(self.pixels_file.name + PARTIAL)
        try:
            room = _allocate(partial, contents.count, size) if self.request.keep else None
            decoded = _decode(contents, self.request, room)
            if room is not None:
                room.flush()
                os.truncate(partial, len(decoded.labels) * 3 * size**2)
                os.replace(partial, self.pixels_file)
                pixels = _map(self.pixels_file, len(decoded.labels), size)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise
        about = {"key": self.key, "decoded": asdict(decoded)}
        write_whole(self.about_file, json.dumps({"about": about, "checksum": _text_checksum(about)}).encode())
        return decoded, pixels


def _in_memory(contents: Contents, request: Request) -> tuple[Decoded, Tensor | None]:
    if not request.keep:
        return _decode(contents, request, None), None
    pixels = np.empty((contents.count, request.size, request.size, 3), dtype=np.uint8)
    decoded = _decode(contents, request, pixels)
    return decoded, torch.from_numpy(pixels[: len(decoded.labels)])


def _decode(contents: Contents, request: Request, pixels: np.ndarray | None) -> Decoded:
    return decode(contents, request.size, pixels, skip_bad=request.skip_bad, formats=request.formats)


def _allocate(path: Path, count: int, size: int) -> np.memmap:
    """A new file of ``count`` images, all of its blocks taken: writing to a mapping of a full disk would kill us."""
    with open(path, "w+b") as file:
        os.posix_fallocate(file.fileno(), 0, count * 3 * size**2)
        return np.memmap(file, np.uint8, "r+", shape=(count, size, size, 3))


def _map(path: Path, count: int, size: int) -> Tensor:
    """The file's pixels; only what is used is read, and processes share it."""
    pixels = np.memmap(path, np.uint8, "r", shape=(count, size, size, 3))
    with quiet():
        return torch.from_numpy(pixels)


def _checksum(pixels: Tensor, labels: list[int]) -> str:
    digest = hashlib.sha256(pixels.numpy().data)
    digest.update(np.asarray(labels, dtype=np.int64).data)
    return digest.hexdigest()


def _text_checksum(about: dict[str, Any]) -> str:
    # Keys are text in a file, as those of ``skipped`` are not before it is written.
    return hashlib.sha256(json.dumps(json.loads(json.dumps(about)), sort_keys=True).encode()).hexdigest()


def _from_json(values: dict[str, Any]) -> Decoded:
    return Decoded(
        values["labels"],
        tuple(values["classes"]),
        values["checksum"],
        {int(place): why for place, why in values["skipped"].items()},
        values["sizes"],
    )
