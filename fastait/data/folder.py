"""Image folders: ``DIR/train/CLASS/*`` and ``DIR/test/CLASS/*``, any format that Pillow reads."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from fastait.data.dataset import Dataset, ImageSet, fit
from fastait.errors import InputError


def load_folder(root: Path, image_size: int) -> Dataset:
    """Decode an image folder into memory.

    Classes are numbered by the sorted names of ``train``'s folders; hidden files are passed over, every other file
    must be an image. EXIF orientation is applied; grey, palette and transparent images become RGB.

    Args:
        root: holds ``train`` and ``test``.
        image_size: shorter sides are resized to it (bilinear, antialiased), then the centre is cropped.

    Raises:
        InputError: a folder is missing or empty, there is one class only, a class stands only in ``test``, or a file
            is no readable image; the message names it.
    """
    try:
        return _load_folder(root, image_size)
    except OSError as error:
        raise InputError(f"--data-dir {root} cannot be read: {error.strerror} ({error.filename})") from None


def _load_folder(root: Path, image_size: int) -> Dataset:
    if not root.is_dir():
        raise InputError(f"--data-dir {root}: no such folder")
    classes = _class_names(root / "train")
    test_classes = _class_names(root / "test")
    if len(classes) < 2:
        raise InputError(f"{root / 'train'} holds one class only ({classes[0]}); a classifier needs at least two")
    unseen = [name for name in test_classes if name not in classes]
    if unseen:
        raise InputError(f"{root / 'test'} holds classes that train does not: {', '.join(unseen)}")
    train = _decode(root / "train", classes, image_size)
    test = _decode(root / "test", classes, image_size)
    return Dataset(root.name, tuple(classes), train, test)


def _class_names(split: Path) -> list[str]:
    if not split.is_dir():
        raise InputError(f"{split}: no such folder; expected {split}/CLASS/IMAGE")
    names = sorted(path.name for path in split.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise InputError(f"{split} holds no class folders; expected {split}/CLASS/IMAGE")
    return names


def _decode(split: Path, classes: list[str], image_size: int) -> ImageSet:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        folder = split / name
        found = sorted(p for p in folder.iterdir() if not p.name.startswith(".")) if folder.is_dir() else []
        if folder.is_dir() and not found:
            raise InputError(f"{folder} holds no images")
        paths += found
        labels += [label] * len(found)
    images = np.empty((len(paths), image_size, image_size, 3), dtype=np.uint8)

    def decode(i: int) -> None:
        images[i] = _read_image(paths[i], image_size)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(decode, range(len(paths))):
            pass
    return ImageSet(torch.from_numpy(images), torch.tensor(labels, dtype=torch.int64))


def _read_image(path: Path, image_size: int) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(fit(ImageOps.exif_transpose(image), image_size))
    # Pillow raises whatever its many decoders do on damaged data: OSError, ValueError, SyntaxError, struct.error, ...
    except Exception as error:
        raise InputError(f"{path} is not a readable image: {error}") from None
