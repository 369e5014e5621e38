"""Where data sets come from."""

import hashlib
import http.client
import tarfile
import urllib.error
import zlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastait.config import DATASETS, IN_PLACE
from fastait.data import cache
from fastait.data.dataset import Dataset, ImageFiles, ImageSet
from fastait.data.decode import Contents, Item, Split
from fastait.data.folder import folder_splits, unlabeled_split
from fastait.data.parquet import parquet_splits
from fastait.errors import InputError, check_choice

DALI_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "TIFF", "WEBP", "JPEG2000")
"""What both Pillow and DALI decode, to the same pixels; not PPM, whose largest value DALI takes for 255."""


def load_dataset(
    name: str,
    data_dir: Path | None = None,
    image_size: int = 32,
    *,
    skip_bad: bool = False,
    in_files: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> Dataset:
    """Load a data set, downloading it where that is possible and needed.

    Whatever has to be decoded is decoded once and kept in a folder beside it, see ``cache``.

    Args:
        name: ``digits``, ``cifar10``, ``cifar100``, ``svhn``, ``folder`` or ``parquet``.
        data_dir: where it lies or is downloaded to; ``./data`` if None; required for ``folder`` and ``parquet``.
        image_size: height and width that images are resized to where theirs differ (shorter side, then centre crop).
        skip_bad: leave unreadable and too small images out instead of raising.
        in_files: leave the training images of a ``folder`` in their files, for a loader that decodes them itself;
            they are checked all the same, once.
        note: called with a line about a cache that is damaged or cannot be written, or a class without images.

    Raises:
        InputError: files are missing, damaged or cannot be downloaded; an image is unreadable or, in a folder or a
            parquet file, smaller than ``image_size``; a label is out of range.
    """
    check_choice("--dataset", name, DATASETS)
    if name == "digits":
        splits, folder = _digits(), None
    elif name in IN_PLACE:
        if data_dir is None:
            raise InputError(f"--dataset {name} needs --data-dir DIR with {IN_PLACE[name]}")
        splits, folder = (folder_splits if name == "folder" else parquet_splits)(data_dir), data_dir
    else:
        folder = data_dir or Path("data")
        splits = _DOWNLOADED[name](folder)
    stays = in_files and name == "folder"
    requests = [
        cache.Request(image_size, skip_bad, DALI_FORMATS, keep=False) if stays else cache.Request(image_size, skip_bad),
        cache.Request(image_size, skip_bad),
    ]
    found = [
        cache.load(split, request, folder and folder / cache.CACHE / name, note)
        for split, request in zip(splits, requests, strict=True)
    ]
    (train, train_pixels), (test, test_pixels) = found
    assert test_pixels is not None
    labels = torch.tensor(train.labels, dtype=torch.int64)
    classes = train.classes
    if len(classes) < 2:
        raise InputError(f"--dataset {name}: the training set has one class only ({classes[0]}); it needs at least two")
    empty = [classes[i] for i, count in enumerate(torch.bincount(labels, minlength=len(classes))) if not count]
    if empty:
        note(f"warning: the training set has no images of {', '.join(empty)}")
    return Dataset(
        data_dir.resolve().name if data_dir is not None and name in IN_PLACE else name,
        classes,
        ImageFiles(_good_paths(splits[0], train.skipped), labels, image_size)
        if train_pixels is None
        else ImageSet(train_pixels, labels),
        ImageSet(test_pixels, torch.tensor(test.labels, dtype=torch.int64)),
        hashlib.sha256(repr((classes, train.checksum, test.checksum)).encode()).hexdigest(),
        (*train.skipped.values(), *test.skipped.values()),
        dict((Counter(train.sizes) + Counter(test.sizes)).most_common()),
    )


def load_unlabeled(
    root: Path, image_size: int, *, skip_bad: bool = False, note: Callable[[str], None] = lambda text: None
) -> tuple[ImageSet, str, tuple[str, ...]]:
    """The images below ``root``, whatever folders they lie in, decoded once and kept there.

    Arguments are those of ``load_dataset``.

    Returns:
        (images, whose labels say nothing; SHA-256 of the pixels; the images that were left out, a line each).

    Raises:
        InputError: there are none, or one is unreadable or smaller than ``image_size``.
    """
    split = unlabeled_split(root)
    found, pixels = cache.load(split, cache.Request(image_size, skip_bad), root / cache.CACHE / "unlabeled", note)
    assert pixels is not None
    return ImageSet(pixels, torch.zeros(len(pixels), dtype=torch.int64)), found.checksum, tuple(found.skipped.values())


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


def _digits() -> list[Split]:
    """The 1,797 8x8 scans that scikit-learn ships; every fifth image of a class is a test image."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target
    is_test = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        is_test[np.flatnonzero(labels == digit)[4::5]] = True
    return [
        _in_memory(name, "digits", tuple("0123456789"), partial(lambda part: (images[part], labels[part]), part))
        for name, part in (("train", ~is_test), ("test", is_test))
    ]


def _cifar10(data_dir: Path) -> list[Split]:
    from torchvision.datasets import CIFAR10

    return _cifar("cifar10", CIFAR10, data_dir)


def _cifar100(data_dir: Path) -> list[Split]:
    from torchvision.datasets import CIFAR100

    return _cifar("cifar100", CIFAR100, data_dir)


def _cifar(name: str, source: Any, data_dir: Path) -> list[Split]:
    files = f"{source.filename} (md5 {source.tgz_md5})"

    def split(part: str) -> Split:
        def contents() -> Contents:
            data = _fetch(name, files, data_dir, partial(source, data_dir, train=part == "train", download=True))
            return _in_memory(part, "", tuple(data.classes), lambda: (data.data, data.targets)).open()

        return Split(part, f"{name} {source.tgz_md5}", contents)

    return [split("train"), split("test")]


def _svhn(data_dir: Path) -> list[Split]:
    """The paper's use: 73,257 training and 26,032 test images, without the additional ones."""
    from torchvision.datasets import SVHN

    files = " and ".join(f"{SVHN.split_list[s][1]} (md5 {SVHN.split_list[s][2]})" for s in ("train", "test"))

    def load(part: str) -> tuple[np.ndarray, np.ndarray]:
        data = _fetch("svhn", files, data_dir, partial(SVHN, data_dir, split=part, download=True))
        return data.data.transpose(0, 2, 3, 1), data.labels

    return [
        _in_memory(part, f"svhn {SVHN.split_list[part][2]}", tuple("0123456789"), partial(load, part))
        for part in ("train", "test")
    ]


def _fetch(name: str, files: str, data_dir: Path, load: Callable[[], Any]) -> Any:
    """Call a torchvision downloader, which verifies checksums, and say what to do where it fails."""
    try:
        return load()
    except urllib.error.URLError as error:
        reason = f"it could not be downloaded ({error.reason})"
    except (RuntimeError, OSError, EOFError, http.client.HTTPException, tarfile.TarError, zlib.error) as error:
        reason = f"it could not be read or downloaded ({' '.join(str(error).split())})"
    raise InputError(f"--dataset {name}: {reason}; without internet, put {files} into {data_dir.resolve()}") from None


_DOWNLOADED: dict[str, Callable[[Path], list[Split]]] = {"cifar10": _cifar10, "cifar100": _cifar100, "svhn": _svhn}
