"""What is kept of a source is not taken for another of the same sizes and times."""

import io
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import write_folder
from PIL import Image

from fastait.data import load_dataset, load_unlabeled
from fastait.data.files import fingerprint


def rewrite(path, content):
    """Other content of the same size and with the same times."""
    before = path.stat()
    assert len(content) == before.st_size
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("how", ["written", "replaced", "linked"])
def test_the_same_size_and_times_are_not_the_same_pixels(tmp_path, how):
    """As archives have it that set all times alike, with images of one size."""
    root = write_folder(tmp_path / "images", {"a": 2, "b": 2}, size=(8, 8))
    for path in root.rglob("*.png"):
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
        os.utime(path.with_suffix(".bmp"), (0, 0))
    changed = root / "train" / "a" / "0.bmp"
    other = (root / "train" / "b" / "0.bmp").read_bytes()
    if how == "linked":
        for i, content in enumerate((changed.read_bytes(), other)):
            (tmp_path / f"{i}.bmp").write_bytes(content)
            os.utime(tmp_path / f"{i}.bmp", (0, 0))
        changed.unlink()
        changed.symlink_to(tmp_path / "0.bmp")
    for loaded in (
        lambda: load_dataset("folder", root, 8).train.images,
        lambda: load_unlabeled(root / "train", 8)[0].images,
    ):
        before = loaded()
        assert not torch.equal(before[0], before[2])
        was = changed.read_bytes()
        if how == "written":
            rewrite(changed, other)
        elif how == "replaced":
            new = root / "new"
            new.write_bytes(other)
            os.utime(new, (0, 0))
            new.replace(changed)
        else:
            changed.unlink()
            changed.symlink_to(tmp_path / "1.bmp")
        after = loaded()
        assert torch.equal(after[0], before[2])
        assert torch.equal(after[2], before[2])
        changed.unlink()
        changed.write_bytes(was) if how != "linked" else changed.symlink_to(tmp_path / "0.bmp")
        os.utime(changed, (0, 0))


def test_a_parquet_file_of_the_same_size_and_times(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)

    def table(order):
        encoded = []
        for i in order:
            buffer = io.BytesIO()
            Image.fromarray(pixels[i]).save(buffer, "bmp")
            encoded.append(buffer.getvalue())
        return pa.table({"img": encoded, "label": [0, 1]})

    for split in ("train", "test"):
        pq.write_table(table([0, 1]), tmp_path / f"{split}.parquet", compression="none", use_dictionary=False)
    before = load_dataset("parquet", tmp_path, 8)
    pq.write_table(table([1, 0]), tmp_path / "other", compression="none", use_dictionary=False)
    rewrite(tmp_path / "train.parquet", (tmp_path / "other").read_bytes())
    after = load_dataset("parquet", tmp_path, 8)
    assert torch.equal(after.train.images, before.train.images.flip(0))
    assert torch.equal(after.test.images, before.test.images)


def test_what_is_written_after_a_fingerprint_has_another_time(tmp_path):
    """Also in the same tick of the file system's clock."""
    path = tmp_path / "file"
    seen = set()
    for i in range(10):
        path.write_bytes(bytes([i]))
        os.utime(path, (0, 0))
        seen.add(fingerprint(tmp_path, [path]))
    assert len(seen) == 10
