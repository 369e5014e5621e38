"""The command that runs all parts: its totals, and what it ends with."""

import json

import pytest
import run_all

FOUND = {"counts": {"kills": 3, "signals": 4}, "failures": [], "notes": {"peak": "12 MB"}, "seconds": 5}


@pytest.mark.parametrize("failures", [[], ["kill 2: weights differ"]])
def test_totals_and_exit_code(failures, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        run_all, "run", lambda part, short: asked.append((part, short)) or {**FOUND, "failures": failures}
    )
    assert run_all.main(["--short", "--part", "hostile"]) == len(failures)
    assert asked == [("hostile", True)]
    *lines, told = capsys.readouterr().out.splitlines()
    assert ["kills", "3"] in [line.split() for line in lines]
    assert "  peak: 12 MB" in lines
    assert [f"  FAILED: {line}" for line in failures] == [line for line in lines if "FAILED" in line]
    told = json.loads(told)
    assert told["parts"]["hostile"]["counts"] == FOUND["counts"]
    assert {"date", "fastait", "torch", "device"} <= told.keys()


def test_each_part_is_there_and_one_that_breaks_is_a_failure(monkeypatch, tmp_path):
    for part in run_all.PARTS:
        assert callable(__import__(part).main)
    monkeypatch.setattr("history.main", lambda short, folder: 1 / 0)
    (failure,) = run_all.alone("history", True, tmp_path)["failures"]
    assert failure == "history itself ended: ZeroDivisionError: division by zero"


@pytest.mark.slow
def test_a_part_in_a_process_of_its_own(capfd):
    found = run_all.run("history", True)
    assert found["failures"] == []
    assert sum(found["counts"].values()) > 0
    assert run_all.run("nowhere", True)["failures"] == ["nowhere itself ended with 2"]
