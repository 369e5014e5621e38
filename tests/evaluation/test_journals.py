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


def test_a_line_that_is_damaged_was_never_written():
    """Of older versions, lines without a checksum are read; other keys are damage."""
    put("a", [0, 1])
    file = FOLDER / "progress-a.jsonl"
    line = file.read_text()
    without = line[: line.index(',"crc"')] + "}\n"
    for damaged, known in (
        (line, 1),
        (without, 1),
        (line.replace("[1,1]", "[1,0]"), 0),
        (line.replace('\\"seed\\": 0', '\\"seed\\": 1'), 0),
        (line.replace('"crc"', '"drc"'), 0),
        (line.replace("[[0,2]]", "[[1,2]]"), 0),
        (without.replace("[[0,2]]", "[[" + "9" * 30 + ",2]]"), 0),
        (without.replace("[1,1]", "[1," + "9" * 30 + "]"), 0),
        ("[" * 100_000 + "\n", 0),
    ):
        file.write_text(damaged)
        recorded = Recorded(FOLDER)
        recorded.read()
        assert len(recorded.units()) == known, damaged[:200]
