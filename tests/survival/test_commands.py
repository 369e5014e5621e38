"""Command lines of every kind, a few of them; and that whatever they may do wrong is seen."""

import os
import random
import signal
import sys
import threading

import numpy as np
import pytest
import torch
from commands import FEW, main, run
from lines import ARGUMENTS
from world import World

from fastait.__main__ import COMMANDS


def test_each_ends_in_one_line(tmp_path):
    found = main(True, tmp_path)
    assert found["failures"] == []
    counts = found["counts"]
    assert counts["command lines"] == FEW
    assert counts["of them done"] > FEW // 6
    assert counts["of them refused"] > FEW // 3


def test_every_command_is_drawn():
    assert {*ARGUMENTS, "kernels"} == set(COMMANDS)  # whose flags are argparse's


def _said(*lines, code=2):
    def body(line):
        for each in lines:
            print(each, file=sys.stderr)
        return code

    return body


def _raises(line):
    raise AttributeError("'NoneType' object has no attribute 'x'")


def _does(what):
    def body(line):
        what()
        return 0

    return body


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        (_raises, "a traceback: AttributeError"),
        (_said(code=3), "exit code 3"),
        (_said(code=None), "exit code None"),
        (_said(code=1), "exit code 1 and 0 lines of error"),
        (_said("x: error: a", "x: error: b"), "exit code 2 and 2 lines"),
        (_said("x: error: a", code=0), "exit code 0 and 1 lines"),
        (_said("x: error: a", "and more"), "the error is not what is said last"),
        (_said("Traceback (most recent call last)", code=0), "a traceback is printed"),
        (_does(lambda: os.chdir("/")), "the current folder changed"),
        (_does(lambda: os.environ.update(OTHER="1")), "the environment changed: {'OTHER': '1'}"),
        (_does(lambda: signal.signal(signal.SIGHUP, lambda *_: None)), "signal handlers changed"),
        (_does(random.random), "Python's generator changed"),
        (_does(np.random.random), "numpy's generator changed"),
        (_does(lambda: torch.rand(1)), "torch's generator changed"),
        (_does(lambda: torch.set_default_dtype(torch.float64)), "the default type changed"),
        (_does(lambda: torch.set_grad_enabled(False)), "gradients changed"),
        (_does(lambda: torch.use_deterministic_algorithms(True)), "determinism changed"),
        (_does(lambda: torch.set_float32_matmul_precision("medium")), "precision changed"),
        (_does(lambda: threading.Thread(target=threading.Event().wait, daemon=True).start()), "threads changed"),
        (_does(lambda: os.dup(1)), "open files changed"),
    ],
)
def test_what_is_wrong_is_seen(body, wrong, monkeypatch):
    precision, handler = torch.get_float32_matmul_precision(), signal.getsignal(signal.SIGHUP)
    folder = os.getcwd()
    monkeypatch.delenv("OTHER", raising=False)
    try:
        (said,) = run([], body)[1]
    finally:
        os.chdir(folder)
        os.environ.pop("OTHER", None)
        signal.signal(signal.SIGHUP, handler)
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
        torch.use_deterministic_algorithms(False)
        torch.set_float32_matmul_precision(precision)
    assert wrong in said


def test_the_world_is_put_back(tmp_path):
    world = World(tmp_path)
    before = world._seen()
    (world.folder / "run" / "config.json").write_text("{}")
    (world.folder / "sweep.toml").unlink()
    (world.folder / "runs" / "new").mkdir(parents=True)
    (world.folder / "null").unlink()
    (world.folder / "null").write_text("a file")
    assert world.lost_devices() == ["null"]
    world.put_back()
    assert world._seen() == before
    assert world.lost_devices() == []
