"""From encoded images to uint8 pixels of one size, on all cores."""

import hashlib
import io
import os
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fastait.errors import InputError

CHUNK = 512
"""Images that are read before any of them is waited for."""


class Item(NamedTuple):
    """One image before it is decoded.

    Attributes:
        name: what messages call it.
        label: its class.
        image: a file, a file's content, or uint8 pixels [H, W] or [H, W, 3].
    """

    name: str
    label: int
    image: Path | bytes | np.ndarray


@dataclass(frozen=True)
class Contents:
    """The images of a split, in order, and the names of the classes that their labels count."""

    count: int
    classes: tuple[str, ...]
    items: Iterable[Item]


@dataclass(frozen=True)
class Split:
    """The training or the test part of a data set before it is decoded.

    Attributes:
        name: ``train`` or ``test``.
        source: what its images were made from, as text that changes whenever they do.
        open: reads its contents; expensive.
    """

    name: str
    source: str
    open: Callable[[], Contents]


@dataclass(frozen=True)
class Decoded:
    """What ``decode`` found.

    Attributes:
        labels: of the images that were kept.
        classes: the classes' names.
        checksum: SHA-256 of pixels and labels.
        skipped: place -> why, of the images that were left out.
        sizes: "width x height", as stored -> how many.
    """

    labels: list[int]
    classes: tuple[str, ...]
    checksum: str
    skipped: dict[int, str]
    sizes: dict[str, int]


class BadImage(Exception):
    """An image that cannot be used; its text says why."""


def fingerprint(root: Path, files: Iterable[Path]) -> str:
    """A text that changes when one of ``files``, below ``root``, is renamed, added, removed or written to."""
    digest = hashlib.sha256()
    for path in files:
        about = path.stat()
        digest.update(repr((str(path.relative_to(root)), about.st_size, about.st_mtime_ns)).encode())
    return digest.hexdigest()


def decode(
    contents: Contents,
    size: int,
    pixels: np.ndarray | None,
    *,
    skip_bad: bool = False,
    formats: Collection[str] | None = None,
) -> Decoded:
    """Decode every image to RGB, ``size`` x ``size``, as ``fit`` does.

    Args:
        contents: what to decode.
        size: height and width.
        pixels: uint8 [count, size, size, 3], filled from its beginning; None to check the images only.
        skip_bad: leave bad images out instead of raising.
        formats: the file formats that are good, as Pillow names them; all if None.

    Raises:
        InputError: an image is unreadable or smaller than ``size``, a label is no class, or no image is left.
    """
    digest = hashlib.sha256()
    labels: list[int] = []
    skipped: dict[int, str] = {}
    sizes: Counter[str] = Counter()
    items = iter(contents.items)
    place = 0

    def read(item: Item) -> tuple[np.ndarray, str] | BadImage:
        try:
            return read_image(item.image, size, formats)
        except BadImage as error:
            return error

    # Pillow warns of oddities without saying where; what matters is an error.
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.filterwarnings("ignore", module=r"PIL\.")
        while chunk := list(islice(items, CHUNK)):
            for item, result in zip(chunk, pool.map(read, chunk), strict=True):
                _check_label(item, len(contents.classes))
                if isinstance(result, BadImage):
                    if not skip_bad:
                        raise InputError(f"{item.name} {result} (--skip-bad-images leaves such images out)")
                    skipped[place] = f"{item.name} {result}"
                else:
                    image, stored = result
                    sizes[stored] += 1
                    digest.update(np.ascontiguousarray(image).data)
                    if pixels is not None:
                        pixels[len(labels)] = image
                    labels.append(item.label)
                place += 1
    if not labels:
        raise InputError(f"none of the {place} images can be used; the first one: {skipped[0]}")
    digest.update(np.asarray(labels, dtype=np.int64).data)
    return Decoded(labels, contents.classes, digest.hexdigest(), skipped, dict(sizes))


def fit(image: Image.Image, size: int) -> Image.Image:
    """RGB, ``size`` x ``size``: the shorter side resized (bilinear, antialiased), then centre-cropped.

    Raises:
        BadImage: its values have no fixed range.
    """
    if image.mode in ("I", "F"):
        raise BadImage(f"has mode {image.mode}, of no fixed range; store it in 8 bits or 16 unsigned ones")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert("RGB")
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), method=Image.Resampling.BILINEAR)
    return image


def read_image(
    source: Path | bytes | np.ndarray, size: int, formats: Collection[str] | None = None
) -> tuple[np.ndarray, str]:
    """uint8 [size, size, 3] as ``fit`` makes it, and the stored "width x height".

    Raises:
        BadImage: it is unreadable, smaller than ``size`` (unless it is an array), or of none of ``formats``.
        InputError: the system cannot read the file.
    """
    if isinstance(source, np.ndarray):
        stored = f"{source.shape[1]}x{source.shape[0]}"
        if source.shape == (size, size, 3):
            return source, stored
        return np.asarray(fit(Image.fromarray(source), size)), stored
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            kind = image.format
            upright = ImageOps.exif_transpose(image)
            pixels = np.asarray(fit(upright, size))
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BadImage("is not a readable image: of no format that Pillow knows") from None
    # Pillow raises whatever its many decoders do on damaged data: OSError, ValueError, SyntaxError, struct.error, ...
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's word, not Pillow's: it may pass
            raise InputError(f"{source!s} cannot be read: {error.strerror}") from None
        raise BadImage(f"is not a readable image: {error}") from None
    width, height = upright.size
    if min(width, height) < size:
        raise BadImage(f"is {width}x{height} pixels, smaller than --image-size {size}")
    if formats is not None and kind not in formats:
        raise BadImage(f"is of format {kind}, which DALI does not decode; leave --dali out")
    return pixels, f"{width}x{height}"


def _check_label(item: Item, classes: int) -> None:
    if isinstance(item.label, bool) or not isinstance(item.label, int) or not 0 <= item.label < classes:
        raise InputError(f"{item.name} has label {item.label!r}; labels must be whole numbers from 0 to {classes - 1}")
