"""From encoded images to uint8 pixels of one size, on all cores."""

import hashlib
import io
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fastait.data.files import LASTING, why_no_file
from fastait.data.opaque import alpha_of, opaque, transparent_value
from fastait.runtime.errors import InputError, one_line
from fastait.runtime.threads import usable_cores

PLAIN = (
    *("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF"),
    *("WEBP", "XBM"),
)
"""Formats, as Pillow names them, that are one raster of pixels. Of others some are handed to programs (EPS), hold files
of any format and size within them (ICO, ICNS), or are read by code that hardly anyone has looked at."""

MOST_PIXELS = 2**26
"""Of an image: some formats say in a few bytes that they have billions."""

CHUNK, CHUNK_BYTES = 512, 2**26
"""Images that are read before any of them is waited for, and about how many bytes they may have as stored."""


class Item(NamedTuple):
    """One image before it is decoded.

    Attributes:
        name: what messages call it.
        label: its class.
        image: a file, a file's content, uint8 pixels [H, W] or [H, W, C] (C is 2 or 4 with an alpha channel, else 3),
            or why there is none.
    """

    name: str
    label: int
    image: "Path | bytes | np.ndarray | BadImage"


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


class TooSmall(InputError):
    """An image is smaller than it should become; ``survey.explain`` says what would be right for its set."""


class _Small(BadImage):
    pass


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
        InputError: an image is unreadable, a label is no class, or no image is left.
        TooSmall: an image is smaller than ``size``.
    """
    digest = hashlib.sha256()
    labels: list[int] = []
    skipped: dict[int, str] = {}
    sizes: Counter[str] = Counter()
    place = 0

    def read(item: Item) -> tuple[np.ndarray, str] | BadImage:
        try:
            _check_label(item.label, len(contents.classes))
            return read_image(item.image, size, formats)
        except BadImage as error:
            return error

    small = False
    with quiet(), ThreadPoolExecutor(usable_cores()) as pool:
        for chunk in _chunks(contents.items):
            for item, result in zip(chunk, pool.map(read, chunk), strict=True):
                if isinstance(result, BadImage):
                    skipped[place] = f"{item.name} {result}"
                    small |= isinstance(result, _Small)
                    if not skip_bad and isinstance(result, _Small):
                        raise TooSmall(skipped[place])
                    if not skip_bad:
                        raise InputError(f"{skipped[place]} (--skip-bad-images leaves such images out)")
                else:
                    image, stored = result
                    sizes[stored] += 1
                    digest.update(np.ascontiguousarray(image).data)
                    if pixels is not None:
                        pixels[len(labels)] = image
                    labels.append(item.label)
                place += 1
    if not labels:
        why = f"none of the {place} images can be used; the first one: {skipped[0]}"
        raise TooSmall(why) if small else InputError(why)
    digest.update(np.asarray(labels, dtype=np.int64).data)
    return Decoded(labels, contents.classes, digest.hexdigest(), skipped, dict(sizes))


def fit(image: Image.Image, size: int) -> Image.Image:
    """RGB, ``size`` x ``size``: the shorter side resized (bilinear, antialiased), then centre-cropped.

    Transparent pixels show white, as ``opaque`` does it, before anything is resized.

    Raises:
        BadImage: its values have no fixed range.
    """
    if image.mode in ("I", "F"):
        raise BadImage(f"has mode {image.mode}, of no fixed range; store it in 8 bits or 16 unsigned ones")
    image = opaque(image)
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), method=Image.Resampling.BILINEAR)
    return image


def sides(items: Iterable[Item]) -> Iterator[int]:
    """The shorter sides of all images whose headers can be read; nothing is decoded."""
    with quiet(), ThreadPoolExecutor(usable_cores()) as pool:
        for chunk in _chunks(items):
            yield from (side for side in pool.map(_side, chunk) if side is not None)


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    chunk: list[Item] = []
    held = 0
    for item in items:
        chunk.append(item)
        held += len(item.image) if isinstance(item.image, bytes) else 0
        if len(chunk) == CHUNK or held >= CHUNK_BYTES:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def _side(item: Item) -> int | None:
    try:
        if isinstance(item.image, Path) and why_no_file(item.image) is not None:
            return None
        assert isinstance(item.image, Path | bytes)
        with _opened(item.image) as image:
            return min(image.size)
    except Exception:  # as in ``read_image``; here it is only not counted
        return None


def read_image(
    source: Path | bytes | np.ndarray | BadImage, size: int, formats: Collection[str] | None = None
) -> tuple[np.ndarray, str]:
    """uint8 [size, size, 3] as ``fit`` makes it, and the stored "width x height".

    Args:
        source: as ``Item.image``.
        size: height and width.
        formats: the file formats that are good; DALI decodes them, and it drops transparency. All if None.

    Raises:
        BadImage: it is unreadable, smaller than ``size`` (unless it is an array), or not for DALI.
        InputError: the system cannot read the file now.
    """
    if isinstance(source, BadImage):
        raise source
    if isinstance(source, np.ndarray):
        stored = f"{source.shape[1]}x{source.shape[0]}"
        if source.shape == (size, size, 3):
            return source, stored
        return np.asarray(fit(Image.fromarray(source), size)), stored
    try:
        if isinstance(source, Path) and (why := why_no_file(source)) is not None:
            raise BadImage(why)
        with _opened(source) as image:
            if image.width * image.height > MOST_PIXELS:
                most = f"{MOST_PIXELS / 1e6:.0f} million pixels"
                raise BadImage(f"is {image.width}x{image.height} pixels; images of at most {most} are decoded")
            kind = image.format
            value = transparent_value(image)
            upright = ImageOps.exif_transpose(image)
            if value is not None:
                upright.info["transparency"] = value
            pixels = np.asarray(fit(upright, size))
            if formats is not None and kind in formats and not _same_without_alpha(upright, kind):
                raise BadImage("has transparent pixels, which DALI would show; leave --dali out")
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BadImage("is not a readable image: of no format that is read here") from None
    # Pillow raises whatever its many decoders do on damaged data: OSError, ValueError, SyntaxError, struct.error, ...
    except Exception as error:
        if isinstance(error, OSError) and error.errno in LASTING:
            raise BadImage(f"cannot be read: {error.strerror}") from None
        if isinstance(error, OSError) and error.errno is not None:  # the system's word, not Pillow's: it may pass
            raise InputError(f"{one_line(source)} cannot be read: {error.strerror}") from None
        raise BadImage(f"is not a readable image: {one_line(error)}") from None
    width, height = upright.size
    if min(width, height) < size:
        raise _Small(f"is {width}x{height} pixels, smaller than --image-size {size}")
    if formats is not None and kind not in formats:
        raise BadImage(f"is of format {kind}, which DALI does not decode; leave --dali out")
    return pixels, f"{width}x{height}"


def _opened(source: Path | bytes) -> Image.Image:
    """The image, of which no more than the header is read yet."""
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_known())


@cache
def _known() -> tuple[str, ...]:
    """Those of ``PLAIN`` that this Pillow has."""
    Image.init()
    return tuple(kind for kind in PLAIN if kind in Image.OPEN)


def _same_without_alpha(image: Image.Image, kind: str | None) -> bool:
    """Whether nothing of ``image`` is transparent, and DALI makes of it what ``fit`` does."""
    if kind == "TIFF" and image.mode == "LA":  # its second channel is taken for colour
        return False
    return (alpha := alpha_of(image)) is None or bool((alpha == 255).all())


def _check_label(label: object, classes: int) -> None:
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < classes:
        raise BadImage(f"has label {label!r}; labels must be whole numbers from 0 to {classes - 1}")


_FILTERS = threading.RLock()


@contextmanager
def quiet() -> Iterator[None]:
    """Without Pillow's warnings, of oddities that it does not say where it found, and torch's of read-only memory.

    Python keeps one list of filters for all threads, so that two who change it must not overlap.
    """
    with _FILTERS, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        yield
