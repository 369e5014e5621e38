"""Data sets: what they hold, and what is said where they are missing or damaged."""

import hashlib
import pickle
import shutil
import tarfile

import numpy as np
import pytest
import scipy.io
import torch
from conftest import write_folder
from PIL import Image

from fastait.data import load_dataset, load_unlabeled, to_float
from fastait.runtime.errors import InputError


def test_digits():
    data = load_dataset("digits", image_size=16)
    assert len(data.train) + len(data.test) == 1797
    assert data.train.images.shape[1:] == (16, 16, 3)
    assert data.train.images.dtype == torch.uint8
    assert torch.bincount(data.test.labels).tolist() == [35, 36, 35, 36, 36, 36, 36, 35, 34, 36]
    assert data.train.images.amax() == 255
    both = {image.numpy().tobytes() for image in load_dataset("digits", image_size=8).train.images}
    assert not both & {image.numpy().tobytes() for image in load_dataset("digits", image_size=8).test.images}


def test_folder(image_folder):
    data = load_dataset("folder", image_folder, image_size=8)
    assert data.classes == ("cat", "dog")
    assert data.train.images.shape == (16, 8, 8, 3)
    assert data.train.labels.tolist() == [0] * 8 + [1] * 8


def test_folder_reads_every_mode_and_keeps_colours(tmp_path):
    root = write_folder(tmp_path / "images", {"a": 1, "b": 1})
    red = Image.new("RGB", (20, 20), (200, 10, 30))
    red.save(root / "train" / "a" / "red.webp", lossless=True)
    red.convert("P").save(root / "train" / "a" / "palette.gif")
    red.convert("L").save(root / "train" / "a" / "zgrey.bmp")
    red.convert("RGBA").save(root / "train" / "a" / "alpha.png")
    (root / "train" / "a" / ".hidden").write_text("not an image")
    data = load_dataset("folder", root, image_size=8)
    means = data.train.images.float().mean(dim=(1, 2))[:5]  # 0.png, alpha.png, palette.gif, red.webp, zgrey.bmp
    for row in (1, 2, 3):
        assert means[row].tolist() == pytest.approx([200, 10, 30], abs=3)
    assert means[4].std() == 0


def test_folder_resizes_the_shorter_side_and_crops_the_centre(tmp_path):
    root = write_folder(tmp_path / "images", {"a": 1, "b": 1})
    wide = np.zeros((10, 30, 3), dtype=np.uint8)
    wide[:, 10:20] = 255
    Image.fromarray(wide).save(root / "train" / "a" / "0.png")
    data = load_dataset("folder", root, image_size=10)
    assert data.train.images[0].min() == 255


def test_folder_turns_images_as_exif_says(tmp_path):
    root = write_folder(tmp_path / "images", {"a": 1, "b": 1})
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(root / "train" / "a" / "0.png", exif=exif)
    image = load_dataset("folder", root, image_size=8).train.images[0]
    assert image[:4].max() == 0
    assert image[4:].min() == 255


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ({"a": 2}, None, "one class only"),
        ({"a": 2, "b": 2}, {"a": 1, "b": 1, "c": 1}, "classes that train does not: c"),
        ({}, {"a": 1}, "no such folder"),
        ({"a": 2, "b": 0}, {"a": 1}, "holds no images"),
    ],
)
def test_bad_folders(tmp_path, train, test, message):
    root = write_folder(tmp_path / "images", train, test)
    with pytest.raises(InputError, match=message):
        load_dataset("folder", root)


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        load_dataset("folder", tmp_path / "nowhere")
    (tmp_path / "empty" / "train").mkdir(parents=True)
    with pytest.raises(InputError, match="no class folders"):
        load_dataset("folder", tmp_path / "empty")


@pytest.mark.parametrize("content", [b"", b"hello", "truncated"])
def test_unreadable_image_is_named(image_folder, content):
    path = image_folder / "test" / "dog" / "3.png"
    path.write_bytes(path.read_bytes()[:60] if content == "truncated" else content)
    with pytest.raises(InputError, match=r"test/dog/3\.png is not a readable image: .*--skip-bad-images"):
        load_dataset("folder", image_folder, image_size=8)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn"])
def test_no_network_says_what_to_do(name, tmp_path, monkeypatch):
    import torchvision.datasets as sources

    closed = "http://127.0.0.1:9/archive"
    monkeypatch.setattr(sources.CIFAR10, "url", closed)
    monkeypatch.setattr(sources.CIFAR100, "url", closed)
    monkeypatch.setattr(sources.SVHN, "split_list", {k: [closed, *v[1:]] for k, v in sources.SVHN.split_list.items()})
    with pytest.raises(InputError, match=r"without internet, put .*md5 .* into ") as caught:
        load_dataset(name, tmp_path / "data")
    assert "\n" not in str(caught.value)


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_cifar(root, monkeypatch, source, key, batches, labels):
    """An official archive's layout with two images a batch, and the checksums that belong to it.

    Args:
        source: torchvision's class.
        key: what its batches call the labels.
        batches: the names of its files, the test set's last.
        labels: two of each.

    Returns:
        The archive and the pixels, uint8 [batches, 2, 3, 32, 32].
    """
    folder = root / "source" / source.base_folder
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (len(batches), 2, 3, 32, 32), dtype=np.uint8)
    for name, images, own in zip(batches, pixels, labels, strict=True):
        content = {"data": images.reshape(2, -1), key: own}
        (folder / name).write_bytes(pickle.dumps(content))
    meta = folder / source.meta["filename"]
    meta.write_bytes(
        pickle.dumps({source.meta["key"]: [f"class{i}" for i in range(100 if key == "fine_labels" else 10)]})
    )
    archive = root / source.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    monkeypatch.setattr(source, "tgz_md5", md5(archive))
    monkeypatch.setattr(source, "train_list", [[n, md5(folder / n)] for n in batches[:-1]])
    monkeypatch.setattr(source, "test_list", [[batches[-1], md5(folder / batches[-1])]])
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": md5(meta)})
    monkeypatch.setattr(source, "url", "http://127.0.0.1:9/archive")
    return archive, pixels


def write_cifar10(root, monkeypatch):
    from torchvision.datasets import CIFAR10

    batches = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    return write_cifar(root, monkeypatch, CIFAR10, "labels", batches, [[i, 9 - i] for i in range(6)])


def test_cifar10_from_its_official_archive(tmp_path, monkeypatch):
    _, pixels = write_cifar10(tmp_path, monkeypatch)
    data = load_dataset("cifar10", tmp_path)
    assert data.train.images.shape == (10, 32, 32, 3)
    assert data.train.labels.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    assert data.test.labels.tolist() == [5, 4]
    assert data.classes[3] == "class3"
    assert np.array_equal(data.test.images.numpy(), pixels[5].transpose(0, 2, 3, 1))


def test_cifar100_from_its_official_archive(tmp_path, monkeypatch):
    """Fine labels, of which it has coarse ones beside it."""
    from torchvision.datasets import CIFAR100

    _, pixels = write_cifar(tmp_path, monkeypatch, CIFAR100, "fine_labels", ["train", "test"], [[99, 0], [7, 42]])
    data = load_dataset("cifar100", tmp_path)
    assert data.train.labels.tolist() == [99, 0]
    assert data.test.labels.tolist() == [7, 42]
    assert len(data.classes) == 100
    assert np.array_equal(data.train.images.numpy(), pixels[0].transpose(0, 2, 3, 1))


def test_a_downloaded_set_is_decoded_once_and_sets_in_one_folder_do_not_meet(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR100

    archive, _ = write_cifar10(tmp_path / "data", monkeypatch)
    write_cifar(tmp_path / "other", monkeypatch, CIFAR100, "fine_labels", ["train", "test"], [[99, 0], [7, 42]])
    (tmp_path / "other" / CIFAR100.filename).rename(tmp_path / "data" / CIFAR100.filename)
    ten, hundred = (load_dataset(name, tmp_path / "data") for name in ("cifar10", "cifar100"))
    assert len(ten.train) == 10
    assert len(hundred.train) == 2
    for path in (archive, tmp_path / "data" / CIFAR100.filename):
        path.unlink()
    shutil.rmtree(tmp_path / "data" / "cifar-10-batches-py")
    shutil.rmtree(tmp_path / "data" / "cifar-100-python")
    assert load_dataset("cifar10", tmp_path / "data").checksum == ten.checksum
    assert load_dataset("cifar100", tmp_path / "data").checksum == hundred.checksum


def test_damaged_archive_is_not_used(tmp_path, monkeypatch):
    archive, _ = write_cifar10(tmp_path, monkeypatch)
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"--dataset cifar10: .*md5"):
        load_dataset("cifar10", tmp_path)


def test_svhn_from_its_official_files(tmp_path, monkeypatch):
    """Its label 10 is the digit 0, and its images stand height first."""
    from torchvision.datasets import SVHN

    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 2), dtype=np.uint8)
    splits = dict(SVHN.split_list)
    for split in ("train", "test"):
        path = tmp_path / splits[split][1]
        scipy.io.savemat(path, {"X": pixels, "y": np.array([[10], [3]], dtype=np.uint8)})
        splits[split] = ["http://127.0.0.1:9/", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(SVHN, "split_list", splits)
    data = load_dataset("svhn", tmp_path)
    assert data.test.labels.tolist() == [0, 3]
    assert np.array_equal(data.train.images[1].numpy(), pixels[..., 1])


def test_to_float():
    images = torch.randint(0, 256, (2, 4, 6, 3), dtype=torch.uint8)
    x = to_float(images)
    assert x.shape == (2, 3, 4, 6)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x[1, 2], images[1, :, :, 2] / 255)


def test_stratified():
    data = load_dataset("digits", image_size=8)
    part = data.test.stratified(103)
    assert len(part) == 103
    counts = torch.bincount(part.labels)
    assert counts.min() >= 10
    assert counts.max() <= 11
    assert len(data.test.stratified(len(data.test))) == len(data.test)


def test_16_bit_grey_keeps_its_range_and_32_bit_is_refused(tmp_path):
    root = write_folder(tmp_path / "images", {"a": 1, "b": 1})
    pixels = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(pixels).save(root / "train" / "a" / "0.png")
    image = load_dataset("folder", root, image_size=8).train.images[0]
    assert np.array_equal(image[..., 0].numpy(), pixels >> 8)
    Image.fromarray(pixels.astype(np.float32)).save(root / "train" / "a" / "1.tiff")
    with pytest.raises(InputError, match=r"1\.tiff has mode F"):
        load_dataset("folder", root, image_size=8)


def test_unlabeled_images_lie_in_whatever_folders(tmp_path):
    root = tmp_path / "more"
    (root / "a" / "b").mkdir(parents=True)
    (root / ".hidden").mkdir()
    for i, name in enumerate(("z.png", "a/1.png", "a/b/2.jpg", ".hidden/3.png", ".4.png")):
        Image.new("RGB", (10, 8), (40 * i, 0, 0)).save(root / name, quality=100)
    images, checksum, skipped = load_unlabeled(root, 8)
    assert images.images.shape == (3, 8, 8, 3)
    assert [round(value / 40) for value in images.images[:, 4, 4, 0].tolist()] == [1, 2, 0]
    assert not skipped
    assert (root / ".fastait-cache").is_dir()
    again, same, _ = load_unlabeled(root, 8)
    assert torch.equal(again.images, images.images)
    assert same == checksum
    (root / "text.txt").write_text("no image")
    with pytest.raises(InputError, match=r"text\.txt is not a readable image"):
        load_unlabeled(root, 8)
    images, other, skipped = load_unlabeled(root, 8, skip_bad=True)
    assert (len(images), other, len(skipped)) == (3, checksum, 1)


def test_no_unlabeled_images(tmp_path):
    with pytest.raises(InputError, match=r"--unlabeled .*nowhere: no such folder"):
        load_unlabeled(tmp_path / "nowhere", 8)
    with pytest.raises(InputError, match="holds no images"):
        load_unlabeled(tmp_path, 8)


def test_images_in_files_are_decoded_where_they_are_asked_for(image_folder):
    places = torch.tensor([9, 2, 15])
    in_files, in_memory = (load_dataset("folder", image_folder, 8, in_files=flag).train for flag in (True, False))
    assert torch.equal(in_files.at(places).images, in_memory.at(places).images)
    assert torch.equal(in_files.at(places).labels, in_memory.labels[places])


@pytest.mark.parametrize(("name", "wrong"), [("cache_dir", 0), ("data_dir", 0), ("image_size", "8")])
def test_arguments_of_no_type(name, wrong, image_folder):
    """What is false is not what is not given."""
    with pytest.raises((InputError, TypeError), match=f"^{name} must be "):
        load_dataset("folder", **{"data_dir": image_folder, "image_size": 8, name: wrong})


def test_folders_without_labels_that_cannot_be():
    with pytest.raises(InputError, match="File name too long"):
        load_unlabeled("x" * 300, 8)
    with pytest.raises(InputError, match="cache_dir must be a path"):
        load_unlabeled(".", 8, cache_dir=0)


def test_columns_that_are_no_texts(tmp_path):
    with pytest.raises(InputError, match=r"^--image-column must be a text, got \[1\]$"):
        load_dataset("parquet", tmp_path, image_column=[1])
