"""Parquet files in the hub's image layout."""

import sys

import numpy as np
import pyarrow as pa
import pytest
from parquet_tables import PIXELS, png, table, write

from fastait.data import load_dataset
from fastait.runtime.errors import InputError


def load(root, **options):
    return load_dataset("parquet", root, image_size=8, **options)


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"image": "image"},
        {"struct": False},
        {"label": "fine_label"},
        {"label_type": pa.int32()},
        {"names": ["x", "y"]},
    ],
    ids=str,
)
def test_layouts(tmp_path, layout):
    root = write(
        tmp_path / "set" / "data", [table([1, 0, 1], **layout), table([0], first=3, **layout)], [table([1], **layout)]
    )
    data = load(root.parent)
    assert data.name == "set"
    assert data.classes == (("x", "y") if "names" in layout else ("0", "1"))
    assert data.train.labels.tolist() == [1, 0, 1, 0]
    assert np.array_equal(data.train.images.numpy(), PIXELS[:4])
    assert np.array_equal(data.test.images.numpy(), PIXELS[:1])
    again = load(root.parent)
    assert again.checksum == data.checksum
    assert again.classes == data.classes


def test_classes_that_the_training_set_lost_are_no_labels_of_the_test_set(tmp_path):
    """Though the test set itself has not changed since it was decoded."""
    root = write(tmp_path / "set", [table([0, 1, 2])], [table([2])])
    assert len(load(root).classes) == 3
    write(root, [table([0, 1, 1])], [])
    with pytest.raises(InputError, match=r"test\.parquet row 0 .* has label 2; labels must be .* from 0 to 1"):
        load(root)


def test_images_are_decoded_in_order_over_many_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("fastait.data.decode.CHUNK", 5)
    monkeypatch.setattr("fastait.data.parquet.ROWS", 3)
    root = write(tmp_path / "set", [table([i % 3 for i in range(12)])], [table([0, 2])])
    assert np.array_equal(load(root).train.images.numpy(), PIXELS)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (table([0, 1, -1]), table([0]), r"train\.parquet row 2 \(2\.png\) has label -1; labels must be .* from 0 to 1"),
        (table([0, 1]), table([0, 2]), r"test\.parquet row 1 \(1\.png\) has label 2; labels must be .* from 0 to 1"),
        (table([0, 3], names=["a", "b", "c"]), table([0]), "row 1 .* has label 3; labels must be .* from 0 to 2"),
        (table([0, None]), table([0]), "row 1 .* has label None"),
        (table([0.0, 1.0], label_type=pa.float64()), table([0]), "column label must hold integers, but is double"),
        (
            table([0, 1], image="picture"),
            table([0]),
            "has the columns picture, label, other; needed are img or image and",
        ),
        (table([0, 1], label="kind"), table([0]), "needed are img or image and label or fine_label"),
        (
            pa.table({"img": [3, 4], "label": [0, 1]}),
            table([0]),
            "column img must hold encoded images as bytes, but is",
        ),
        (table([0]).slice(0, 0), table([0]), "holds no rows"),
    ],
)
def test_bad_tables(tmp_path, train, test, message):
    with pytest.raises(InputError, match=message):
        load(write(tmp_path / "set", [train], [test]))


def test_bad_images_are_named_by_file_row_and_path(tmp_path):
    images = [
        {"bytes": png(PIXELS[0]), "path": "good"},
        {"bytes": b"what", "path": "bad"},
        {"bytes": None, "path": None},
        None,
    ]
    broken = pa.table({"img": images, "label": [0, 1, 0, 1]})
    root = write(tmp_path / "set", [broken], [table([0])])
    with pytest.raises(InputError, match=r"train\.parquet row 1 \(bad\) is not a readable image"):
        load(root)
    data = load(root, skip_bad=True)
    assert data.train.labels.tolist() == [0]
    assert data.classes == ("0", "1")
    assert [line.partition(" is ")[0].rpartition("parquet ")[2] for line in data.skipped] == [
        "row 1 (bad)",
        "row 2",
        "row 3",
    ]


def test_splits_that_name_their_classes_differently(tmp_path):
    root = write(tmp_path / "set", [table([0, 1], names=["a", "b"])], [table([0], names=["b", "a"])])
    with pytest.raises(InputError, match=r"test\.parquet names its classes b, a, .*train\.parquet a, b"):
        load(root)


def test_a_missing_shard(tmp_path):
    root = write(tmp_path / "set", [table([0, 1])] * 3, [table([0])])
    (root / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(InputError, match=r"does not hold all 3 of train-\*-of-00003\.parquet"):
        load(root)


def test_one_class(tmp_path):
    with pytest.raises(InputError, match="the training set has one class only"):
        load(write(tmp_path / "set", [table([0, 0])], [table([0])]))


@pytest.mark.parametrize("damage", [b"", b"PAR1", "truncated", "inside"])
def test_damaged_files(tmp_path, damage):
    root = write(tmp_path / "set", [table([0, 1] * 6)], [table([0])])
    path = root / "train.parquet"
    whole = bytearray(path.read_bytes())
    if damage == "truncated":
        damage = bytes(whole[: len(whole) // 2])
    elif damage == "inside":
        whole[4:400] = bytes(396)
        damage = bytes(whole)
    path.write_bytes(damage)
    with pytest.raises(InputError, match=r"train\.parquet( is truncated or no parquet file| row 0 )") as caught:
        load(root)
    assert "\n" not in str(caught.value)


def test_files_that_are_missing_or_ambiguous(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        load(tmp_path / "nowhere")
    root = write(tmp_path / "set", [table([0, 1])], [])
    with pytest.raises(InputError, match=r"set holds no test\*\.parquet"):
        load(root)
    write(tmp_path / "set" / "other", [table([0, 1])], [table([1])])
    with pytest.raises(
        InputError, match=r"train\*\.parquet lies in several folders; give one as --data-dir: .*set, .*other"
    ):
        load(root)
    with pytest.raises(InputError, match="--dataset parquet needs --data-dir DIR with DIR/train"):
        load(None)


def test_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r"pyarrow cannot be imported .* pip install 'fastait\[parquet\]'"):
        load(tmp_path)
