"""Stand-ins for all of the folder's tests, where they are rehearsed."""

import os

import pytest

REHEARSED = os.environ.get("FASTAIT_REHEARSAL") == "1"


@pytest.fixture(autouse=True)
def _rehearsed(monkeypatch):
    if REHEARSED:
        import stand_ins

        stand_ins.take_their_place(monkeypatch)


@pytest.fixture
def _kernels(monkeypatch):
    """Operators run their kernels in a rehearsal too."""
    if REHEARSED:
        import stand_ins

        stand_ins.interpret_kernels(monkeypatch)
