"""Parquet files in the image layout of the Hugging Face hub."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from fastait.data.decode import BadImage, Contents, Item, Split
from fastait.data.files import STAND_INS, fingerprint, walk, why_no_file
from fastait.data.names import spelling
from fastait.runtime.errors import InputError, one_line, words
from fastait.runtime.files import json_of

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "fine_label")
TRAIN_FILES, TEST_FILES = "train*.parquet", "test*.parquet"
ROWS, ROWS_OF_IMAGES = 1024, 64
"""Rows that are read at a time."""

MOST_PACKED = 100
"""How many times the bytes that it has in the file a column of images may have once it is unpacked, from 64 MiB on:
encoded images hardly become smaller."""

MOST_CLASSES = 100_000
"""A label from here on is no class, where nothing names the classes: it would make that many."""


@dataclass(frozen=True)
class Layout:
    """Where the images are; None for the hub's usual names.

    Attributes:
        image_column: the column of the encoded images.
        label_column: the column of the labels.
        train_files: a pattern of the training files' names, or of the ends of their paths.
        test_files: of the test files'.
    """

    image_column: str | None = None
    label_column: str | None = None
    train_files: str | None = None
    test_files: str | None = None


def parquet_splits(
    root: Path,
    layout: Layout | None = None,
    *,
    skip_bad: bool = False,
    needs_train: bool = True,
    note: Callable[[str], None] = lambda text: None,
) -> tuple[Split | None, Split]:
    """The training and the test split: the files ``train*.parquet`` and ``test*.parquet`` of one folder below ``root``.

    A file has a column ``img`` or ``image``, a struct with the encoded image as ``bytes`` (or the bytes themselves),
    and a column ``label`` or ``fine_label`` of integers. Classes are named as the hub's metadata does, and by their
    numbers where there is none. Where no file is called ``test``, those called ``val``, ``valid`` or ``validation``
    are taken.

    Args:
        root: the folder.
        layout: other names of columns and files.
        skip_bad: also take the whole numbers of a column of floating-point labels, which labels become where some are
            missing.
        needs_train: if not, the training files may be missing; the test files then say what the classes are.
        note: called with a line if there is a stand-in, or training files are tested on.

    Raises:
        InputError: pyarrow is not installed, or a file is missing, truncated or of another layout.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--dataset parquet: pyarrow cannot be imported ({error}); pip install 'fastait[parquet]'"
        ) from None
    layout = layout or Layout()
    try:
        if not root.is_dir():
            raise InputError(f"--data-dir {one_line(root)}: no such folder")
        next(os.scandir(root), None)  # or an error, which below is of the folders in it alone
        below = walk(root)
        train = _matching(root, below, layout.train_files, "--train-files", TRAIN_FILES)
        test = _matching(root, below, layout.test_files, "--test-files", TEST_FILES)
        if not test and layout.test_files is None:
            test = _stand_in(below)
            if test:
                note(
                    f"{one_line(root)} holds no {TEST_FILES}, so the test images are those of {one_line(test[0].name)}"
                )
        if train or needs_train:
            _check_files(root, train, layout.train_files, TRAIN_FILES)
        _check_files(root, test, layout.test_files, TEST_FILES)
        sources = [f"{layout} {skip_bad} {fingerprint(root, found)}" for found in (train, test)]
    except OSError as error:
        raise InputError(
            f"--data-dir {one_line(root)} cannot be read: {error.strerror} ({one_line(error.filename)})"
        ) from None
    if both := sorted({path.resolve() for path in train} & {path.resolve() for path in test}):
        note(f"warning: training images are tested on: {', '.join(one_line(path.name) for path in both)}")
    open_ = _Opener(layout, skip_bad, train or test)
    # Without metadata the training labels alone say how many classes there are, so they are part of both sources.
    return (
        Split("train", sources[0], lambda: open_(train)) if train else None,
        Split("test", sources[0] + sources[1], lambda: open_(test)),
    )


def _matching(root: Path, below: list[Path], pattern: str | None, flag: str, usual: str) -> list[Path]:
    if pattern is not None and (not pattern.strip() or os.path.isabs(pattern)):
        raise InputError(f"{flag} {one_line(pattern)}: not a pattern of files below --data-dir, such as {usual}")
    return [path for path in below if PurePath(path.relative_to(root)).match(pattern or usual)]


def _stand_in(below: list[Path]) -> list[Path]:
    for name in STAND_INS:
        if found := [path for path in below if re.match(rf"{name}(?![a-zA-Z]).*\.parquet$", path.name)]:
            return found
    return []


def _check_files(root: Path, found: list[Path], pattern: str | None, usual: str) -> None:
    if not found:
        raise InputError(f"{one_line(root)} holds no {one_line(pattern or usual)}, nor does a folder below it")
    for path in found:  # a missing part of a set is never left out
        if (why := why_no_file(path)) is not None:
            raise InputError(f"{one_line(path)} {why}")
    folders = sorted({str(path.parent) for path in found})
    if len(folders) > 1 and not re.search(r"[*?\[].*/", pattern or usual):
        raise InputError(
            f"{one_line(pattern or usual)} lies in several folders; give one as --data-dir: "
            + ", ".join(map(one_line, folders))
        )
    for path in found:
        part = re.search(r"(.*)-\d+-of-(\d+)", path.stem)
        whole = part and re.compile(rf"{re.escape(part[1])}-\d+-of-{part[2]}{re.escape(path.suffix)}")
        if part and whole and sum(bool(whole.fullmatch(p.name)) for p in path.parent.iterdir()) != int(part[2]):
            raise InputError(
                f"{one_line(path.parent)} does not hold all {int(part[2])} of "
                f"{one_line(part[1])}-*-of-{part[2]}{path.suffix}"
            )


class _Opener:
    """Reads files' contents; the classes are those that ``class_files`` name."""

    def __init__(self, layout: Layout, skip_bad: bool, class_files: list[Path]):
        self.layout = layout
        self.skip_bad = skip_bad
        self.class_files = class_files

    def __call__(self, files: list[Path]) -> Contents:
        count = 0
        for path in files:
            with _opened(path) as file:
                image, label = self._columns(file, path)
                _refuse_bombs(file, path, image)
                # What the metadata say need not be so.
                count += sum(len(batch) for batch in file.iter_batches(ROWS, columns=[label]))
        if not count:
            raise InputError(f"{one_line(files[0])} holds no rows")
        classes = self._classes()
        for path in files:
            with _opened(path) as file:
                names = _names(file.schema_arrow.metadata or {}, self._columns(file, path)[1])
            if names and names != classes:
                raise InputError(
                    f"{one_line(path)} names its classes {', '.join(map(one_line, names))}, "
                    f"{one_line(self.class_files[0])} {', '.join(map(one_line, classes))}"
                )
        return Contents(count, classes, self._items(files))

    def _items(self, files: list[Path]) -> Iterator[Item]:
        for path in files:
            row = 0
            with _opened(path) as file:
                image, label = self._columns(file, path)
                for batch in file.iter_batches(ROWS_OF_IMAGES, columns=[image, label]):
                    for content, number in zip(batch[image].to_pylist(), batch[label].to_pylist(), strict=True):
                        inside = content.get("path") if isinstance(content, dict) else None
                        encoded = content.get("bytes") if isinstance(content, dict) else content
                        name = f"{one_line(path)} row {row}" + (f" ({one_line(inside)})" if inside else "")
                        yield Item(name, _label(number), encoded or _no_bytes(inside))
                        row += 1

    def _columns(self, file: Any, path: Path) -> tuple[str, str]:
        from pyarrow import types

        schema, layout = file.schema_arrow, self.layout
        image = _column(schema, layout.image_column, "--image-column", IMAGE_COLUMNS)
        label = _column(schema, layout.label_column, "--label-column", LABEL_COLUMNS)
        if image is None or label is None:
            needed = " and ".join(
                name or " or ".join(usual)
                for name, usual in ((layout.image_column, IMAGE_COLUMNS), (layout.label_column, LABEL_COLUMNS))
            )
            raise InputError(
                f"{one_line(path)} has the columns {one_line(', '.join(schema.names))}; needed are {one_line(needed)} "
                "(--image-column and --label-column name others)"
            )
        kind = schema.field(image).type
        if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        # Of no type are bytes that no row has: each row then says what it has instead.
        if not any(is_(kind) for is_ in (types.is_null, types.is_binary, types.is_large_binary, types.is_binary_view)):
            raise InputError(
                f"{one_line(path)}: column {one_line(image)} must hold encoded images as bytes, but is "
                f"{schema.field(image).type}"
            )
        kind = schema.field(label).type
        if types.is_floating(kind) and not self.skip_bad:
            raise InputError(
                f"{one_line(path)}: column {one_line(label)} must hold integers, but is {kind} (--skip-bad-images "
                "takes its whole numbers and leaves the other rows out)"
            )
        if not (types.is_integer(kind) or types.is_floating(kind)):
            raise InputError(f"{one_line(path)}: column {one_line(label)} must hold integers, but is {kind}")
        return image, label

    def _classes(self) -> tuple[str, ...]:
        """The names in the hub's metadata of the first file, or the numbers up to the largest label of all."""
        largest = -1
        for path in self.class_files:
            with _opened(path) as file:
                _, label = self._columns(file, path)
                names = _names(file.schema_arrow.metadata or {}, label)
                if names:
                    return names
                for batch in file.iter_batches(ROWS, columns=[label]):
                    labels = map(_label, batch[label].to_pylist())
                    largest = max(largest, *(n for n in labels if isinstance(n, int) and n < MOST_CLASSES), -1)
        return tuple(str(number) for number in range(largest + 1))


def _refuse_bombs(file: Any, path: Path, image: str) -> None:
    """Before anything is unpacked, and room is made for as many images as there seem to be."""
    size, about = path.stat().st_size, file.metadata
    groups = [about.row_group(number) for number in range(about.num_row_groups)]
    chunks = [group.column(place) for group in groups for place in range(group.num_columns)]
    unpacked = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] == image)
    if about.num_rows > size or unpacked > 2**26 + MOST_PACKED * size:
        raise InputError(
            f"{one_line(path)} says that it holds {about.num_rows:,} rows, {unpacked:,} bytes of images, and is no "
            f"larger than {size:,} bytes: no images are so small"
        )


def _column(schema: Any, name: str | None, flag: str, usual: tuple[str, ...]) -> str | None:
    if name is not None and schema.names.count(name) > 1:
        raise InputError(f"{flag} {one_line(name)}: several columns are called so")
    return next((n for n in ((name,) if name is not None else usual) if schema.names.count(n) == 1), None)


def _label(number: Any) -> Any:
    """Whole numbers are stored as floating-point ones where some of them are missing."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _no_bytes(path: str | None) -> BadImage:
    if path:
        return BadImage("is a path without the image's bytes; the file must hold the images themselves")
    return BadImage("is empty: it holds neither an image's bytes nor a path")


def _names(metadata: dict[bytes, bytes], label: str) -> tuple[str, ...]:
    try:
        names = json_of(metadata[b"huggingface"])["info"]["features"][label]["names"]
        return tuple(spelling(str(name)) for name in names)
    except (KeyError, ValueError, TypeError):
        return ()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            yield file
    except InputError:
        raise
    # pyarrow raises ValueError, OverflowError and others too, of metadata that lie.
    except (pa.ArrowException, OSError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{one_line(path)} is truncated or no parquet file: {words(error, 200)}") from None
