"""A run to which everything happens; and that an end that differs is seen."""

import os
import signal

import history
import pytest
from conftest import write_folder


def test_it_ends_as_an_undisturbed_one(tmp_path):
    found = history.main(True, tmp_path)
    assert found["failures"] == []
    assert found["counts"] == {
        "histories": 1,
        "killed": 2,
        "stopped by a signal": 1,
        "checkpoints damaged": 1,
        "broken off by an exception": 1,
        "resumed": 1,
        "evaluations killed": 1,
        "journals cut": 1,
    }


@pytest.mark.slow
def test_another_end_is_seen(tmp_path, monkeypatch):
    """Of a resume that begins with other weights than the checkpoint's."""
    from fastait.training.loop import Loop

    restore = Loop.restore

    def restored(self, checkpoint):
        restore(self, checkpoint)
        next(self.prepared.model.parameters()).data.add_(1e-6)

    monkeypatch.setattr(Loop, "restore", restored)
    (failure,) = history.main(True, tmp_path)["failures"]
    assert "the end differs in model.safetensors" in failure


def test_a_process_that_fails_before_it_is_killed_is_seen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "images", {"cat": 8, "dog": 8})
    with pytest.raises(AssertionError, match="ended with exit code 1"):
        history._killed(lambda: {}["a defect"])
    with pytest.raises(AssertionError, match=f"ended with exit code -{signal.SIGTERM:d}"):
        history._killed(lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert history._killed(lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert not history._killed(lambda: None)
