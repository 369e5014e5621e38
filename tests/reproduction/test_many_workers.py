"""Real workers: killed, stopped and woken; and a real SLURM of one node."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import slurm_node

from fastait.reproduce import main
from fastait.reproduction import company

SCRIPT = Path(__file__).with_name("many_workers.py")


@pytest.mark.slow
def test_four_workers_in_trouble_make_what_one_makes(tmp_path):
    command = [sys.executable, str(SCRIPT), "figures", str(tmp_path / "all"), "--short"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    logs = "\n".join(path.read_text()[-2000:] for path in (tmp_path / "all").glob("*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    assert json.loads(done.stdout)["the same bytes"]


def jobs():
    """{job: state} of all jobs that SLURM knows."""
    said = subprocess.run(
        ["squeue", "-h", "-a", "-t", "all", "-r", "-o", "%i %T"], capture_output=True, text=True, check=True
    )
    return dict(line.split() for line in said.stdout.splitlines())


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, jobs()
        time.sleep(0.5)


STUB = """
import os, signal, sys, time

def note(what):
    with open(f"{sys.argv[1]}/{os.environ['SLURM_ARRAY_TASK_ID']}.txt", "a") as file:
        file.write(what + "\\n")

first = []

def told(number, frame):
    if number == signal.SIGTERM:
        signal.signal(number, signal.SIG_DFL)  # a second one would not let it save
    if first:
        return
    first.append(number)
    note(signal.Signals(number).name)
    time.sleep(1)  # saves
    note("saved")
    sys.exit(128 + number)

for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, told)
again = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
note("again" if again else os.environ["FASTAIT_TOKEN"])
time.sleep(0 if again else 600)
"""


@pytest.mark.slow
@pytest.mark.skipif(bool(slurm_node.missing()), reason=f"no SLURM: {slurm_node.missing()}")
def test_signals_of_slurm_reach_the_workers(tmp_path, monkeypatch):
    """One job is cancelled and stays so, one is queued again, one runs out of time and queues itself again, alone."""
    monkeypatch.setattr(company, "WARNING", 20)
    Path("stub.py").write_text(STUB)
    with slurm_node.slurm(tmp_path / "slurm", cpus=3):
        command = [sys.executable, str(Path("stub.py").absolute()), str(tmp_path)]
        said = company.run_by_slurm(command, tmp_path / "out", company.Company(workers=3, time="1"), cpu=True)
        array = said.split()[3].rstrip(":")
        wait_for(lambda: len(list(tmp_path.glob("*.txt"))) == 3)
        subprocess.run(["scancel", f"{array}_1"], check=True)
        subprocess.run(["scontrol", "requeue", f"{array}_2"], check=True)
        wait_for(lambda: set(jobs().values()) <= {"COMPLETED", "CANCELLED"})
        states = jobs()
    assert states == {f"{array}_1": "CANCELLED", f"{array}_2": "COMPLETED", f"{array}_3": "COMPLETED"}
    token = (tmp_path / "out/claims/token").read_text().strip()
    first, second, third = ((tmp_path / f"{task}.txt").read_text().split() for task in (1, 2, 3))
    assert first.pop(1) in ("SIGTERM", "SIGHUP")  # from SLURM, or from the script
    assert first == [token, "saved"]
    assert second.pop(1) in ("SIGTERM", "SIGHUP")
    assert second == [token, "saved", "again"]
    assert third == [token, "SIGUSR1", "saved", "again"]


@pytest.mark.slow
@pytest.mark.skipif(bool(slurm_node.missing()), reason=f"no SLURM: {slurm_node.missing()}")
def test_an_array_of_slurm_makes_a_table(tmp_path, monkeypatch, capsys):
    """One job is cancelled, one is queued again, and those that are left run out of time, which is two minutes."""
    monkeypatch.setenv("PYTHONPATH", f"{Path(company.__file__).parents[2]}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(company, "WARNING", 25)  # SLURM may say it up to a minute earlier
    table = ["table1", "--scale", "small", "--device", "cpu"]
    with slurm_node.slurm(tmp_path / "slurm", cpus=3):
        assert main([*table, "--submit", "slurm", "--workers", "3", "--time", "2", "--partition", "all"]) == 0
        array = capsys.readouterr().out.split()[3].rstrip(":")
        wait_for(lambda: list(jobs().values()).count("RUNNING") == 3)
        small = Path("reproduction/small")
        wait_for(lambda: len(list(small.glob("attempts/*/metrics.jsonl"))) == 3)
        assert main([*table, "--status"]) == 0
        assert capsys.readouterr().out.count(f"job {array}_") == 3
        subprocess.run(["scancel", f"{array}_1"], check=True)
        subprocess.run(["scontrol", "requeue", f"{array}_2"], check=True)
        wait_for(lambda: set(jobs().values()) <= {"COMPLETED", "CANCELLED"}, 1500)
        states = jobs()
        restarts = subprocess.run(["scontrol", "show", "job", array], capture_output=True, text=True, check=True).stdout
    assert states[f"{array}_1"] == "CANCELLED"
    assert states[f"{array}_2"] == states[f"{array}_3"] == "COMPLETED"
    assert "Restarts=0" in restarts.split("ArrayTaskId=1 ")[1]
    for task in (2, 3):
        assert "Restarts=0" not in restarts.split(f"ArrayTaskId={task} ")[1].partition("JobId=")[0]
    assert main([*table, "--status"]) == 0
    assert "table1: all is there" in capsys.readouterr().out


@pytest.mark.skipif(bool(slurm_node.missing()), reason=f"no SLURM: {slurm_node.missing()}")
def test_what_slurm_refuses_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "bad.conf").write_text("ClusterNam=tests\n")
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "bad.conf"))
    assert main(["table1", "--device", "cpu", "--submit", "slurm"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("fastait reproduce: error: --submit slurm: sbatch: ")
    assert "(the script is reproduction/small/logs/workers.sh)" in line
