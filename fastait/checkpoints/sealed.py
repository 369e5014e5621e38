"""Safetensors files with a checksum of what they hold, so that damage is known that the format itself does not show.

It stands in the metadata, under ``KEY``, and is of names, types, shapes, bytes and all other metadata: a file that
another program lays out otherwise is still whole. A file without it is somebody else's, or of an older version.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fastait.runtime.errors import words

KEY = "fastait_sha256"
"""Of the checksum in a file's metadata."""


class Damaged(ValueError):
    """A file is no safetensors file, or not what it was written as; its text says which, in a few words."""


def sealed(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file with its checksum, the same bytes for the same content.

    Args:
        tensors: on the CPU; views, and such as share memory, too.
        metadata: texts, without ``KEY``.
    """
    data = save(_separate(tensors), dict(metadata))
    header, content = _parted(data)
    header["__metadata__"] = dict(sorted(metadata.items()))  # the library has an order of its own each time
    header["__metadata__"][KEY] = _checksum(header, content)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, content))


def opened(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file and its metadata without the checksum.

    Raises:
        Damaged: it is no safetensors file, or its checksum is of something else.
    """
    try:
        tensors = load(data)
        header, content = _parted(data)
        metadata = dict(header.get("__metadata__") or {})
        if any(map(_is_like_key, metadata)) and metadata.get(KEY) != _checksum(header, content):
            raise Damaged(f"it has been damaged or changed since it was written: its {KEY} is of something else")
    # A file whose header lies makes torch raise too.
    except (SafetensorError, RuntimeError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise error if isinstance(error, Damaged) else Damaged(words(error, 200)) from None
    metadata.pop(KEY, None)
    return tensors, metadata


def is_whole(path: Path) -> bool:
    """Whether the file at ``path`` can be read and is what it was written as, as far as it says so."""
    try:
        opened(path.read_bytes())
    except (OSError, Damaged):
        return False
    return True


def _parted(data: bytes) -> tuple[dict[str, Any], memoryview]:
    """The header, and what its offsets count in."""
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), memoryview(data)[8 + size :]


def _checksum(header: Mapping[str, Any], content: memoryview) -> str:
    metadata = {key: value for key, value in (header.get("__metadata__") or {}).items() if key != KEY}
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(header.keys() - {"__metadata__"}):
        about = header[name]
        start, end = about["data_offsets"]
        digest.update(json.dumps([name, about["dtype"], about["shape"]]).encode())
        digest.update(content[start:end])
    return digest.hexdigest()


def _is_like_key(name: str) -> bool:
    """Whether ``name`` is ``KEY``, perhaps with bits flipped: a damaged file is no file without a checksum."""
    return len(name) == len(KEY) and 2 * sum(a == b for a, b in zip(name, KEY, strict=True)) > len(KEY)


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous ones of which no two share memory, as tied weights do: the library refuses those."""
    separate: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.contiguous()
        place = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return separate
