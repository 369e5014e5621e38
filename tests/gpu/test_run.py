"""The script that runs everything on a GPU: what it writes, whatever becomes of a part. On parts that take no time."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import run
import torch
from parts import OPTIONS, ROOT, Part, parts

DESCRIBE = run.describe
MACHINE = {
    "device": "a GPU",
    "torch": "2",
    "commit": "c",
    "rehearsed": False,
    "packages": {"torch": "2", "triton": None},
}
TESTS = """
import os, signal, pytest

def test_well(): pass

def test_not_well():
    assert 1 == 2, "one is not two"

@pytest.mark.skip(reason="no second GPU")
def test_not_here(): pass
"""
CRASH = "\ndef test_crash():\n    os.kill(os.getpid(), signal.SIGSEGV)\n\ndef test_behind_it(): pass\n"


@pytest.fixture
def script(monkeypatch, tmp_path, capsys):
    """Calls the script with the parts that it is given; returns (exit code, results, what was printed)."""
    monkeypatch.setattr(run, "describe", lambda rehearsed: {**MACHINE, "rehearsed": rehearsed})

    def call(*given, argv=()):
        monkeypatch.setattr(run, "parts", lambda rehearsed: {part.name: part for part in given})
        code = run.main(["--out", str(tmp_path / "out"), *argv])
        file = tmp_path / "out/results.json"
        return code, json.loads(file.read_text()) if file.exists() else None, "".join(capsys.readouterr())

    return call


def python(name, code, **options):
    return Part(name, ("-c", code), **options)


def by_pytest(name, code):
    path = Path(f"test_{name}.py").absolute()
    path.write_text(code)
    return Part(name, ("-m", "pytest", *OPTIONS, str(path)))


def test_tests_are_counted_and_what_failed_is_told(script):
    code, results, said = script(by_pytest("some", TESTS))
    found = results["parts"]["some"]
    assert code == 1
    assert results["machine"] == MACHINE
    assert (found["ended"], found["passed"]) == ("finished", 1)
    assert ["one is not two" in failed["text"] for failed in found["failed"]] == [True]
    assert [skipped["text"] for skipped in found["skipped"]] == ["Skipped: no second GPU"]
    assert "some: finished, 1 passed, 1 failed, 1 skipped" in said
    assert "a GPU, torch 2; not installed: triton" in said
    assert sorted(path.name for path in Path("out").iterdir()) == ["results.json", "some.log"]


def test_a_crash_is_told_and_stops_no_other_part(script):
    killed = python("killed", "import os; os.kill(os.getpid(), 9)", answers=True)
    others = killed, python("next", "pass", answers=True), by_pytest("last", TESTS)
    code, results, said = script(by_pytest("crash", TESTS + CRASH), *others)
    found = results["parts"]["crash"]
    assert code == 1
    assert found["ended"] == "crashed: SIGSEGV"
    assert found["unfinished"].endswith("test_crash")
    assert (found["passed"], len(found["failed"])) == (1, 1)
    assert "Fatal Python error: Segmentation fault" in found["output"]
    assert results["parts"]["next"]["ended"] == "it printed no JSON"
    assert results["parts"]["killed"]["ended"] == "crashed: SIGKILL"
    assert results["parts"]["last"]["passed"] == 1
    assert "test_crash" in said


def test_what_hangs_is_stopped_with_all_that_it_started_and_says_where_it_was(script, monkeypatch):
    monkeypatch.setattr(run, "SECONDS", 2)
    child = (
        "import subprocess, sys, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        f"pathlib.Path({str(Path('pid').absolute())!r}).write_text(str(child.pid))\nchild.wait()"
    )
    code, results, _ = script(python("hang", child))
    found = results["parts"]["hang"]
    assert code == 1
    assert found["ended"] == "stopped after 2 seconds"
    assert found["seconds"] < 20
    assert "Fatal Python error: Aborted" in found["output"]
    status = Path("/proc", Path("pid").read_text(), "status")
    for _ in range(100):  # it has been sent its end, which takes a moment on a busy machine
        gone = not status.exists() or "zombie" in status.read_text()
        if gone:
            break
        time.sleep(0.1)
    assert gone


def test_what_a_part_needs_and_is_not_there_is_said(script):
    parts = [python(name, "print('{}')", needs=(name,), answers=True) for name in ("nowhere.at_all", "json")]
    code, results, said = script(*parts)
    assert code == 0
    assert results["parts"]["nowhere.at_all"] == {"ended": "skipped", "why": "nowhere.at_all is not installed"}
    assert results["parts"]["json"]["answer"] == {}
    assert "nowhere.at_all: skipped, nowhere.at_all is not installed" in said


def test_a_document_is_kept_even_if_it_tells_of_something_wrong(script):
    code, results, _ = script(python("doctor", "print('{\"wrong\": 1}'); exit(1)", answers=True))
    assert code == 1
    assert (results["parts"]["doctor"]["answer"], results["parts"]["doctor"]["exit"]) == ({"wrong": 1}, 1)


def test_parts_that_are_done_are_not_done_again_unless_they_are_asked_for(script):
    script(python("first", "print(1)", answers=True))
    both = python("first", "print(2)", answers=True), python("second", "print(3)", answers=True)
    _, results, said = script(*both)
    assert [results["parts"][name]["answer"] for name in ("first", "second")] == [1, 3]
    assert "first" not in said
    _, results, said = script(*both, argv=["--part", "first"])
    assert [results["parts"][name]["answer"] for name in ("first", "second")] == [2, 3]
    assert "second" not in said


def test_nothing_begins_that_the_budget_has_no_time_for(script):
    code, results, said = script(python("first", "print(1)", answers=True), argv=["--budget", "0.5"])
    assert (code, results) == (0, None)
    assert "first: not begun, --budget 0.5 is spent" in said


def test_what_cannot_be_is_one_line(script):
    script(python("first", "print(1)", answers=True))
    code, _, said = script(python("first", "", answers=True), argv=["--rehearse"])
    assert code == 2
    assert "is of another rehearsed (False, now True); choose another --out" in said
    assert script(python("first", ""), argv=["--part", "second"])[0] == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu():
    with pytest.raises(run.Wrong, match=r"no CUDA GPU that torch can use .*; --rehearse runs on the CPU"):
        DESCRIBE(False)


def test_every_file_is_a_part():
    names = parts(rehearsed=False)
    for path in (ROOT / "tests/gpu").glob("test_*_on_gpu.py"):
        assert f"tests/gpu/{path.name}" in names[path.stem[5:-7]].argv
    assert list(names)[:2] == ["doctor", "operators"]
    assert {f"bench/{path.name}" for path in (ROOT / "bench").glob("test_*.py")} <= {
        a for p in names.values() for a in p.argv
    }


@pytest.mark.slow
def test_a_rehearsal():
    """Some of the parts as they are, from another folder and with nothing of ours installed in the way."""
    names = ["fp32", "loaders", "memory", "profile"]
    argv = [word for name in names for word in ("--part", name)]
    command = [sys.executable, str(ROOT / "tests/gpu/run.py"), "--rehearse", "--out", "out", *argv]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    results = json.loads(Path("out/results.json").read_text())
    assert results["machine"]["rehearsed"]
    assert list(results["parts"]) == names
    assert all(found["passed"] >= 5 for found in results["parts"].values() if "passed" in found)
    (profile,) = results["parts"]["profile"]["answer"]["profiles"]
    assert {"convolutions", "batch norm", "elementwise", "our operators"} <= profile["shares"].keys()
