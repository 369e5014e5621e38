"""Some of the hostile files, and that whoever watches them would see harm."""

import os
from pathlib import Path

import hostile
import pytest
from hostile import CANARY, OUTSIDE, Case, Outcome


def test_a_sixteenth_of_them(tmp_path):
    found = hostile.main(short=True, folder=tmp_path)
    assert found["failures"] == []
    assert sum(found["counts"].values()) >= 15
    assert len(found["counts"]) >= 6


CASE = Case("kind", "name", lambda place: 0, (2,), "w.pt", 100)
LINE = "fastait eval: error: w.pt is no file of weights\n"


@pytest.mark.parametrize(
    ("outcome", "wrong"),
    [
        (Outcome(2, LINE, 1.0), ""),
        (Outcome(0, "", 1.0), "exit code 0"),
        (Outcome(None, "Traceback", 1.0), "exit code None"),
        (Outcome(2, LINE + "Traceback", 1.0), "exit code 2"),
        (Outcome(2, LINE + LINE, 1.0), "not one line"),
        (Outcome(2, LINE.replace("w.pt", "it"), 1.0), "not one line that names w.pt"),
        (Outcome(2, LINE + "\x1b[31m", 1.0), "'\\x1b' was printed"),
        (Outcome(2, LINE + "\u202e", 1.0), "'\\u202e' was printed"),
        (Outcome(2, LINE + "x" * 6000, 1.0), "a line of more than 5,000 letters"),
        (Outcome(2, LINE, 101.0), "101 MB"),
    ],
)
def test_harm_is_seen(outcome, wrong, tmp_path):
    assert outcome.wrong(CASE, tmp_path).startswith(wrong)
    assert bool(outcome.wrong(CASE, tmp_path)) == bool(wrong)


@pytest.mark.parametrize(("folder", "wrong"), [(CANARY, "code was run"), (OUTSIDE, "something was written elsewhere")])
def test_code_that_ran_and_files_elsewhere_are_seen(folder, wrong, tmp_path):
    (tmp_path / folder).mkdir()
    assert Outcome(2, LINE, 1.0).wrong(CASE, tmp_path) == wrong


def test_memory_that_a_case_takes_is_measured(tmp_path):
    def act(place):
        Path("made").touch()
        os.write(1, b"said")
        return len(bytearray(os.urandom(1)) * 10**8) - 10**8

    outcome = hostile.measured(Case("kind", "name", act), tmp_path / "place")
    assert (outcome.code, outcome.said) == (0, "said")
    assert 90 < outcome.peak < 200
    assert (tmp_path / "place" / "made").exists()
