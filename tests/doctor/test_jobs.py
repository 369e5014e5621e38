"""Checks in processes of their own: what hangs, dies or talks is a result, and the others are done."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastait.doctor import jobs
from fastait.doctor.checks import MACHINE, Check, Job
from fastait.doctor.findings import OK, SKIPPED, WRONG, Setup
from fastait.doctor.jobs import do_jobs

SETUP = Setup("auto", "cpu", "runs")

STAND_INS = """
import os, signal, time
from fastait.doctor.findings import ok, skipped, wrong

def good(setup):
    print("what a library says")
    os.write(1, b"and what C says\\n")
    return ok("fine", pid=os.getpid())

def nothing(setup):
    return skipped("there is none")

def bad(setup):
    print("details")
    return wrong("broken", "")

def hangs(setup):
    print("why")
    time.sleep(60)

def crashes(setup):
    os.kill(os.getpid(), signal.SIGSEGV)

def leaves_open(setup):
    if not os.fork():
        time.sleep(60)
        os._exit(0)
    os._exit(3)

def raises(setup):
    raise ValueError("no such\\nthing")

def device(setup):
    return ok(setup.device, device="cuda:1")

def variables(setup):
    return ok("", **{name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "GIVEN", "REMOVED")})
"""


@pytest.fixture(autouse=True)
def _stand_ins(tmp_path, monkeypatch):
    (tmp_path / "stand_ins.py").write_text(STAND_INS)
    monkeypatch.syspath_prepend(str(tmp_path))


def job(*names, seconds=20.0, **options):
    return Job(tuple(Check(name, f"stand_ins:{name}", seconds, f"mend {name}") for name in names), **options)


def done(*given, at_once=1):
    results = []
    do_jobs(given, SETUP, at_once, results.append)
    return {result.check.name: result for result in results}


def test_what_they_say():
    results = done(job("good", "nothing", "bad", "raises"))
    assert [(r.finding.status, r.finding.message, r.finding.remedy) for r in results.values()] == [
        (OK, "fine", ""),
        (SKIPPED, "there is none", ""),
        (WRONG, "broken", "mend bad"),
        (WRONG, "ValueError: no such thing", "mend raises"),
    ]
    assert results["good"].log == ()
    assert "details" in results["bad"].log
    assert results["raises"].log[-1] == "thing"


def test_one_that_hangs_does_not_take_the_others_down():
    began = time.monotonic()
    results = done(job("good", "hangs", "nothing", seconds=0.5))
    assert list(results) == ["good", "hangs", "nothing"]
    assert results["hangs"].finding.message == "did not end within 0.5 seconds, in hangs (stand_ins.py:19)"
    assert results["hangs"].finding.remedy == "mend hangs"
    assert "why" in results["hangs"].log
    assert results["nothing"].finding.status == SKIPPED
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("crashes", "its process died of SIGSEGV, in crashes (stand_ins.py:22)"),
        ("leaves_open", "its process ended with exit code 3"),
    ],
)
def test_one_that_dies_does_not_take_the_others_down(name, message):
    results = done(job("good", name, "nothing"))
    assert results[name].finding.message == message
    assert results[name].finding.status == WRONG
    assert results["nothing"].finding.status == SKIPPED


def test_what_a_check_started_is_ended_with_it(tmp_path):
    code = "import subprocess\ndef starts(setup):\n    p = subprocess.Popen(['sleep', '60'])\n"
    code += "    from fastait.doctor.findings import ok\n    return ok('', pid=p.pid)\n"
    (tmp_path / "starter.py").write_text(code)
    results = []
    do_jobs([Job((Check("starts", "starter:starts", 20, ""),))], SETUP, 1, results.append)
    pid = results[0].finding.facts["pid"]
    assert ends(pid)


def ends(pid):
    """Whether the process is gone soon, or dead while its new parent has not looked yet."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_an_exception_on_the_way_ends_what_runs():
    began = time.monotonic()

    def stop(result):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        do_jobs([job("hangs", "good"), job("good")], SETUP, 2, stop)
    assert time.monotonic() - began < 15


def test_they_end_with_the_doctor_that_is_killed(tmp_path):
    code = "import test_jobs as t; t.do_jobs([t.job('hangs')], t.SETUP, 1, print)"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    doctor = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    children = Path(f"/proc/{doctor.pid}/task")
    deadline = time.monotonic() + 20
    found = []
    while not found and time.monotonic() < deadline:
        found = [int(pid) for task in children.glob("*/children") for pid in task.read_text().split()]
        time.sleep(0.05)
    (child,) = found
    while b"stand_ins:hangs" not in Path(f"/proc/{child}/cmdline").read_bytes():
        time.sleep(0.05)
    time.sleep(0.5)  # it says so to the system at its start
    doctor.kill()
    doctor.wait()
    assert ends(child)


def test_the_device_that_the_first_finds_is_told_to_the_next():
    results = done(job("nothing", "device"), job("device"))
    assert results["device"].finding.message == "cpu"
    both = Job((Check("a", "stand_ins:device", 20, ""), Check("b", "stand_ins:device", 20, "")))
    assert done(both)["b"].finding.message == "cuda:1"


def test_variables_and_threads(monkeypatch):
    monkeypatch.setenv("REMOVED", "1")
    given = {"GIVEN": "1", "REMOVED": None}
    assert done(job("variables", environment=given))["variables"].finding.facts == {
        "OMP_NUM_THREADS": "1",
        "GIVEN": "1",
        "REMOVED": None,
    }
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert done(job("variables"))["variables"].finding.facts["OMP_NUM_THREADS"] == "1"
    assert done(job("variables", alone=True))["variables"].finding.facts["OMP_NUM_THREADS"] is None
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert done(job("variables"))["variables"].finding.facts["OMP_NUM_THREADS"] == "7"


def test_without_a_torch_that_can_be_imported(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('libcudnn.so.9: cannot open shared object file')\n")
    machine = done(Job((MACHINE,)))["machine"]
    assert machine.finding.status == WRONG
    assert machine.finding.message == "ImportError: libcudnn.so.9: cannot open shared object file"
    assert "install fastait with its extras anew" in machine.finding.remedy


def test_a_start_that_takes_too_long(tmp_path, monkeypatch):
    (tmp_path / "late.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(jobs, "START_SECONDS", 0.5)
    result = done(Job((Check("late", "late:late", 0.5, "wait"),)))["late"]
    assert result.finding.message.startswith("did not end within 1 seconds, in <module> (late.py:2)")


def test_the_modules_are_those_of_the_command(monkeypatch, tmp_path):
    """Also where the current folder holds something of the same name."""
    (tmp_path / "elsewhere" / "fastait").mkdir(parents=True)
    (tmp_path / "elsewhere" / "fastait" / "__init__.py").write_text("raise ImportError('another fastait')")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert done(job("good"))["good"].finding.status == OK
    assert os.getcwd() not in sys.path
