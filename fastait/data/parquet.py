"""Parquet files in the image layout of the Hugging Face hub."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastait.data.decode import Contents, Item, Split, fingerprint
from fastait.errors import InputError

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "fine_label")
ROWS = 1024
"""Rows that are read at a time."""


def parquet_splits(root: Path) -> list[Split]:
    """The training and the test split: the files ``train*.parquet`` and ``test*.parquet`` of one folder below ``root``.

    A file has a column ``img`` or ``image``, a struct with the encoded image as ``bytes`` (or the bytes themselves),
    and a column ``label`` or ``fine_label`` of integers. Classes are named as the hub's metadata does, and by their
    numbers where there is none.

    Raises:
        InputError: pyarrow is not installed, or a file is missing, truncated or of another layout.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--dataset parquet: pyarrow cannot be imported ({error}); pip install 'fastait[parquet]'"
        ) from None
    try:
        if not root.is_dir():
            raise InputError(f"--data-dir {root}: no such folder")
        files = {name: _files(root, name) for name in ("train", "test")}
        sources = {name: fingerprint(root, found) for name, found in files.items()}
    except OSError as error:
        raise InputError(f"--data-dir {root} cannot be read: {error.strerror} ({error.filename})") from None
    # Without metadata the training labels alone say how many classes there are, so they are part of both sources.
    return [
        Split("train", sources["train"], lambda: _open(files["train"], files["train"])),
        Split("test", sources["train"] + sources["test"], lambda: _open(files["test"], files["train"])),
    ]


def _files(root: Path, split: str) -> list[Path]:
    found = sorted(path for path in root.rglob(f"{split}*.parquet") if path.is_file())
    if not found:
        raise InputError(f"{root} holds no {split}*.parquet, nor does a folder below it")
    folders = sorted({str(path.parent) for path in found})
    if len(folders) > 1:
        raise InputError(f"{split}*.parquet lies in several folders; give one as --data-dir: {', '.join(folders)}")
    for path in found:
        part = re.search(r"(.*)-\d+-of-(\d+)", path.stem)
        if part and len(list(path.parent.glob(f"{part[1]}-*-of-{part[2]}.parquet"))) != int(part[2]):
            raise InputError(f"{path.parent} does not hold all {int(part[2])} of {part[1]}-*-of-{part[2]}.parquet")
    return found


def _open(files: list[Path], training_files: list[Path]) -> Contents:
    count = 0
    for path in files:
        with _opened(path) as file:
            count += file.metadata.num_rows
    if not count:
        raise InputError(f"{files[0]} holds no rows")
    classes = _classes(training_files)
    for path in files:
        with _opened(path) as file:
            names = _names(file.schema_arrow.metadata or {}, _columns(file, path)[1])
        if names and names != classes:
            raise InputError(f"{path} names its classes {', '.join(names)}, {training_files[0]} {', '.join(classes)}")
    return Contents(count, classes, _items(files))


def _items(files: list[Path]) -> Iterator[Item]:
    for path in files:
        row = 0
        with _opened(path) as file:
            image, label = _columns(file, path)
            for batch in file.iter_batches(ROWS, columns=[image, label]):
                for content, number in zip(batch[image].to_pylist(), batch[label].to_pylist(), strict=True):
                    inside = content.get("path") if isinstance(content, dict) else None
                    encoded = content.get("bytes") if isinstance(content, dict) else content
                    # Without bytes it is an image that cannot be read, and is refused or left out as such.
                    yield Item(f"{path} row {row}" + (f" ({inside})" if inside else ""), number, encoded or b"")
                    row += 1


def _columns(file: Any, path: Path) -> tuple[str, str]:
    import pyarrow as pa

    schema = file.schema_arrow
    image = next((name for name in IMAGE_COLUMNS if schema.names.count(name) == 1), None)
    label = next((name for name in LABEL_COLUMNS if schema.names.count(name) == 1), None)
    if image is None or label is None:
        raise InputError(
            f"{path} has the columns {', '.join(schema.names)}; needed are {' or '.join(IMAGE_COLUMNS)} "
            f"and {' or '.join(LABEL_COLUMNS)}"
        )
    kind = schema.field(image).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)):
        raise InputError(f"{path}: column {image} must hold encoded images as bytes, but is {schema.field(image).type}")
    if not pa.types.is_integer(schema.field(label).type):
        raise InputError(f"{path}: column {label} must hold integers, but is {schema.field(label).type}")
    return image, label


def _classes(files: list[Path]) -> tuple[str, ...]:
    """The names in the hub's metadata of the first file, or the numbers up to the largest label of all."""
    largest = -1
    for path in files:
        with _opened(path) as file:
            _, label = _columns(file, path)
            names = _names(file.schema_arrow.metadata or {}, label)
            if names:
                return names
            for batch in file.iter_batches(ROWS, columns=[label]):
                largest = max([largest, *(value for value in batch[label].to_pylist() if value is not None)])
    return tuple(str(number) for number in range(largest + 1))


def _names(metadata: dict[bytes, bytes], label: str) -> tuple[str, ...]:
    try:
        return tuple(str(name) for name in json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"])
    except (KeyError, ValueError, TypeError):
        return ()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is truncated or no parquet file: {' '.join(str(error).split())[:200]}") from None
