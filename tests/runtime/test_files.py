"""Files that are written whole or not at all."""

import os

import pytest

from fastait.runtime.errors import NotWritten, RunError
from fastait.runtime.files import json_of, write_whole


def test_write_whole_keeps_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, b"old")
    monkeypatch.setattr("os.fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(RunError, match="No space left on device; what it held before is unharmed"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_vanishes(tmp_path):
    """Nothing is unharmed then."""
    folder = tmp_path / "run"
    with pytest.raises(RunError, match=r"run/file could not be written: the folder .*/run is not there any more$"):
        write_whole(folder / "file", b"new")


def test_files_that_several_processes_write(tmp_path, monkeypatch):
    """Each writes to a name of its own first; the last one wins."""
    path, partial, fsync = tmp_path / "file", [], os.fsync

    def another(handle):
        monkeypatch.setattr("os.fsync", fsync)
        partial.extend(tmp_path.iterdir())
        write_whole(path, b"another", shared=True)
        fsync(handle)

    monkeypatch.setattr("os.fsync", another)
    write_whole(path, b"one", shared=True)
    assert [name.suffix for name in partial] == [".partial"]
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_of_a_shared_file_goes(tmp_path, monkeypatch):
    """And nothing that another one is writing, or that is of another file."""
    path, replace, kept = tmp_path / "file", os.replace, []
    (tmp_path / "file.01234567.partial").write_bytes(b"left")
    (tmp_path / "file.other.01234567.partial").write_bytes(b"of another")

    def meanwhile(partial, target):
        monkeypatch.setattr("os.replace", replace)
        write_whole(path, b"another", shared=True)
        kept.append(partial.read_bytes())
        replace(partial, target)

    monkeypatch.setattr("os.replace", meanwhile)
    write_whole(path, b"one", shared=True)
    assert kept == [b"one"]
    assert path.read_bytes() == b"one"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "file.other.01234567.partial"]


def test_one_that_is_removed_before_it_is_locked_is_written_again(tmp_path, monkeypatch):
    path, removed = tmp_path / "file", []

    def late(file, how):
        if not removed:
            removed.extend(tmp_path.iterdir())
            removed[0].unlink()

    monkeypatch.setattr("fcntl.flock", late)
    write_whole(path, b"one", shared=True)
    assert len(removed) == 1
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("file", b"one")]


def test_a_device_stays_one(tmp_path):
    """A file put in its place would be everybody's; here it is a link to one that would be replaced."""
    for name in ("null", "full"):
        (tmp_path / name).symlink_to(f"/dev/{name}")
    write_whole(tmp_path / "null", b"gone")
    with pytest.raises(NotWritten, match="full could not be written: No space left on device"):
        write_whole(tmp_path / "full", b"refused")
    assert sorted(os.listdir(tmp_path)) == ["full", "null"]
    assert all((tmp_path / name).is_char_device() for name in ("null", "full"))


@pytest.mark.parametrize("data", [b"[" * 100_000, b"{", b"\xff", b"1" * 5000])
def test_json_that_is_none(data):
    with pytest.raises(ValueError, match=r"\w"):
        json_of(data)
