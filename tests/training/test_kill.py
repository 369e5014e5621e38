"""Real training processes that are killed: what they leave is resumed to the same weights, bit for bit."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "fastait.train"]
RUN = ["--eval-samples", "10", "--device", "cpu", "--crop-padding", "1", "--flip"]
KNOBS = ["--method", "madry", "--attack-steps", "1", "--awp", "0.005"]
KNOBS += ["--ema", "0.99", "--clip-grad-norm", "1", "--schedule", "one-cycle"]
LONG = [*RUN, "--image-size", "16", "--epochs", "6", "--val-fraction", "0.1", *KNOBS]
SHORT = [*RUN, "--image-size", "8", "--epochs", "1", "--checkpoint-seconds", "0"]
KILLS = 5


def run(*argv, **options):
    return subprocess.run([*COMMAND, *argv], capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of the undisturbed run; its batches are those of every loader."""
    folder = tmp_path_factory.mktemp("undisturbed") / "whole"
    done = run(*LONG, "--out", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("loader", [[], ["--workers", "1"], ["--dali"]], ids=["resident", "torch", "dali"])
def test_killed_at_random_moments(whole, loader):
    if loader == ["--dali"]:
        pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    moments = random.Random(f"kill {loader}")
    checkpoint = Path("run/checkpoint.pt")
    argv = [*LONG, *loader, "--out", "run", "--checkpoint-seconds", "0.02"]
    for kill in range(KILLS):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else None
        process = subprocess.Popen([*COMMAND, *argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if kill != 1:  # one dies while it starts, the others after they have got further
            while process.poll() is None and (not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before):
                time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.4))
        assert process.poll() is None, "the run ended before it was killed"
        process.kill()
        process.wait()
        argv = ["--resume", "run"]
    done = run(*argv)
    assert done.returncode == 0, done.stderr
    for name in ("model.safetensors", "best.safetensors", "ema.safetensors"):
        assert Path("run", name).read_bytes() == (whole / name).read_bytes()
    epochs = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [epoch["epoch"] for epoch in epochs] == list(range(1, 7))
    assert [epoch["loss"] for epoch in epochs] == [
        json.loads(line)["loss"] for line in (whole / "metrics.jsonl").read_text().splitlines()
    ]
    results = [json.loads(Path(folder, "result.json").read_text()) for folder in ("run", whole)]
    for column in ("clean", "fgsm", "pgd20", "cw20"):
        assert results[0][column] == results[1][column]


@pytest.mark.slow
def test_a_loader_process_that_is_killed():
    """As the system does when memory is short: one line, exit code 1, and the run goes on from its checkpoint."""
    argv = [*LONG, "--workers", "1", "--out", "run", "--checkpoint-seconds", "0.02"]
    with subprocess.Popen([*COMMAND, *argv], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while not Path("run/checkpoint.pt").exists():
            assert process.poll() is None
            time.sleep(0.005)
        (worker,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(worker), signal.SIGKILL)
        err = process.communicate()[1]
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "error: --workers: DataLoader worker (pid" in err.splitlines()[-1]
    assert run("--resume", "run").returncode == 0


@pytest.mark.slow
def test_full_disk():
    """A real write that fails half-way: one line, exit code 1, and the checkpoint before it still resumes."""
    first = run(*SHORT, "--out", "run")
    assert first.returncode == 0, first.stderr
    kept = Path("run/checkpoint.pt").read_bytes()
    for name in ("result.json", "model.safetensors"):
        Path("run", name).unlink()

    def small_files_only():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    failed = run("--resume", "run", preexec_fn=small_files_only)
    assert failed.returncode == 1
    assert "model.safetensors could not be written: File too large; what it held before is unharmed" in failed.stderr
    assert "Traceback" not in failed.stderr
    left = {p.name for p in Path("run").iterdir()} - {"checkpoint-1.pt"}  # on a slow machine there were two
    assert left == {".lock", "checkpoint.pt", "config.json", "metrics.jsonl"}
    assert Path("run/checkpoint.pt").read_bytes() == kept

    new = run(*SHORT, "--out", "new", preexec_fn=small_files_only)
    assert new.returncode == 1
    assert "new/checkpoint.pt could not be written" in new.stderr
    resumed = run("--resume", "new")
    assert resumed.returncode == 0, resumed.stderr
    assert Path("new/checkpoint.pt").exists()
