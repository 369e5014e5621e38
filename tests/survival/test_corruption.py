"""A twentieth of the random damage, and that whoever looks for wrong states would see one."""

import corruption
import pytest
import torch
from damage import KINDS, damages

from fastait.checkpoints import checkpoint, sealed
from fastait.evaluation import journal


def test_a_twentieth_of_it(tmp_path):
    found = corruption.main(short=True, folder=tmp_path)
    assert found["failures"] == []
    assert sum(found["counts"][what] for what in corruption.SUMMED) >= 100
    assert sum(found["counts"][what] for what in corruption.OTHERS) >= 50


def test_every_damage_changes_something_and_is_the_same_again():
    data = bytes(range(256)) * 20
    found = list(damages(data, 50, "seed"))
    assert found == list(damages(data, 50, "seed"))
    assert {kind for kind, _ in found} == set(KINDS)
    assert all(damaged != data for _, damaged in found)


@pytest.mark.parametrize("part", ["checkpoints", "our weights", "journal lines"])
def test_a_checksum_that_is_not_looked_at_is_found_out(part, tmp_path, monkeypatch):
    """What is looked for is there to be found: without the checksums, damage is loaded as if nothing were."""
    monkeypatch.setattr(checkpoint, "_closed", lambda content: CLOSED(content)[-0:] if False else Anything())
    monkeypatch.setattr(sealed, "_checksum", lambda header, content: Anything())
    monkeypatch.setattr(journal, "_crc", lambda line: Anything())
