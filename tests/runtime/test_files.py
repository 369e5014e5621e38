"""Files that are written whole or not at all."""

import os

import pytest

from fastait.runtime.errors import RunError
from fastait.runtime.files import write_whole


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
