"""Transparent pixels show white, whatever says that they are transparent and whatever loads them."""

import io
import struct
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import write_folder
from loaders import needs_dali
from PIL import Image

from fastait.data import BatchPlan, load_dataset, load_unlabeled, make_loader
from fastait.data.decode import Contents, Item, decode, read_image
from fastait.data.opaque import opaque
from fastait.runtime.errors import InputError

CPU = torch.device("cpu")
SIDE = 8
COLOUR = (200, 10, 30)


def png(depth, kind, rows, transparent=None):
    """A PNG of raw ``rows`` (bytes), for what Pillow does not write."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    extra = b"" if transparent is None else chunk(b"tRNS", transparent)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, depth, kind, 0, 0, 0))
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def pillow(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def half_and_half(mode="RGBA"):
    """Left half transparent over a hidden colour, right half opaque."""
    pixels = np.zeros((SIDE, SIDE, 4), np.uint8)
    pixels[:, :4] = (255, 0, 0, 0)
    pixels[:, 4:] = (*COLOUR, 255)
    return Image.fromarray(pixels).convert(mode)


def palette():
    """Both halves of the palette's colours, the first one transparent."""
    image = Image.new("P", (SIDE, SIDE), 1)
    image.putpalette([255, 0, 0, *COLOUR, 0, 0, 0])
    image.paste(0, (0, 0, 4, SIDE))
    return image


GREY = (100,) * 3

CASES = {
    "rgba png": (pillow(half_and_half(), "png"), COLOUR),
    "la png": (pillow(half_and_half("LA"), "png"), None),
    "webp": (pillow(half_and_half(), "webp", lossless=True, exact=True), COLOUR),
    "tiff": (pillow(half_and_half(), "tiff"), COLOUR),
    "tiff la": (pillow(half_and_half("LA"), "tiff"), None),
    "jpeg 2000": (pillow(half_and_half(), "jpeg2000"), COLOUR),
    "gif": (pillow(palette(), "gif", transparency=0), COLOUR),
    "palette png": (pillow(palette(), "png", transparency=0), COLOUR),
    "palette png of bytes": (pillow(palette(), "png", transparency=b"\0\xff\xff"), COLOUR),
    "16-bit rgba": (
        png(16, 6, [bytes([255, 1, 0, 2, 0, 3, 0, 0] * 4 + [200, 9, 10, 9, 30, 9, 255, 255] * 4)] * 8),
        COLOUR,
    ),
    "16-bit la": (png(16, 4, [bytes([255, 1, 0, 0] * 4 + [100, 7, 255, 255] * 4)] * 8), GREY),
    "rgb key": (png(8, 2, [bytes([255, 0, 0] * 4 + [*COLOUR] * 4)] * 8, bytes([0, 255, 0, 0, 0, 0])), COLOUR),
    "16-bit rgb key": (
        png(16, 2, [bytes([255, 1, 0, 2, 0, 3] * 4 + [200, 9, 10, 9, 30, 9] * 4)] * 8, bytes([255, 1, 0, 2, 0, 3])),
        COLOUR,
    ),
    "grey key": (png(8, 0, [bytes([7] * 4 + [100] * 4)] * 8, bytes([0, 7])), GREY),
    "16-bit grey key": (png(16, 0, [bytes([9, 7] * 4 + [100, 7] * 4)] * 8, bytes([9, 7])), GREY),
    "4-bit grey key": (png(4, 0, [bytes([0x33] * 2 + [0x44] * 2)] * 8, bytes([0, 3])), (68,) * 3),
    "2-bit grey key": (png(2, 0, [bytes([0b01010101, 0b10101010])] * 8, bytes([0, 1])), (170,) * 3),
    "1-bit grey key": (png(1, 0, [bytes([0b11110000])] * 8, bytes([0, 1])), (0, 0, 0)),
}


@pytest.mark.parametrize("case", CASES)
def test_hidden_colours_do_not_appear(case):
    encoded, colour = CASES[case]
    pixels, _ = read_image(encoded, SIDE)
    assert (pixels[:, :4] == 255).all()
    if colour is None:
        colour = (half_and_half("LA").getpixel((7, 0))[0],) * 3
    assert np.abs(pixels[:, 4:].astype(int) - colour).max() <= (2 if case == "jpeg 2000" else 0)


def test_in_between_is_in_between():
    pixels = np.zeros((1, 256, 4), np.uint8)
    pixels[..., 0], pixels[..., 3] = 200, np.arange(256)
    found = np.asarray(opaque(Image.fromarray(pixels))).astype(float)
    alpha = np.arange(256) / 255
    assert np.abs(found[0, :, 0] - (200 * alpha + 255 * (1 - alpha))).max() <= 0.51
    assert np.abs(found[0, :, 1] - 255 * (1 - alpha)).max() <= 0.51


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_premultiplied(mode):
    image = half_and_half("LA" if mode == "La" else "RGBA")
    assert np.array_equal(np.asarray(opaque(image.convert(mode))), np.asarray(opaque(image)))


def test_opaque_images_keep_their_pixels():
    colours = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    for mode in ("RGBA", "RGBX", "CMYK", "YCbCr", "P", "LA", "L", "1", "PA"):
        image = colours.convert(mode) if mode != "PA" else colours.convert("P").convert("PA")
        assert np.array_equal(np.asarray(opaque(image)), np.asarray(image.convert("RGB"))), mode


def test_it_is_composed_before_it_is_resized():
    """A hidden colour does not bleed over an edge either."""
    wide = half_and_half().resize((64, 64), Image.Resampling.NEAREST)
    pixels, _ = read_image(pillow(wide, "png"), 21)
    assert (np.diff(pixels[0].astype(int), axis=0) <= 0).all()
    assert (pixels[0, :10] == 255).all()


def test_arrays(tmp_path):
    arrays = [np.asarray(half_and_half()), np.asarray(half_and_half("LA")), np.full((8, 8), 9, np.uint8)]
    pixels = np.zeros((3, 8, 8, 3), np.uint8)
    decode(Contents(3, ("a",), [Item(str(i), 0, array) for i, array in enumerate(arrays)]), 8, pixels)
    assert (pixels[:2, :, :4] == 255).all()
    assert (pixels[0, :, 4:] == COLOUR).all()
    assert (pixels[2] == 9).all()


def test_every_set_alike(tmp_path):
    root = write_folder(tmp_path / "set", {"a": 1, "b": 1}, size=(8, 8))
    encoded = CASES["rgba png"][0]
    for split in ("train", "test"):
        (root / split / "a" / "0.png").write_bytes(encoded)
    table = pa.table({"img": [encoded, encoded], "label": [0, 1]})
    for split in ("train", "test"):
        pq.write_table(table, tmp_path / f"{split}.parquet")
    expected = torch.tensor(read_image(encoded, 8)[0])
    folder, parquet = load_dataset("folder", root, 8), load_dataset("parquet", tmp_path, 8)
    for images in (folder.train, folder.test, parquet.train, parquet.test, load_unlabeled(root / "train", 8)[0]):
        assert torch.equal(images.images[0], expected)


@needs_dali
def test_dali(tmp_path):
    """It drops alpha, which is right only where nothing is transparent."""
    root = write_folder(tmp_path / "set", {"a": 1, "b": 1}, size=(8, 8))
    solid = half_and_half("RGB").convert("RGBA")
    for kind in ("png", "webp", "tiff", "jp2"):
        (root / "train" / "a" / f"1.{kind}").write_bytes(pillow(solid, {"jp2": "jpeg2000"}.get(kind, kind)))
    files, memory = (load_dataset("folder", root, 8, in_files=flag).train for flag in (True, False))
    assert len(files) == 6
    (x, _), *_ = make_loader(files, BatchPlan(0, 6, 6, 0, False), CPU, dali=True, workers=None).batches(0, 1)
    order = BatchPlan(0, 6, 6, 0, False).batch(0).index
    assert (x.int() - memory.images[order].int()).abs().max() <= 6
    for case in ("rgba png", "la png", "palette png", "webp", "tiff", "tiff la", "16-bit rgba", "rgb key", "grey key"):
        path = root / "train" / "b" / "0.png"
        path.write_bytes(CASES[case][0])
        with pytest.raises(InputError, match=r"b/0\.png has transparent pixels, which DALI would show; leave --dali"):
            load_dataset("folder", root, 8, in_files=True)
