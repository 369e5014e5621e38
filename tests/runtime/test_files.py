"""Files that are written whole or not at all."""

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
