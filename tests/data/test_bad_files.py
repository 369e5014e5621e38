"""What is no image, no file or of no class: refused in one line, or left out and counted."""

import math
import os
import shutil
import socket

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import write_folder
from parquet_tables import PIXELS, png, table, write
from PIL import Image

from fastait.data import load_dataset, load_unlabeled
from fastait.data.decode import Contents, Item, decode
from fastait.data.files import walk
from fastait.runtime.errors import InputError


def make(kind, path):
    """Something at ``path`` that is no image."""
    if kind == "broken link":
        path.symlink_to("nowhere")
    elif kind == "circle of links":
        path.symlink_to(path.name)
    elif kind == "link to the folder above":
        path.symlink_to(path.parent.parent)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            here = os.getcwd()
            os.chdir(path.parent)  # its name may only be short
            server.bind(path.name)
            os.chdir(here)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "text":
        path.write_text("no image")
    elif kind == "small":
        Image.new("RGB", (7, 30)).save(path)


BAD = {
    "broken link": "is a broken link",
    "circle of links": "cannot be read: Too many levels of symbolic links",
    "link to the folder above": "is a link to a folder that it lies in",
    "pipe": "is a named pipe, not a file",
    "socket": "is a socket, not a file",
    "device": "is a device, not a file",
    "text": "is not a readable image: of no format that is read here",
    "small": "is 7x30 pixels, smaller than --image-size 8",
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files(tmp_path, kind):
    root = write_folder(tmp_path / "set", {"a": 12, "b": 2}, {"a": 1, "b": 1})
    good = load_dataset("folder", root, 8)
    path = root / "train" / "a" / "3.5.png"
    make(kind, path)
    unlabeled = root / "train"
    for load in (lambda **o: load_dataset("folder", root, 8, **o), lambda **o: load_unlabeled(unlabeled, 8, **o)):
        with pytest.raises(InputError, match=rf"train/a/3\.5\.png {BAD[kind]}.*--skip-bad-images leaves") as caught:
            load()
        assert "\n" not in str(caught.value)
    for _ in range(2):
        data = load_dataset("folder", root, 8, skip_bad=True)
        assert data.skipped == (f"{path} {BAD[kind]}",)
        assert data.checksum == good.checksum
    in_files = load_dataset("folder", root, 8, skip_bad=True, in_files=True).train
    assert path not in in_files.paths
    images, _, skipped = load_unlabeled(unlabeled, 8, skip_bad=True)
    assert len(images) == 14
    assert skipped == (f"{path} {BAD[kind]}",)


def test_files_that_may_not_be_read(tmp_path, monkeypatch):
    """What was left out for somebody who is not allowed to is there for somebody who is, in the same cache."""
    root = write_folder(tmp_path / "set", {"a": 3, "b": 2}, {"a": 1, "b": 1})
    file, folder = root / "train" / "a" / "1.png", root / "train" / "b" / "inside"
    shutil.copytree(root / "train" / "b", folder)
    opened, accessed, scanned = Image.open, os.access, os.scandir

    def refuse(function):
        def refusing(path, *rest, **options):
            if str(path) in (str(file), str(folder)):
                raise PermissionError(13, "Permission denied", str(path))
            return function(path, *rest, **options)

        return refusing

    with monkeypatch.context() as patch:  # root, whom tests may run as, is allowed everything
        patch.setattr("fastait.data.decode.Image.open", refuse(opened))
        patch.setattr("os.scandir", refuse(scanned))
        patch.setattr("os.access", lambda path, *rest, **more: path != file and accessed(path, *rest, **more))
        skipped = [f"{file} cannot be read: Permission denied", f"{folder} is a folder that cannot be read"]
        for _ in range(2):
            assert list(load_dataset("folder", root, 8, skip_bad=True).skipped) == skipped
            assert list(load_unlabeled(root / "train", 8, skip_bad=True)[2]) == skipped
        with pytest.raises(InputError, match=r"a/1\.png cannot be read: Permission denied \(--skip-bad"):
            load_dataset("folder", root, 8)
    assert len(load_dataset("folder", root, 8, skip_bad=True).train) == 7


def test_a_broken_link_in_place_of_a_class(tmp_path):
    root = write_folder(tmp_path / "set", {"a": 3, "b": 2}, {"a": 1, "b": 1})
    (root / "train" / "c").symlink_to("nowhere")
    with pytest.raises(InputError, match="train/c is a broken link"):
        load_dataset("folder", root, 8)
    data = load_dataset("folder", root, 8, skip_bad=True)
    assert data.classes == ("a", "b")
    assert data.skipped == (f"{root}/train/c is a broken link",)
    assert len(data.train) == 5


def test_folders_within_classes_are_taken_as_torchvision_takes_them(tmp_path):
    from torchvision.datasets import ImageFolder

    root = write_folder(tmp_path / "set", {"a": 3, "b": 1})
    for inside in ("x/y", "x-y", "x", "B", "x/.hidden"):
        shutil.copytree(root / "train" / "b", root / "train" / "a" / inside, dirs_exist_ok=True)
    (root / "train" / "a" / "linked").symlink_to(root / "test" / "a")
    (root / "train" / "a" / "z").mkdir()
    theirs = [path for path, label in ImageFolder(root / "train").samples if label == 0 and ".hidden" not in path]
    assert [str(path) for path in walk(root / "train" / "a")] == theirs
    data = load_dataset("folder", root, 8)
    assert data.train.labels.tolist() == [0] * 10 + [1]


def test_links_that_lead_to_each_other_end(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(b"")
        (tmp_path / name / "link").symlink_to(tmp_path / other)
    assert [str(path.relative_to(tmp_path)) for path in walk(tmp_path / "a")] == [
        "a/0.png",
        "a/link/0.png",
        "a/link/link",
    ]


@pytest.mark.parametrize("label", [None, -1, 2, True, 0.5, math.nan, math.inf, "0", 2**70])
def test_labels_that_are_no_class(label):
    pixels = np.full((8, 8, 3), 7, np.uint8)
    contents = Contents(3, ("a", "b"), [Item("one", 0, pixels), Item("two", label, pixels), Item("three", 1, pixels)])
    with pytest.raises(InputError, match=r"two has label .*; labels must be whole numbers from 0 to 1 \(--skip-bad"):
        decode(contents, 8, None)
    found = decode(contents, 8, None, skip_bad=True)
    assert found.labels == [0, 1]
    assert list(found.skipped) == [1]


@pytest.mark.parametrize("bad", [None, -1, 2**31 - 1, "nan", 0.5])
def test_labels_in_parquet(tmp_path, bad):
    floating = isinstance(bad, str | float)
    labels = [0, 1, float(bad) if floating else bad, 1]
    root = write(tmp_path / "set", [table(labels, label_type=pa.float64() if floating else None)], [table([0])])
    expected = r"column label must hold integers, but is double \(--skip-bad" if floating else "row 2 .* has label"
    for _ in range(2):
        with pytest.raises(InputError, match=expected):
            load_dataset("parquet", root, 8)
        data = load_dataset("parquet", root, 8, skip_bad=True)
        assert data.train.labels.tolist() == [0, 1, 1]
        assert data.classes == ("0", "1")
        assert len(data.skipped) == 1


def test_no_row_with_bytes(tmp_path):
    images = [{"bytes": None, "path": "x/1.png"}, {"bytes": None, "path": "x/2.png"}]
    root = write(tmp_path / "set", [pa.table({"img": images, "label": [0, 1]})], [table([0])])
    with pytest.raises(InputError, match=r"row 0 \(x/1\.png\) is a path without the image's bytes"):
        load_dataset("parquet", root, 8)


def test_rows_without_bytes(tmp_path):
    images = [{"bytes": png(PIXELS[0]), "path": None}, {"bytes": None, "path": "x/1.png"}, {"bytes": b"", "path": ""}]
    root = write(tmp_path / "set", [pa.table({"img": images, "label": [0, 1, 0]})], [table([0])])
    with pytest.raises(InputError, match=r"row 1 \(x/1\.png\) is a path without the image's bytes; the file must hold"):
        load_dataset("parquet", root, 8)
    skipped = load_dataset("parquet", root, 8, skip_bad=True).skipped
    assert len(skipped) == 2
    assert "row 2 is empty: it holds neither an image's bytes nor a path" in skipped[1]


@pytest.mark.parametrize("kind", ["broken link", "pipe", "circle of links"])
def test_a_parquet_file_that_is_none_is_never_left_out(tmp_path, kind):
    root = write(tmp_path / "set", [table([0, 1])] * 2, [table([0])])
    path = root / "train-00001-of-00002.parquet"
    path.unlink()
    make(kind, path)
    with pytest.raises(InputError, match=rf"train-00001-of-00002\.parquet {BAD[kind]}"):
        load_dataset("parquet", root, 8, skip_bad=True)


COMPOSED, DECOMPOSED = "d\u00e9", "de\u0301"


def test_two_spellings_of_a_name(tmp_path):
    root = write_folder(tmp_path / "set", {COMPOSED: 2, "z": 2}, {DECOMPOSED: 1, "z": 1})
    data = load_dataset("folder", root, 8)
    assert data.classes == (COMPOSED, "z")
    assert data.test.labels.tolist() == [0, 1]
    (root / "train" / DECOMPOSED).mkdir()
    Image.new("RGB", (9, 9)).save(root / "train" / DECOMPOSED / "more.png")
    data = load_dataset("folder", root, 8)
    assert data.classes == (COMPOSED, "z")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1]
    hub = write(tmp_path / "hub", [table([0], names=[COMPOSED, "z"])], [table([0], names=[DECOMPOSED, "z"])])
    assert load_dataset("parquet", hub, 8).classes == (COMPOSED, "z")


def grey(root, sides, kind):
    """A set of squares of these sides, as MNIST's are grey."""
    images = [Image.fromarray(np.full((side, side), 99, np.uint8)) for side in sides]
    for split in ("train", "test"):
        if kind == "folder":
            for i, image in enumerate(images):
                path = root / split / "ab"[i % 2] / f"{i:03}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
        else:
            root.mkdir(exist_ok=True)
            encoded = [png(np.asarray(image)) for image in images]
            columns = {"image": encoded, "label": [i % 2 for i in range(len(images))]}
            pq.write_table(pa.table(columns), root / f"{split}.parquet")
    return root


@pytest.mark.parametrize("kind", ["folder", "parquet"])
@pytest.mark.parametrize(
    ("sides", "hint"),
    [
        ([28] * 30, "as 60 of 60 images are: --image-size 28 takes them all"),
        ([28] * 19 + [9], "as 40 of 40 images are: --image-size 28 takes 38 of them, --image-size 9 all"),
        ([28] * 19 + [5], "as 40 of 40 images are: --image-size 28 takes 38 of them, --skip-bad-images leaves"),
        ([64] * 10 + [28] * 10, "as 20 of 40 images are: --image-size 28 takes them all"),
        ([64] * 19 + [28], "as 2 of 40 images are: --skip-bad-images leaves them out; --image-size 28 takes them all"),
        ([64] * 19 + [5], "as 2 of 40 images are: --skip-bad-images leaves them out$"),
        ([5] * 10, "as 20 of 20 images are; --image-size must be at least 8, which 20 of them do not have"),
    ],
)  # fmt: skip
def test_images_that_are_too_small(tmp_path, kind, sides, hint):
    root = grey(tmp_path / "set", sides, kind)
    with pytest.raises(InputError, match=r"pixels, smaller than --image-size 32, " + hint):
        load_dataset(kind, root)
    if sides == [28] * 30:
        with pytest.raises(InputError, match=r"none of the .* pixels, smaller than .*: --image-size 28 takes them all"):
            load_dataset(kind, root, skip_bad=True)
        assert (load_dataset(kind, root, 28).train.images == 99).all()


def test_unlabeled_images_that_are_too_small(tmp_path):
    root = grey(tmp_path / "set", [28] * 3, "folder")
    with pytest.raises(InputError, match="as 6 of 6 images are: --image-size 28 takes them all"):
        load_unlabeled(root, 32)


def test_names_do_nothing_to_a_terminal(tmp_path):
    root = write_folder(tmp_path / "set", {"a\x1b[31m\n": 1, "b": 1})
    (root / "train" / "a\x1b[31m\n" / "0.png").write_text("x")
    with pytest.raises(InputError) as caught:
        load_dataset("folder", root, 8)
    assert str(caught.value).isprintable()
    assert torch.equal(load_dataset("folder", root, 8, skip_bad=True).train.labels, torch.tensor([1]))
