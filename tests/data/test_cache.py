"""Decoded sets are kept beside their source, and what is kept is used only when it is whole and of that source."""

import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from conftest import write_folder
from PIL import Image

from fastait.data import load_dataset, load_unlabeled
from fastait.data.cache import CACHE
from fastait.data.decode import decode
from fastait.runtime.errors import InputError


@pytest.fixture
def root(tmp_path):
    return write_folder(tmp_path / "images", {"a": 5, "b": 4}, {"a": 2, "b": 1})


@pytest.fixture
def decoded(monkeypatch):
    """How many images each call of ``decode`` was given."""
    calls = []

    def counting(contents, *arguments, **options):
        calls.append(contents.count)
        return decode(contents, *arguments, **options)

    monkeypatch.setattr("fastait.data.cache.decode", counting)
    return calls


def load(root, **options):
    notes = []
    return load_dataset("folder", root, **{"image_size": 8, **options}, note=notes.append), notes


def same(one, other):
    assert one.classes == other.classes
    assert one.checksum == other.checksum
    assert one.sizes == other.sizes
    for ours, theirs in ((one.train, other.train), (one.test, other.test)):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)


def kept(root):
    return root / CACHE / "folder"


def test_decoded_once(root, decoded):
    first, notes = load(root)
    again, more_notes = load(root)
    assert decoded == [9, 3]
    assert notes == more_notes == []
    same(first, again)
    assert first.train.labels.tolist() == [0] * 5 + [1] * 4
    expected = np.asarray(Image.open(root / "train" / "b" / "2.png").resize((8, 8), 2, box=(0, 1, 10, 11)))
    assert np.array_equal(first.train.images[7].numpy(), expected)
    assert {p.name for p in kept(root).iterdir()} == {
        *(f"{split}-8px.{ending}" for split in ("train", "test") for ending in ("u8", "json")),
        ".lock",
    }


def test_sizes_do_not_share(root, decoded):
    load(root)
    load(root, image_size=9)
    load(root)
    assert decoded == [9, 3, 9, 3]


@pytest.mark.parametrize("change", ["written", "added", "removed", "renamed"])
def test_a_changed_source_is_decoded_again(root, decoded, change):
    before, _ = load(root)
    path = root / "train" / "a" / "1.png"
    if change == "written":
        Image.new("RGB", (10, 12), "red").save(path)
    elif change == "added":
        Image.new("RGB", (10, 12), "red").save(path.with_name("9.png"))
    elif change == "removed":
        path.unlink()
    else:
        path.rename(path.with_name("7.png"))
    after, notes = load(root)
    assert decoded == [9, 3, {"added": 10, "removed": 8}.get(change, 9)]
    assert after.checksum != before.checksum
    assert notes == []


@pytest.mark.parametrize(
    "damage", ["flipped bit", "half", "longer", "no pixels", "half json", "other json", "deep json", "other labels"]
)
def test_a_damaged_cache_is_replaced(root, decoded, damage):
    before, _ = load(root)
    pixels, about = kept(root) / "train-8px.u8", kept(root) / "train-8px.json"
    content = bytearray(pixels.read_bytes())
    if damage in ("flipped bit", "half", "longer", "no pixels"):
        pixels.unlink()  # it is mapped
    if damage == "flipped bit":
        content[700] ^= 4
        pixels.write_bytes(content)
    elif damage == "half":
        pixels.write_bytes(content[: len(content) // 2])
    elif damage == "longer":
        pixels.write_bytes(content[::-1] + b"more")
    elif damage == "half json":
        about.write_bytes(about.read_bytes()[:-40])
    elif damage == "other labels":
        about.write_text(about.read_text().replace('"labels": [0,', '"labels": [1,'))
    elif damage == "other json":
        about.write_text("[]")
    elif damage == "deep json":
        about.write_text("[" * 100_000)
    after, notes = load(root)
    assert decoded == [9, 3, 9]
    same(before, after)
    assert len(notes) == (damage != "no pixels")
    assert all("is damaged" in note and "the train images are decoded again" in note for note in notes)
    same(load(root)[0], before)
    assert decoded == [9, 3, 9]


def test_killed_while_decoding(root, decoded):
    """What a kill leaves is a partial file, which the next start replaces."""
    script = (
        "import os, fastait.data.decode as d; from pathlib import Path; from fastait.data import load_dataset\n"
        "read = d.read_image\n"
        "d.read_image = lambda path, *rest: os._exit(9) if path.name == '3.png' else read(path, *rest)\n"
        f"load_dataset('folder', Path({str(root)!r}), image_size=8)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    assert {p.name for p in kept(root).iterdir()} == {"train-8px.u8.partial", ".lock"}
    data, notes = load(root)
    assert decoded == [9, 3]
    assert notes == []
    assert not list(kept(root).glob("*.partial"))
    same(load(root)[0], data)


def test_full_disk(root, decoded):
    """A disk without room for the pixels: one line, and the set in memory all the same."""
    script = (
        "import resource, torch; from pathlib import Path; from fastait.data import load_dataset\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
        f"data = load_dataset('folder', Path({str(root)!r}), image_size=8, note=print)\n"
        "print(data.checksum)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3  # neither the 1,728 bytes of the one fit nor the 576 of the other
    assert "train-8px.u8 cannot be written (File too large), so the train images are decoded at every start" in lines[0]
    assert lines[-1] == load(root)[0].checksum


def test_room_is_taken_before_anything_is_written(root, monkeypatch):
    """A mapping of a file that the disk has no blocks for kills the process at its first write."""

    def no_room(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", no_room)
    data, notes = load(root)
    assert len(data.train) == 9
    assert "train-8px.u8 cannot be written (No space left on device), so the train images" in notes[0]
    assert {p.name for p in kept(root).iterdir()} == {".lock"}


@pytest.mark.parametrize("change", ["test pixels", "class name", "label"])
def test_the_checksum_is_of_everything_that_a_run_sees(root, change):
    before, _ = load(root)
    if change == "test pixels":
        Image.new("RGB", (10, 12), "red").save(root / "test" / "b" / "0.png")
    elif change == "class name":
        for split in ("train", "test"):
            (root / split / "a").rename(root / split / "aa")
    else:
        (root / "train" / "b" / "0.png").rename(root / "train" / "a" / "9.png")  # the same images in the same order
    after, _ = load(root)
    assert after.checksum != before.checksum
    assert torch.equal(after.train.images, before.train.images)


def test_folder_that_cannot_be_written(root):
    (root / CACHE).write_text("in the way")  # root may write everywhere, so permissions would not stop it here
    data, notes = load(root)
    assert len(data.train) == 9
    assert [note.partition(" cannot")[2] for note in notes] == [
        f" be written (Not a directory), so the {split} images are decoded at every start"
        for split in ("train", "test")
    ]


def test_bad_images_are_left_out_and_listed(root, decoded):
    (root / "train" / "a" / "1.png").write_bytes(b"no image")
    Image.new("RGB", (30, 7)).save(root / "train" / "b" / "0.png")
    (root / "test" / "a" / "1.png").write_bytes((root / "test" / "a" / "1.png").read_bytes()[:50])
    with pytest.raises(InputError, match=r"train/a/1\.png is not a readable image: .*\(--skip-bad-images leaves"):
        load(root)
    for _ in range(2):
        data, notes = load(root, skip_bad=True)
        assert data.train.labels.tolist() == [0] * 4 + [1] * 3
        assert data.test.labels.tolist() == [0, 1]
        assert [line.split()[0].removeprefix(f"{root}/") for line in data.skipped] == [
            "train/a/1.png",
            "train/b/0.png",
            "test/a/1.png",
        ]
        assert "is 30x7 pixels, smaller than --image-size 8" in data.skipped[1]
        assert sum(data.sizes.values()) == 9
        assert notes == []
    assert decoded == [9, 9, 3]
    assert (kept(root) / "train-8px.u8").stat().st_size == data.train.images.nbytes == 7 * 8 * 8 * 3
    with pytest.raises(InputError):  # what was kept without them is not taken for the whole
        load(root)
    files, _ = load(root, skip_bad=True, in_files=True)
    assert [path.name for path in files.train.paths] == ["0.png", "2.png", "3.png", "4.png", "1.png", "2.png", "3.png"]
    assert files.checksum == data.checksum


def test_what_was_kept_without_bad_images_serves_both_ways(root, decoded):
    load(root)
    load(root, skip_bad=True)
    assert decoded == [9, 3]


def test_files_are_checked_against_what_was_found(root, decoded):
    load(root, in_files=True)
    about = kept(root) / "train-8px-checked.json"
    about.write_text(about.read_text().replace('"labels": [0,', '"labels": [7,'))
    data, notes = load(root, in_files=True)
    assert data.train.labels[0] == 0
    assert "train-8px-checked.json is damaged (its checksum is wrong)" in notes[0]
    assert decoded == [9, 3, 9]


def test_a_file_that_the_system_cannot_read_is_no_bad_image(root, monkeypatch):
    """Too many open files, say: to leave the image out, and to remember so, would be wrong."""
    from fastait.data import decode as module

    opened = module.Image.open

    def failing(source, **options):
        if source == root / "train" / "a" / "2.png":
            raise OSError(24, "Too many open files")
        return opened(source, **options)

    monkeypatch.setattr("fastait.data.decode.Image.open", failing)
    with pytest.raises(InputError, match=r"train/a/2\.png cannot be read: Too many open files"):
        load(root, skip_bad=True)
    monkeypatch.undo()
    assert len(load(root, skip_bad=True)[0].train) == 9


def test_a_cache_that_is_in_the_way(root):
    (kept(root) / "train-8px.u8").mkdir(parents=True)
    data, notes = load(root)
    assert len(data.train) == 9
    assert (
        "train-8px.u8 cannot be written (Is a directory), so the train images are decoded at every start" in notes[-1]
    )
    assert not list(kept(root).glob("*.partial"))


def test_a_class_without_images_is_noted(root):
    for path in (root / "train" / "b").iterdir():
        path.write_bytes(b"")
    data, notes = load(root, skip_bad=True)
    assert data.classes == ("a", "b")
    assert notes == ["warning: the training set has no images of 'b'"]


def test_no_image_is_left(root):
    for path in (root / "test").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"none of the 3 images can be used; the first one: .*test/a/0\.png"):
        load(root, skip_bad=True)


def test_a_format_that_dali_does_not_decode(root):
    Image.new("RGB", (9, 9)).save(root / "train" / "a" / "x.gif")
    assert len(load(root)[0].train) == 10
    with pytest.raises(InputError, match=r"x\.gif is of format GIF, which DALI does not decode; leave --dali out"):
        load(root, in_files=True)


def test_files_are_checked_once_and_not_kept(root, decoded):
    for _ in range(2):
        data, _ = load(root, in_files=True)
        assert len(data.train.paths) == len(data.train) == 9
    assert decoded == [9, 3]
    assert not (kept(root) / "train-8px.u8").exists()


def test_of_two_processes_one_decodes(root):
    """The other waits for it and takes what it has kept."""
    script = (
        "import sys, time, fastait.data.cache as c; from pathlib import Path; from fastait.data import load_dataset\n"
        "decode = c.decode\n"
        "def slow(contents, *arguments, **options):\n"
        "    print('decodes', contents.count); time.sleep(0.2)\n"
        "    return decode(contents, *arguments, **options)\n"
        "c.decode = slow\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        f"print(load_dataset('folder', Path({str(root)!r}), image_size=8).checksum)"
    )
    argv = [sys.executable, "-c", script]
    both = [subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    out = []
    threads = [threading.Thread(target=lambda p=p: out.append(p.communicate("go\n")[0])) for p in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = "".join(out).split("\n")
    assert sorted(line for line in lines if "decodes" in line) == ["decodes 3", "decodes 9"]
    assert len({line for line in lines if line and "decodes" not in line}) == 1


def test_a_class_more_in_train_moves_the_labels_of_test(root):
    assert load(root)[0].test.labels.tolist() == [0, 0, 1]
    (root / "train" / "aa").mkdir()
    Image.new("RGB", (10, 12)).save(root / "train" / "aa" / "0.png")
    data, _ = load(root)
    assert data.classes == ("a", "aa", "b")
    assert data.test.labels.tolist() == [0, 0, 2]


def test_a_folder_of_its_own(root, tmp_path, decoded, monkeypatch):
    """By the flag, or by the environment, which the flag overrides; sets share no entry though all else is alike."""
    twin = tmp_path / "other" / root.name
    shutil.copytree(root, twin)
    Image.new("RGB", (10, 12)).save(twin / "train" / "a" / "0.png")
    own = tmp_path / "own" / "caches"
    first = load(root, cache_dir=own)[0]
    second = load(twin, cache_dir=str(own))[0]
    more = load_unlabeled(root, 8, cache_dir=own)[0]
    assert len(more) == 12
    assert first.checksum != second.checksum
    assert decoded == [9, 3, 9, 3, 12]
    assert len(list(own.iterdir())) == 3
    monkeypatch.setenv("FASTAIT_CACHE", str(own))
    same(load(root)[0], first)
    same(load(twin)[0], second)
    assert torch.equal(load_unlabeled(root, 8)[0].images, more.images)
    assert decoded == [9, 3, 9, 3, 12]
    load(root, cache_dir=tmp_path / "third")
    assert decoded == [9, 3, 9, 3, 12, 9, 3]
    assert not (root / CACHE).exists()
    assert not (twin / CACHE).exists()
    monkeypatch.setenv("FASTAIT_CACHE", "")
    load(root)
    assert (root / CACHE).is_dir()


def test_a_folder_for_caches_among_the_images(root):
    for inside in (root / "train", root / "train" / "cache", root / "test" / "a"):
        with pytest.raises(InputError, match=r"--cache-dir \(or FASTAIT_CACHE\) .* lies in .*, where every file"):
            load(root, cache_dir=inside)
    with pytest.raises(InputError, match=r"lies in .*images, where every file must be an image"):
        load_unlabeled(root, 8, cache_dir=root / "cache")
    load(root, cache_dir=root / "cache")
    assert len(load_unlabeled(root / "train", 8, cache_dir=root / "train" / ".cache")[0]) == 9
    (root / "file").write_text("")
    notes = load(root, cache_dir=root / "file")[1]
    assert len(notes) == 2
    assert all("are decoded at every start" in note for note in notes)
