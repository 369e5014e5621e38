"""A captured step with NCCL in it: a run finishes or is ended, and its process leaves, soon."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rehearsal import REHEARSED, scaled
from tolerances import LOSS_OF_AN_EPOCH

if not torch.distributed.is_available():
    pytest.skip("torch is built without torch.distributed", allow_module_level=True)

HERE = Path(__file__).parent
WORKER = str(HERE / "one_process_group.py")
SECONDS = 90
"""Beyond which a process hangs: a run of these takes a few."""


def run(command, folder, case, seconds=SECONDS):
    """(exit code, what the worker printed, standard error)."""
    path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, *command, WORKER, folder, case, str(seconds)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds + 30,
        check=False,
    )
    found = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
    assert ended.returncode == 0, f"{case}: {ended.stdout[-1000:]} {ended.stderr[-6000:]}"
    return found


def losses(folder):
    return [json.loads(line)["loss"] for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("case", "ended"),
    [("raises", "ZeroDivisionError"), ("signal", "Interrupted"), ("nan", "RunError"), ("finishes", "finished")],
)
def test_a_process_leaves_with_a_graph_alive(case, ended):
    """Whatever the reason: NCCL waits for ever for a graph that uses the group which is being destroyed."""
    (found,) = run([], "run", case)
    assert found["ended"] == ended, found["why"]
    assert found["replays"] >= 20
    if case != "finishes":
        assert found["left"] < 20


def test_a_capture_that_fails_ends_a_run_of_several_processes_in_one_line():
    (found,) = run([], "run", "no capture")
    assert found["ended"] == "RunError", found["why"]
    assert "the step cannot be captured as a CUDA graph" in found["why"]
    assert found["replays"] == 0


def test_replays_with_nccl_are_as_without_a_graph():
    run([], "run", "finishes")
    run([], "eager", "eager")
    for ours, theirs in zip(losses("run"), losses("eager"), strict=True):
        assert ours == pytest.approx(theirs, rel=LOSS_OF_AN_EPOCH["16 bits"])


@pytest.mark.skipif(not REHEARSED and torch.cuda.device_count() < 2, reason="there is one GPU only")
@pytest.mark.parametrize("case", ["finishes", "signal", "raises"])
def test_two_gpus_with_a_graph(case):
    """The one test in which NCCL does more than copy: it holds what a graph uses from two processes on alone."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    both = run(torchrun, "run", case, seconds=scaled(SECONDS, 150))
    assert len(both) == 2
    assert {found["ended"] for found in both} <= {"finished", "Interrupted", "SaidElsewhere", "ZeroDivisionError"}
    assert all(found["replays"] >= 20 for found in both)
