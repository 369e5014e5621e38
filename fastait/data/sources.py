"""Where data sets come from."""

import urllib.error
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastait.data.dataset import Dataset, ImageSet, fit_all
from fastait.data.folder import load_folder
from fastait.errors import InputError


def load_dataset(name: str, data_dir: Path | None = None, image_size: int = 32) -> Dataset:
    """Load a data set into memory, downloading it where that is possible and needed.

    Args:
        name: ``digits``, ``cifar10``, ``cifar100``, ``svhn`` or ``folder``.
        data_dir: where it lies or is downloaded to; ``./data`` if None; required for ``folder``.
        image_size: height and width that images are resized to where theirs differ (shorter side, then centre crop).

    Raises:
        InputError: files are missing, damaged or cannot be downloaded.
    """
    if name == "digits":
        return _digits(image_size)
    if name == "folder":
        if data_dir is None:
            raise InputError("--dataset folder needs --data-dir DIR with DIR/train/CLASS/* and DIR/test/CLASS/*")
        return load_folder(data_dir, image_size)
    return _DOWNLOADED[name](data_dir or Path("data"), image_size)


def _digits(image_size: int) -> Dataset:
    """The 1,797 8x8 scans that scikit-learn ships; every fifth image of a class is a test image."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = fit_all(np.round(bunch.images * (255 / 16)).astype(np.uint8), image_size)
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    for digit in range(10):
        is_test[torch.nonzero(labels == digit).flatten()[4::5]] = True
    return Dataset(
        "digits",
        tuple("0123456789"),
        ImageSet(images[~is_test], labels[~is_test]),
        ImageSet(images[is_test], labels[is_test]),
    )


def _cifar10(data_dir: Path, image_size: int) -> Dataset:
    from torchvision.datasets import CIFAR10

    return _cifar("cifar10", CIFAR10, data_dir, image_size)


def _cifar100(data_dir: Path, image_size: int) -> Dataset:
    from torchvision.datasets import CIFAR100

    return _cifar("cifar100", CIFAR100, data_dir, image_size)


def _cifar(name: str, source: Any, data_dir: Path, image_size: int) -> Dataset:
    files = f"{source.filename} (md5 {source.tgz_md5})"
    parts = [
        _fetch(name, files, data_dir, partial(source, data_dir, train=train, download=True)) for train in (True, False)
    ]
    train_set, test_set = (
        ImageSet(fit_all(part.data, image_size), torch.tensor(part.targets, dtype=torch.int64)) for part in parts
    )
    return Dataset(name, tuple(parts[0].classes), train_set, test_set)


def _svhn(data_dir: Path, image_size: int) -> Dataset:
    """The paper's use: 73,257 training and 26,032 test images, without the additional ones."""
    from torchvision.datasets import SVHN

    files = " and ".join(f"{SVHN.split_list[s][1]} (md5 {SVHN.split_list[s][2]})" for s in ("train", "test"))
    parts = [
        _fetch("svhn", files, data_dir, partial(SVHN, data_dir, split=split, download=True))
        for split in ("train", "test")
    ]
    train_set, test_set = (
        ImageSet(fit_all(part.data.transpose(0, 2, 3, 1), image_size), torch.from_numpy(part.labels.astype(np.int64)))
        for part in parts
    )
    return Dataset("svhn", tuple("0123456789"), train_set, test_set)


def _fetch(name: str, files: str, data_dir: Path, load: Callable[[], Any]) -> Any:
    """Call a torchvision downloader, which verifies checksums, and say what to do where it fails."""
    try:
        return load()
    except urllib.error.URLError as error:
        reason = f"it could not be downloaded ({error.reason})"
    except (RuntimeError, OSError, EOFError) as error:
        reason = f"it could not be read or downloaded ({' '.join(str(error).split())})"
    raise InputError(f"--dataset {name}: {reason}; without internet, put {files} into {data_dir.resolve()}") from None


_DOWNLOADED: dict[str, Callable[[Path, int], Dataset]] = {
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "svhn": _svhn,
}
