"""What torch saved, of whomever: no code of theirs runs, and it takes no more memory than it holds."""

import io
import threading
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from fastait.runtime.errors import words

MOST_SHARED = 4
"""How many times a file's size its tensors may have together: several may be of the same numbers, as tied weights."""


class _Kind:
    """In the place of numpy's types of numbers, of which a file could ask for one of any size."""

    def __init__(self, *arguments: object):
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _number(*arguments: object) -> None:
    """In the place of numpy's numbers, such as an accuracy beside the weights, which nobody asks for."""


_STAND_INS: list[Any] = [
    (_Kind, "numpy.dtype"),
    *((_number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),  # of numpy 1 and 2
]

_SAFE_GLOBALS = threading.Lock()
"""torch keeps one list of them for all threads."""


class Unsafe(ValueError):
    """It is nothing that torch saved, or more than tensors and numbers; its text says which, in a few words."""


def unpickled(path: Path) -> Any:
    """What torch saved into a file: tensors, on the CPU, numbers and texts, in lists and dictionaries.

    Raises:
        Unsafe: it is nothing such, or says that it holds more than it does.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        _refuse_compressed(file, size := path.stat().st_size)
    return _loaded(path, size)


def unpickled_bytes(data: bytes) -> Any:
    """The same of a file's content.

    Raises:
        Unsafe: as ``unpickled``.
    """
    _refuse_compressed(io.BytesIO(data), len(data))
    return _loaded(io.BytesIO(data), len(data))


def _loaded(source: Path | IO[bytes], size: int) -> Any:
    try:
        with _SAFE_GLOBALS, torch.serialization.safe_globals(_STAND_INS):
            content = torch.load(source, map_location="cpu", weights_only=True)
    except OSError:
        raise
    # torch raises RuntimeError, UnpicklingError, EOFError, KeyError and others on what it did not write.
    except Exception as error:
        if "weights_only" in str(error):
            raise Unsafe(
                "it holds more than tensors and numbers; a whole model's state_dict() can be saved instead"
            ) from None
        raise Unsafe(type(error).__name__) from None
    _refuse_claims(content, size)
    return content


def _refuse_compressed(file: IO[bytes], size: int) -> None:
    """torch compresses nothing, so the parts of an archive of its are no larger than the archive."""
    if file.read(2) != b"PK":
        return
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(part.file_size for part in archive.infolist())
    # zipfile raises what its decoders do on damaged archives: BadZipFile, struct.error, UnicodeDecodeError, ...
    except Exception as error:
        raise Unsafe(f"its archive is damaged: {words(error, 100)}") from None
    if unpacked > size:
        raise Unsafe(f"its archive of {size:,} bytes would become {unpacked:,}")


def _refuse_claims(content: Any, size: int) -> None:
    """A tensor of a small file may say that it is large: by strides of 0, or in memory that nothing was written to."""
    tables, seen, claimed = [content], set[int](), 0
    while tables:
        table = tables.pop()
        if isinstance(table, dict) and id(table) not in seen:
            seen.add(id(table))
            tables += table.values()
        elif isinstance(table, Tensor) and table.layout == torch.strided:
            claimed += table.numel() * table.element_size()
    if claimed > MOST_SHARED * size:
        raise Unsafe(f"its tensors would be {claimed:,} bytes, the file has {size:,}")
