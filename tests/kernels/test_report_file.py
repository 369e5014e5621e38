"""The file of ``fastait kernels --json``."""

from pathlib import Path

import pytest

from fastait_kernels.report import write_whole


def test_it_is_written_whole_or_not_at_all(monkeypatch):
    path = Path("rows.json")
    write_whole(path, "before")
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *names: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            write_whole(path, "after")
    assert path.read_text() == "before"
    assert list(Path().iterdir()) == [path]
    write_whole(path, "after")
    assert path.read_text() == "after"
