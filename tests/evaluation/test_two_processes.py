"""An evaluation that processes share: the outcomes of one, also after one of them was killed, whoever goes on."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import trained
from tolerances import SUMS_OF_BATCHES

from fastait.eval import main

HERE = Path(__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
WORKER = str(HERE / "two_processes_worker.py")


def environment():
    paths = [HERE, HERE.parent, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}


def shared(folder, processes=2, victim=-1, passes=0):
    """Evaluate into ``folder``; the exit code, and what went wrong."""
    start = TORCHRUN if processes == 2 else [sys.executable]
    argv = [*start, WORKER, str(folder), str(victim), str(passes)]
    Path(folder).mkdir(exist_ok=True)
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment(), timeout=200)
    return done.returncode, done.stderr


def known(folder):
    """How often each stage or column was computed of each image."""
    found = {}
    for path in Path(folder).glob("progress-*.jsonl"):
        for line in map(json.loads, path.read_text().splitlines()):
            for name in line["found"]:
                for place in (first + i for first, count in line["places"] for i in range(count)):
                    found[name, place] = found.get((name, place), 0) + 1
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process found, and what its journal has."""
    folder = tmp_path_factory.mktemp("alone")
    code, err = shared(folder, 1)
    assert code == 0, err
    return torch.load(folder / "0.pt"), known(folder)


def assert_same(folder, alone, processes):
    for rank in range(processes):
        found = torch.load(Path(folder, f"{rank}.pt"))
        for kind in ("correct", "classes", "decided"):
            for name, values in alone[0][kind].items():
                assert torch.equal(found[kind][name], values), (kind, name)
        assert found["stages"] == alone[0]["stages"]
        assert found["warnings"] == alone[0]["warnings"]
        assert found["losses"].keys() == alone[0]["losses"].keys()
        for name, losses in alone[0]["losses"].items():
            torch.testing.assert_close(found["losses"][name], losses, **SUMS_OF_BATCHES)
    assert known(folder) == alone[1]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_two_are_one_also_when_one_was_killed(alone, victim):
    """Killed in the middle and gone on with by one process and by two; nothing that was finished is computed again."""
    if victim == 0:
        code, err = shared("whole")
        assert code == 0, err
        assert_same("whole", alone, 2)
    code, _ = shared("killed", 2, victim, 60 + 40 * victim)
    assert code != 0
    assert 0 < len(known("killed")) < len(alone[1])
    shutil.copytree("killed", "copied")
    for folder, processes in (("killed", 2), ("copied", 1)):
        code, err = shared(folder, processes)
        assert code == 0, err
        assert_same(folder, alone, processes)


@pytest.mark.slow
def test_a_signal_to_torchrun_ends_both_and_they_go_on():
    """The command itself, and the file that it writes."""
    given = [str(trained.run("natural").folder), "--device", "cpu", "--samples", "40"]
    given += ["--attacks", "pgd2-min3,apgd-ce-5,fab-t-3,square-50"]
    assert main([*given, "--out", "whole"]) == 0
    process = subprocess.Popen(
        [*TORCHRUN, "-m", "fastait.eval", *given, "--out", "out"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    while not all(Path(f"out/progress-{i}.jsonl").exists() for i in range(2)) or not known("out"):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert err.count("stopped; finished batches are kept, go on with the same command and --out out") == 1
    assert not Path("out/eval.json").exists()
    assert len(known("out")) < len(known("whole"))
    done = subprocess.run(
        [*TORCHRUN, "-m", "fastait.eval", *given, "--out", "out"],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    ours, theirs = (json.loads(Path(folder, "eval.json").read_text())["outcomes"] for folder in ("out", "whole"))
    assert set(known("out").values()) == {1}
    for name, outcome in theirs[0]["correct"].items():
        assert sum(a != b for a, b in zip(ours[0]["correct"][name], outcome, strict=True)) <= 1, name  # it is in fp32


WAITING = """
import os, signal, sys, time
from pathlib import Path
from fastait.evaluation import session
from fastait.eval import main

class Waiting(session._Session):
    def __init__(self, arguments, out, ranks, device, report, stop):
        self.ranks, self.out, self.report, self.stop = ranks, out, report, stop

    def run(self):
        if self.ranks.first:
            Path("waiting").touch()
            self.ranks.largest(0)
        while {dies} and not Path("waiting").exists():
            time.sleep(0.01)
        if {dies}:
            os.kill(os.getpid(), signal.SIGKILL)
        while True:
            time.sleep(0.01)
            self._stop_if_asked()

session._Session = Waiting
sys.exit(main(["model.pt", "--device", "cpu", "--out", "out"]))
"""


@pytest.mark.parametrize("dies", [False, True])
def test_one_that_waits_for_another_says_why_it_ends(dies):
    """A signal, which it hears when its wait has come to nothing, or that the other one was killed."""
    Path("model.pt").touch()
    Path("worker.py").write_text(WAITING.format(dies=dies))
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    first, other = (
        subprocess.Popen(
            [sys.executable, "worker.py"],
            stderr=subprocess.PIPE,
            text=True,
            env={**environment(), **where, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in "01"
    )
    while not (dies or Path("waiting").exists()):
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.01)
    if not dies:
        time.sleep(0.5)
        for process in (first, other):
            process.send_signal(signal.SIGTERM)
    (_, said), (_, quiet) = (process.communicate(timeout=60) for process in (first, other))
    gone = r"another process of this evaluation is gone \(.*\)" if dies else "stopped"
    goes_on = "finished batches are kept, go on with the same command and --out out"
    assert re.search(f"^fastait eval: error: {gone}; {goes_on}$", said, re.MULTILINE), said
    assert "Traceback" not in said + quiet
    assert "fastait eval" not in quiet
    assert (first.returncode, other.returncode) == ((1, -9) if dies else (143, 143))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
