"""Real processes of ``fastait eval``: whatever attack runs, a signal ends them before their batch, and they go on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import trained

from fastait.eval import main

HERE = Path(__file__).parent
COUNT = 12
LONG = {
    "clean": "fgsm",
    "shared ascents": "pgd30,pgd40-worst,pgd40-best",
    "restarts": "cw20-min3",
    "a union": "pgd1+pgd30-worst",
    "means": "eot5-pgd9",
    "features": "feature40",
    "transfer": "transfer-pgd40",
    "spsa": "spsa-64x9",
    "local search": "local-search-40",
    "apgd": "apgd-ce-40",
    "targets": "apgd-t-40",
    "fab": "fab-t-20",
    "square": "square-200",
}
"""Each of more passes in a batch than a signal may wait for."""

WAITED = 8.0
"""Seconds, of which one is what a signal waits, another the way out, and the rest for machines that have other work;
half of what any batch here takes with slow passes."""


@pytest.fixture
def given(monkeypatch):
    """The arguments of an evaluation in this folder, of a network of one's own."""
    shutil.copy(HERE / "slow_network.py", ".")
    monkeypatch.syspath_prepend(os.getcwd())
    torch.save(trained.model("natural").state_dict(), "weights.pt")
    model = ["weights.pt", "--model", "slow_network:make", "--surrogate", "weights.pt"]
    model += ["--epsilon", "1/255", "--step-size", "1/510"]  # most images stand to the end
    yield [*model, "--dataset", "digits", "--image-size", "16", "--samples", str(COUNT), "--device", "cpu"]
    sys.modules.pop("slow_network", None)


def passes():
    return Path("passes").stat().st_size if Path("passes").exists() else 0


def wait_until(process, true):
    while not true():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)


def ended_by(number, argv, ready, after=3):
    """Send a signal so many slow passes after ``ready``: (seconds until the end, passes begun meanwhile, stderr)."""
    paths = os.pathsep.join([os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "fastait.eval", *argv]
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        wait_until(process, ready)
        Path("slow").touch()
        begun = passes()
        wait_until(process, lambda: passes() >= begun + after)
        process.send_signal(number)
        since, begun = time.monotonic(), passes()
        _, err = process.communicate(timeout=200)
        Path("slow").unlink()
        assert process.returncode == 128 + number, err
        return time.monotonic() - since, passes() - begun, err


def outcomes(folder):
    return json.loads(Path(folder, "eval.json").read_text())["outcomes"]


def journal(folder="out"):
    path = Path(folder, "progress-0.jsonl")
    return [json.loads(line)["found"] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "attacks"), LONG.items(), ids=LONG)
def test_a_signal_is_obeyed_before_the_next_pass(given, kind, attacks):
    """And what the same command then finds is what an undisturbed one finds."""
    number = signal.SIGTERM if list(LONG).index(kind) % 2 else signal.SIGINT
    argv = [*given, "--attacks", attacks]
    clean = kind == "clean"
    ready = (lambda: passes() > 0) if clean else (lambda: bool(journal()))
    seconds, more, err = ended_by(number, [*argv, "--out", "out"], ready, 1 if clean else 3)
    assert seconds < WAITED
    assert more <= 1  # one may have begun while the signal was sent
    assert err.splitlines()[-1].endswith(
        "stopped; finished batches are kept, go on with the same command and --out out"
    )
    assert "Traceback" not in err
    assert len(journal()) == (0 if clean else 1) or kind == "a union"
    assert main([*argv, "--out", "out"]) == 0
    assert main([*argv, "--out", "whole"]) == 0
    assert outcomes("out") == outcomes("whole")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_also_where_passes_are_compiled(given, number):
    argv = [*given, "--attacks", "pgd40,apgd-t-40", "--compile"]
    seconds, more, err = ended_by(number, [*argv, "--out", "out"], lambda: len(journal()) == 2)
    assert seconds < WAITED
    assert more <= 1
    assert "Traceback" not in err
    assert "compiled" not in err
    assert main([*argv, "--out", "out"]) == 0
    assert main([*argv, "--out", "whole"]) == 0
    assert outcomes("out") == outcomes("whole")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_also_while_they_are_being_compiled(given, number):
    """Which takes longer than anybody waits, and is not begun again on the way out."""
    argv = [*given, "--attacks", "pgd40", "--compile", "--out", "out"]
    seconds, more, err = ended_by(number, argv, lambda: bool(journal()), 0)
    assert seconds < WAITED
    assert more <= 1
    assert "Traceback" not in err
    assert "compiled" not in err
    assert len(journal()) == 1
