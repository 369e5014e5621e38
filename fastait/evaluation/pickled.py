"""Files that torch saved, of other people: no code of theirs runs, and they claim no more memory than they hold."""

import threading
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastait.runtime.errors import InputError

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


def unpickled(path: Path) -> Any:
    """What torch saved into the file at ``path``: tensors on the CPU, numbers, texts, in lists and dictionaries.

    Raises:
        InputError: it cannot be read, holds anything else, or says that it holds more than it does.
    """
    try:
        size = path.stat().st_size
        _refuse_compressed(path, size)
        with _SAFE_GLOBALS, torch.serialization.safe_globals(_STAND_INS):
            content = torch.load(path, map_location="cpu", weights_only=True)
        _refuse_claims(content, size)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    # torch raises RuntimeError, UnpicklingError, EOFError, KeyError and others on files that it did not write.
    except Exception as error:
        why = type(error).__name__
        if "weights_only" in str(error):
            why = "it holds more than tensors and numbers; a whole model's state_dict() can be saved instead"
        elif isinstance(error, _Claims):
            why = str(error)
        raise InputError(f"{path} is no file of weights that can be loaded safely: {why}") from None
    return content


class _Claims(Exception):
    pass


def _refuse_compressed(path: Path, size: int) -> None:
    """torch compresses nothing, so the parts of an archive of its are no larger than the archive."""
    with open(path, "rb") as file:
        if file.read(2) != b"PK":
            return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(part.file_size for part in archive.infolist())
    if unpacked > size:
        raise _Claims(f"its archive of {size:,} bytes would become {unpacked:,}")


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
        raise _Claims(f"its tensors would be {claimed:,} bytes, the file has {size:,}")
