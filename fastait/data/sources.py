"""Where data sets come from."""

import hashlib
import http.client
import random
import tarfile
import urllib.error
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastait.checkpoints.classes import shown
from fastait.config import DATASETS, IN_PLACE, check_parquet_settings
from fastait.data import cache
from fastait.data.dataset import Dataset, ImageFiles, ImageSet
from fastait.data.decode import Contents, Decoded, Item, Split, TooSmall
from fastait.data.folder import folder_splits, tested_folder, unlabeled_split
from fastait.data.parquet import Layout, parquet_splits
from fastait.data.survey import explain
from fastait.runtime.arguments import count
from fastait.runtime.errors import InputError, check_choice, one_line, words
from fastait.runtime.settings import as_path

DALI_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "TIFF", "WEBP", "JPEG2000")
"""What both Pillow and DALI decode, to the same pixels; not PPM, whose largest value DALI takes for 255."""

_Loaded = tuple[Decoded, Tensor | None]


def load_dataset(
    name: str,
    data_dir: Path | None = None,
    image_size: int = 32,
    *,
    skip_bad: bool = False,
    in_files: bool = False,
    needs_train: bool = True,
    image_column: str | None = None,
    label_column: str | None = None,
    train_files: str | None = None,
    test_files: str | None = None,
    cache_dir: Path | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Dataset:
    """Load a data set, downloading it where that is possible and needed.

    Whatever has to be decoded is decoded once and kept in a folder beside it or in ``cache_dir``, see ``cache``.
    Transparent pixels show white.

    Args:
        name: ``digits``, ``cifar10``, ``cifar100``, ``svhn``, ``folder`` or ``parquet``.
        data_dir: where it lies or is downloaded to; ``./data`` if None; required for ``folder`` and ``parquet``.
        image_size: height and width that images are resized to where theirs differ (shorter side, then centre crop).
        skip_bad: leave images that cannot be read, are too small or have no class out instead of raising.
        in_files: leave the training images of a ``folder`` in their files, for a loader that decodes them itself;
            they are checked all the same, once.
        needs_train: if not, the training images of a ``folder`` or ``parquet`` set may be missing; ``train`` is then
            empty, and the classes are the test images'.
        image_column: of parquet files; ``img`` or ``image`` if None.
        label_column: of parquet files; ``label`` or ``fine_label`` if None.
        train_files: a pattern of the names, or of the ends of the paths, of parquet files to train on;
            ``train*.parquet`` if None.
        test_files: of those to test on; ``test*.parquet`` if None, or what stands in for it.
        cache_dir: a folder for what was decoded; if None, what ``FASTAIT_CACHE`` names, or one beside the images.
        note: called with a line about a cache that is damaged or cannot be written, a class without images, or what
            stands in for the test images.

    Raises:
        InputError: files are missing, damaged or cannot be downloaded; an image is unreadable or, in a folder or a
            parquet file, smaller than ``image_size``; a label is out of range.
    """
    check_choice("--dataset", name, DATASETS)
    layout = Layout(image_column, label_column, train_files, test_files)
    check_parquet_settings(name, **asdict(layout))
    root = None if data_dir is None else as_path("data_dir", data_dir)
    cache_dir = None if cache_dir is None else as_path("cache_dir", cache_dir)
    image_size = count("image_size", image_size)
    splits: tuple[Split | None, Split]
    said: list[str] = []  # once nothing is wrong: an error is the only line
    if name == "digits":
        splits, folder = _digits(), None
    elif name not in IN_PLACE:
        root = root or Path("data")
        splits, folder = _DOWNLOADED[name](root), cache.place(name, root, cache_dir)
    elif root is None:
        raise InputError(f"--dataset {name} needs --data-dir DIR with {IN_PLACE[name]}")
    elif name == "folder":
        splits = folder_splits(root, needs_train=needs_train, note=said.append)
        cache.refuse_within(cache_dir, (root / "train", tested_folder(root)))
        folder = cache.place(name, root, cache_dir)
    else:
        splits = parquet_splits(root, layout, skip_bad=skip_bad, needs_train=needs_train, note=said.append)
        other = "" if layout == Layout() else f"-{hashlib.sha256(repr(layout).encode()).hexdigest()[:16]}"
        folder = cache.place(name + other, root, cache_dir)
    stays = in_files and name == "folder"
    requests = [
        cache.Request(image_size, skip_bad, DALI_FORMATS, keep=False) if stays else cache.Request(image_size, skip_bad),
        cache.Request(image_size, skip_bad),
    ]
    try:
        train = None if splits[0] is None else cache.load(splits[0], requests[0], folder, note)
        test = cache.load(splits[1], requests[1], folder, note)
    except TooSmall as error:
        raise explain(error, filter(None, splits), image_size) from None
    for line in said:
        note(line)
    called = root.resolve().name if root is not None and name in IN_PLACE else name
    return _dataset(called, splits[0], train, test, image_size, note)


def _dataset(
    name: str,
    training: Split | None,
    decoded: _Loaded | None,
    test: _Loaded,
    size: int,
    note: Callable[[str], None],
) -> Dataset:
    """The set of what was made of its splits."""
    tested, test_pixels = test
    assert test_pixels is not None
    test_set = ImageSet(test_pixels, _labels(tested.labels))
    if training is None or decoded is None:
        checksum = hashlib.sha256(repr((tested.classes, None, tested.checksum)).encode()).hexdigest()
        nothing = test_set.at(test_set.labels[:0])
        return Dataset(name, tested.classes, nothing, test_set, checksum, tuple(tested.skipped.values()), tested.sizes)
    train, pixels = decoded
    labels, classes = _labels(train.labels), train.classes
    if len(classes) < 2:
        raise InputError(
            f"{one_line(name)}: the training set has one class only ({one_line(classes[0])}); it needs at least two"
        )
    empty = [classes[i] for i, count in enumerate(torch.bincount(labels, minlength=len(classes))) if not count]
    if empty:
        note(f"warning: the training set has no images of {shown(empty)}")
    return Dataset(
        name,
        classes,
        ImageFiles(_good_paths(training, train.skipped), labels, size) if pixels is None else ImageSet(pixels, labels),
        test_set,
        hashlib.sha256(repr((classes, train.checksum, tested.checksum)).encode()).hexdigest(),
        (*train.skipped.values(), *tested.skipped.values()),
        dict((Counter(train.sizes) + Counter(tested.sizes)).most_common()),
    )


def _labels(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64, device="cpu")


def load_unlabeled(
    root: Path,
    image_size: int,
    *,
    skip_bad: bool = False,
    cache_dir: Path | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> tuple[ImageSet, str, tuple[str, ...]]:
    """The images below ``root``, whatever folders they lie in, decoded once and kept.

    Arguments are those of ``load_dataset``.

    Returns:
        (images, whose labels say nothing; SHA-256 of the pixels; the images that were left out, a line each).

    Raises:
        InputError: there are none, or one is unreadable or smaller than ``image_size``.
    """
    root, cache_dir = as_path("root", root), None if cache_dir is None else as_path("cache_dir", cache_dir)
    image_size = count("image_size", image_size)
    cache.refuse_within(cache_dir, (root,))
    split = unlabeled_split(root)
    folder = cache.place("unlabeled", root, cache_dir)
    try:
        found, pixels = cache.load(split, cache.Request(image_size, skip_bad), folder, note)
    except TooSmall as error:
        raise explain(error, [split], image_size) from None
    assert pixels is not None
    return ImageSet(pixels, _labels([0] * len(pixels))), found.checksum, tuple(found.skipped.values())


def _good_paths(split: Split, skipped: dict[int, str]) -> tuple[Path, ...]:
    paths = []
    for place, item in enumerate(split.open().items):
        assert isinstance(item.image, Path)
        if place not in skipped:
            paths.append(item.image)
    return tuple(paths)


def _in_memory(name: str, source: str, classes: tuple[str, ...], load: Callable[[], tuple[np.ndarray, Any]]) -> Split:
    """A split whose ``load`` returns uint8 images [N, H, W] or [N, H, W, 3] and labels."""

    def contents() -> Contents:
        images, labels = load()
        items = (Item(f"{name} image {i}", int(label), images[i]) for i, label in enumerate(labels))
        return Contents(len(labels), classes, items)

    return Split(name, source, contents)


def _digits() -> tuple[Split, Split]:
    """The 1,797 8x8 scans that scikit-learn ships; every fifth image of a class is a test image."""
    state = random.getstate()  # scikit-learn's import draws from Python's generator
    try:
        from sklearn.datasets import load_digits

        bunch = load_digits()
    finally:
        random.setstate(state)
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target
    is_test = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        is_test[np.flatnonzero(labels == digit)[4::5]] = True

    def split(name: str, part: np.ndarray) -> Split:
        return _in_memory(name, "digits", tuple("0123456789"), lambda: (images[part], labels[part]))

    return split("train", ~is_test), split("test", is_test)


def _cifar10(data_dir: Path) -> tuple[Split, Split]:
    from torchvision.datasets import CIFAR10

    return _cifar("cifar10", CIFAR10, data_dir)


def _cifar100(data_dir: Path) -> tuple[Split, Split]:
    from torchvision.datasets import CIFAR100

    return _cifar("cifar100", CIFAR100, data_dir)


def _cifar(name: str, source: Any, data_dir: Path) -> tuple[Split, Split]:
    files = f"{source.filename} (md5 {source.tgz_md5})"

    def split(part: str) -> Split:
        def contents() -> Contents:
            data = _fetch(name, files, data_dir, partial(source, data_dir, train=part == "train", download=True))
            return _in_memory(part, "", tuple(data.classes), lambda: (data.data, data.targets)).open()

        return Split(part, f"{name} {source.tgz_md5}", contents)

    return split("train"), split("test")


def _svhn(data_dir: Path) -> tuple[Split, Split]:
    """The paper's use: 73,257 training and 26,032 test images, without the additional ones."""
    from torchvision.datasets import SVHN

    files = " and ".join(f"{SVHN.split_list[s][1]} (md5 {SVHN.split_list[s][2]})" for s in ("train", "test"))

    def load(part: str) -> tuple[np.ndarray, np.ndarray]:
        data = _fetch("svhn", files, data_dir, partial(SVHN, data_dir, split=part, download=True))
        return data.data.transpose(0, 2, 3, 1), data.labels

    def split(part: str) -> Split:
        return _in_memory(part, f"svhn {SVHN.split_list[part][2]}", tuple("0123456789"), partial(load, part))

    return split("train"), split("test")


def _fetch(name: str, files: str, data_dir: Path, load: Callable[[], Any]) -> Any:
    """Call a torchvision downloader, which verifies checksums, and say what to do where it fails."""
    try:
        return load()
    except urllib.error.URLError as error:
        reason = f"it could not be downloaded ({error.reason})"
    except (RuntimeError, OSError, EOFError, http.client.HTTPException, tarfile.TarError, zlib.error) as error:
        reason = f"it could not be read or downloaded ({words(error)})"
    raise InputError(f"--dataset {name}: {reason}; without internet, put {files} into {data_dir.resolve()}") from None


_DOWNLOADED: dict[str, Callable[[Path], tuple[Split, Split]]] = {
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "svhn": _svhn,
}
