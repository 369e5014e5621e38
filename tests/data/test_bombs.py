"""Images and tables that would become huge, and formats that are handed to programs."""

import hostile_images
import numpy as np
import parquet_tables
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastait.data import decode, load_dataset
from fastait.data.decode import BadImage, Item, read_image
from fastait.runtime.errors import InputError


def test_an_image_of_too_many_pixels_is_not_decoded():
    with pytest.raises(BadImage, match="is 8193x8192 pixels; images of at most 67 million pixels are decoded"):
        read_image(hostile_images.png(8193, 8192), 8)
    with pytest.raises(BadImage, match="image file is truncated"):  # it was tried
        read_image(hostile_images.png(8192, 8192), 8)


@pytest.mark.parametrize("kind", ["EPS", "ICO", "ICNS"])
def test_formats_that_are_no_plain_images(kind):
    with pytest.raises(BadImage, match="of no format that is read here"):
        read_image(hostile_images.of_pillow(kind, (64, 64)), 8)


def test_large_images_are_read_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr(decode, "CHUNK_BYTES", 1000)
    items = [Item(str(i), 0, bytes(400)) for i in range(7)] + [Item("array", 0, np.zeros((9, 9, 3), np.uint8))] * 600
    chunks = list(decode._chunks(items))
    assert [len(chunk) for chunk in chunks] == [3, 3, 512, 89]
    assert [item for chunk in chunks for item in chunk] == items


def test_rows_are_counted_and_not_believed(tmp_path):
    good = parquet_tables.table([0, 1] * 6)
    parquet_tables.write(tmp_path, [good], [good])
    path = tmp_path / "train.parquet"
    whole = path.read_bytes()
    path.write_bytes(hostile_images.with_rows(whole, 12, 10**12))
    with pytest.raises(InputError, match=r"train\.parquet says that it holds 1,000,000,000,000 rows"):
        load_dataset("parquet", tmp_path, 8)
    path.write_bytes(hostile_images.with_rows(whole, 12, 100))
    assert len(load_dataset("parquet", tmp_path, 8).train) == 12


def test_columns_that_would_unpack(tmp_path):
    good = parquet_tables.table([0, 1] * 6)
    parquet_tables.write(tmp_path, [good], [good])
    zeros = pa.table({"img": [bytes(2**26), bytes(2**26 - 1)], "label": pa.array([0, 1], pa.int64())})
    pq.write_table(zeros, tmp_path / "train.parquet", compression="zstd")
    with pytest.raises(InputError, match=r"bytes of images, and is no larger than .*: no images are so small"):
        load_dataset("parquet", tmp_path, 8)
