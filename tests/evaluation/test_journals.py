"""Journals of several processes: each writes its own, all read all, as far as lines are whole."""

from pathlib import Path

import pytest

from fastait.evaluation.journal import FileJournal, Recorded
from fastait.runtime.errors import RunError

FOLDER = Path("outcomes")
HERE = ("device",)


def put(name, places, device="cpu", journal=None, **unit):
    journal = journal or FileJournal(FOLDER, name, HERE)
    journal.of(model="w", device=device).put({"seed": 0, **unit}, places, {"clean": [1] * len(places)})
    journal.close()


def test_what_others_found_on_other_machines_is_read_where_asked():
    put("a", [0, 1], device="H100")
    put("b", [2], device="cpu")
    for anywhere, found in ((HERE, 2), ((), 1)):
        journal = FileJournal(FOLDER, "c", anywhere)
        assert len(journal.of(model="w", device="cpu").get({"seed": 0})) == found
        assert not journal.of(model="v", device="cpu").get({"seed": 0})
        journal.close()
    assert {path.name for path in FOLDER.iterdir()} == {"progress-a.jsonl", "progress-b.jsonl"}  # c wrote nothing
    assert '\\"device\\": \\"H100\\"' in (FOLDER / "progress-a.jsonl").read_text()


def test_what_is_recorded_is_read_on():
    recorded = Recorded(FOLDER)
    recorded.read()
    assert recorded.units() == []
    put("a", [0, 1])
    recorded.read()
    put("b", [2])
    ((unit, findings),) = recorded.units()
    assert (unit["model"], unit["seed"]) == ("w", 0)
    assert findings == [([0, 1], {"clean": [1, 1]})]
    file = FOLDER / "progress-b.jsonl"
    line = file.read_bytes()
    file.write_bytes(line + line[:20])  # another is just being written
    recorded.read()
    assert [places for places, _ in recorded.units()[0][1]] == [[0, 1], [2]]
    file.write_bytes(line + line)
    recorded.read()
    recorded.read()
    assert [places for places, _ in recorded.units()[0][1]] == [[0, 1], [2], [2]]


def test_nothing_is_written_where_the_check_says_no():
    def no():
        raise RunError("no")

    journal = FileJournal(FOLDER, "a", HERE, no)
    with pytest.raises(RunError, match="no"):
        put("a", [0], journal=journal)
    assert not journal.of(model="w", device="cpu").get({"seed": 0})
    journal.close()
    assert not list(FOLDER.iterdir())
