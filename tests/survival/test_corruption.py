"""A twentieth of the random damage, and that whoever looks for wrong states sees one where it is."""

import corruption
import pytest
from damage import KINDS, damages

from fastait.checkpoints import checkpoint, sealed
from fastait.data import cache
from fastait.evaluation import journal


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """(the folder, what came of it)."""
    folder = tmp_path_factory.mktemp("corruption")
    return folder, corruption.main(short=True, folder=folder)


def test_a_twentieth_of_it(found):
    assert found[1]["failures"] == []
    assert sum(found[1]["counts"][what] for what in corruption.SUMMED) >= 100
    assert sum(found[1]["counts"][what] for what in corruption.OTHERS) >= 50


def test_every_damage_changes_something_and_is_the_same_again():
    data = bytes(range(256)) * 20
    damaged = list(damages(data, 50, "seed"))
    assert damaged == list(damages(data, 50, "seed"))
    assert {kind for kind, _ in damaged} == set(KINDS)
    assert all(content != data for _, content in damaged)


@pytest.mark.parametrize(
    ("part", "module", "checksum"),
    [
        ("our weights", sealed, "_checksum"),
        ("kept images", sealed, "_checksum"),
        ("outcomes and examples", sealed, "_checksum"),
        ("journal lines", journal, "_crc"),
        ("caches", cache, "_checksum"),
        ("caches", cache, "_text_checksum"),
    ],
)
def test_without_a_checksum_wrong_states_are_found(found, part, module, checksum, monkeypatch):
    class Anything:
        def __eq__(self, other):
            return True

        __hash__ = None

    monkeypatch.setattr(module, checksum, lambda *arguments: Anything())
    _, failures = corruption.damaged(part, 30, corruption.files_in(found[0]))
    assert failures


def test_a_checkpoint_that_is_not_the_one_that_was_written_is_found(found, monkeypatch):
    """Its archive has checksums of its own, so that it takes more than damage."""
    unpacked = checkpoint.unpacked
    monkeypatch.setattr(checkpoint, "unpacked", lambda data: {**(unpacked(data) or {}), "step": 0})
    _, failures = corruption.damaged("checkpoints", 4, corruption.files_in(found[0]))
    assert len(failures) == 4
