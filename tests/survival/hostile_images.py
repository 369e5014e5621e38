"""Images that would be huge, that programs would be called for, and tables of them that lie."""

import io
import json
import struct
import zlib

import numpy as np
import parquet_tables
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes = b"", before: bytes = b"", depth: int = 8, colour: int = 0) -> bytes:
    """A PNG that says that it has this size, grey; ``before`` stands before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", header), before, chunk(b"IDAT", data or zlib.compress(bytes(100))), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def zeros(count: int) -> bytes:
    """So many bytes, compressed: a thousandth of them."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(min(2**20, count - at))) for at in range(0, count, 2**20)) + packer.flush()


def of_pillow(kind: str, size=(300, 300), **options) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, kind, **options)
    return buffer.getvalue()


def pictures():
    """(name of the file, its content)."""
    yield "claims.png", png(60_000, 60_000)
    yield "claims-more.png", png(2**31 - 1, 2**31 - 1)
    yield "bomb.png", png(20_000, 20_000, zeros(2**26))
    yield "just-above.png", png(8_193, 8_192, zeros(2**24))
    yield "deep.png", png(60_000, 60_000, depth=16, colour=6)
    yield "text.png", png(9, 9, zlib.compress(bytes(90)), chunk(b"zTXt", b"a\0\0" + zeros(2**26)))
    yield "profile.png", png(9, 9, zlib.compress(bytes(90)), chunk(b"iCCP", b"a\0\0" + zeros(2**26)))
    yield "claims.gif", b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + of_pillow("GIF")[10:]
    gif = of_pillow("GIF")
    frame = gif.index(b"\x2c")
    yield "frame.gif", gif[: frame + 5] + struct.pack("<HH", 65_535, 65_535) + gif[frame + 9 :]
    yield "claims.bmp", of_pillow("BMP")[:18] + struct.pack("<ii", 2**30, -(2**30)) + of_pillow("BMP")[26:]
    jpeg = of_pillow("JPEG")
    start = jpeg.index(b"\xff\xc0")
    yield "claims.jpg", jpeg[: start + 5] + struct.pack(">HH", 65_500, 65_500) + jpeg[start + 9 :]
    tiff = of_pillow("TIFF")
    yield "claims.tiff", tiff.replace(struct.pack("<HHIHH", 256, 3, 1, 300, 0), struct.pack("<HHII", 256, 4, 1, 2**31))
    yield "strips.tiff", tiff.replace(struct.pack("<HHII", 279, 4, 1, 270_000), struct.pack("<HHII", 279, 4, 1, 2**31))
    yield "claims.ppm", b"P6 1000000 1000000 255\n" + bytes(100)
    yield "claims.tga", b"\0\0\2" + bytes(9) + struct.pack("<HHBB", 65_535, 65_535, 24, 0) + bytes(100)
    yield "claims.qoi", b"qoif" + struct.pack(">II", 10**6, 10**6) + b"\3\0" + bytes(100)
    yield "claims.pcx", b"\x0a\5\1\x08" + struct.pack("<HHHH", 0, 0, 65_534, 65_534) + bytes(116)
    yield "claims.xbm", b"#define a_width 1000000\n#define a_height 1000000\nstatic char a_bits[] = {\n0x00};\n"
    yield "program.eps", of_pillow("EPS")
    yield "layers.psd", b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 30_000, 30_000, 8, 3) + bytes(20)
    yield "within.ico", of_pillow("ICO", (64, 64))
    yield "within.icns", of_pillow("ICNS", (64, 64))
    yield "script.wmf", b"\xd7\xcd\xc6\x9a\0\0" + bytes(60)
    yield "packed.fits", b"SIMPLE  =                    T" + b" " * 3000
    yield "drawing.svg", b'<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>'
    yield "pages.pdf", b"%PDF-1.4\n" + bytes(100)
    yield "film.mpg", b"\0\0\1\xb3" + bytes(100)
    yield "hierarchy.h5", b"\x89HDF\r\n\x1a\n" + bytes(100)
    yield "empty.png", b""
    yield "end.png", png(60, 60)[:50]


LARGEST = ("largest.png", lambda: png(8_192, 8_192, zeros(8_193 * 8_192)))
"""The largest that is decoded."""


def tables():
    """(what it is, a Parquet file that lies)."""

    def packed(table, **options):
        buffer = io.BytesIO()
        pq.write_table(table, buffer, **options)
        return buffer.getvalue()

    rows = 12
    whole = packed(parquet_tables.table([0, 1] * (rows // 2)))
    for what, count in (("10^12 rows", 10**12), ("100 rows", 100), ("rows below 0", -5), ("no rows", 0)):
        yield what, with_rows(whole, rows, count)
    yield "a footer longer than the file", whole[:-8] + struct.pack("<I", 2**31 - 1) + b"PAR1"
    yield "a footer of no length", whole[:-8] + struct.pack("<I", 0) + b"PAR1"
    labels = pa.array([0, 1, 0, 1], pa.int64())
    yield "zeros, packed", packed(pa.table({"img": [bytes(2**27)] * 4, "label": labels}), compression="zstd")
    image = parquet_tables.png(np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)) + bytes(2**19)
    many = pa.DictionaryArray.from_arrays(pa.array([0] * 2_000), pa.array([image], pa.binary()))
    repeated = pa.table({"img": many, "label": pa.array([0, 1] * 1_000, pa.int64())})
    yield "one image two thousand times", packed(repeated, store_schema=False)
    yield "a label of 99,999", packed(parquet_tables.table([0, 99_999, 1, 0]))
    yield "a label of a million", packed(parquet_tables.table([0, 10**6, 1, 0]))
    yield "a label of 2^63", packed(parquet_tables.table([0, 2**63 - 1, 1, 0]))
    for what, names in (("escapes", ["\x1b[2J[red]\n", "\u202eevil"]), ("a text", "cat"), ("numbers", [1, None])):
        yield f"{what} for names", packed(parquet_tables.table([0, 1, 1, 0], names=names))
    deep = parquet_tables.table([0, 1, 1, 0]).replace_schema_metadata({"huggingface": "[" * 100_000})
    yield "deep metadata", packed(deep)
    yield "a column that is a list", packed(pa.table({"img": [[b"x"]] * 4, "label": labels}))
    yield "lists in columns' names", packed(pa.table({"img\x1b[31m": [b"x"] * 4, "label": labels}))


def with_rows(data: bytes, rows: int, count: int) -> bytes:
    """``data`` with another number wherever its footer says how many rows there are."""

    def said(number):
        zigzag, text = (number << 1) ^ (number >> 63), b"\x16"
        zigzag &= 2**64 - 1
        while zigzag > 127:
            text += bytes([zigzag & 127 | 128])
            zigzag >>= 7
        return text + bytes([zigzag])

    size = struct.unpack("<I", data[-8:-4])[0]
    footer = data[-8 - size : -8]
    assert said(rows) in footer
    footer = footer.replace(said(rows), said(count))
    return data[: -8 - size] + footer + struct.pack("<I", len(footer)) + b"PAR1"


def settings():
    """(what it is, settings of a run that are not what a run wrote)."""
    for key, values in {
        "epochs": (1e300, 10**300, 2**62, "1e9"),
        "workers": (10**9, 2**70),
        "batch_size": (2**62, 10**12),
        "image_size": (10**9,),
        "crop_padding": (2**40,),
        "attack_steps": (2**62,),
        "milestones": ([10**30], list(range(10**5, 0, -1))),
        "warmup_epochs": (1e308,),
        "keep_checkpoints": (10**9,),
        "seed": (2**80,),
        "lr": (1e999,),
        "epsilon": (1e999, "8/255"),
        "model": ("evil:net", "antigravity:fly", "wrn-9994-1000", "wrn-10-1000000", "\x1b[31mwrn", "../../evil"),
        "method": ("\x1b]0;x\x07", "[red]", "x" * 10**6),
        "dataset": ("../../etc", ["digits"], {"a": 1}),
        "device": ("cuda:10000000000000", "\x1b[31m"),
        "\x1b[31mnew": (1,),
        "classes": ({"a": 1}, ["\x1b[31m"] * 3, "x"),
    }.items():
        for value in values:
            yield f"{key} {json.dumps(value)[:20]}", {key: value}
