"""Long runs in one process: memory, open files, threads, shared memory, temporary files and speed stay as they are."""

import contextlib
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import small

from fastait import evaluate_robustness, recipe, run_training
from fastait.training.step import Totals

STEPS, FEW_STEPS = 3000, 60
EVALUATIONS, FEW_EVALUATIONS = 500, 20

SAMPLES = 40
"""Looks at what the process holds, spread evenly."""

MEMORY, SPEED = 0.02, 0.5
"""By which shares resident memory, and the time of a step or an evaluation, may grow after the warm-up."""

WARM = 0.5
"""This share of the looks comes before anything is compared."""

LOADERS: dict[str, dict[str, Any]] = {"resident": {}, "torch": {"workers": 1}, "dali": {"dali": True}}


@dataclass(frozen=True)
class Look:
    """What this process and its children hold.

    Attributes:
        seconds: of processor time since the look before, of this process.
        memory: resident bytes.
    """

    seconds: float
    memory: int
    files: int
    threads: int
    shared_memory: int
    temporary_files: int


def main(short: bool, folder: Path) -> dict[str, Any]:
    """Train by each loader and evaluate again and again; what grows is a failure."""
    steps, evaluations = (FEW_STEPS, FEW_EVALUATIONS) if short else (STEPS, EVALUATIONS)
    counts, failures, notes = {}, [], {}
    works: dict[str, Callable[[], list[Look]]] = {}
    for loader, options in LOADERS.items():
        if loader != "dali" or (not short and find_spec("nvidia.dali") is not None):
            works[f"steps by the {loader} loader"] = lambda options=options: _trained(steps, options)
    works["evaluations"] = lambda: _evaluated(evaluations)
    with contextlib.chdir(folder), _own_temporary_folder():
        for name, work in works.items():
            looks = work()
            counts[name] = evaluations if name == "evaluations" else steps
            failures += [f"{name}: {line}" for line in growth(looks)]
            notes[name] = described(looks)
    return {"counts": counts, "failures": failures, "notes": notes}


def growth(looks: Sequence[Look]) -> list[str]:
    """What has grown after the warm-up, a line each: the last quarter against what lies before it."""
    before, last = _compared(looks)
    lines = []
    for what in (field.name for field in fields(Look)):
        then, now = (statistics.median(getattr(look, what) for look in part) for part in (before, last))
        allowed = {"memory": MEMORY, "seconds": SPEED}.get(what, 0.0)
        if now > then * (1 + allowed):
            lines.append(f"{what.replace('_', ' ')} grew from {then:g} to {now:g}")
    return lines


def described(looks: Sequence[Look]) -> str:
    """Of resident memory and speed, what is reported where all is well."""
    before, last = _compared(looks)
    memory = [statistics.median(look.memory for look in part) / 2**20 for part in (before, last)]
    seconds = [1e3 * statistics.median(look.seconds for look in part) for part in (before, last)]
    return f"{memory[0]:.1f} to {memory[1]:.1f} MiB; {seconds[0]:.3g} to {seconds[1]:.3g} ms of processor time a look"


def _compared(looks: Sequence[Look]) -> tuple[Sequence[Look], Sequence[Look]]:
    warm = int(WARM * len(looks))
    middle = warm + (len(looks) - warm) // 2
    return looks[warm:middle], looks[middle:]


def _trained(steps: int, options: dict[str, Any]) -> list[Look]:
    """A run of so many steps and a few more, looked at on the way."""
    looks, add, clock = [], Totals.add, _Clock()

    def adding(self: Any, loss: Any, logits: Any, y: Any, step: Any) -> None:
        add(self, loss, logits, y, step)
        if (int(step) + 1) % max(1, steps // SAMPLES) == 0 and step < steps:
            looks.append(look(clock))

    settings = {"model": "small:Classifier", "image_size": 16, "batch_size": 16, "method": "fgsm-rs", "device": "cpu"}
    epochs = -(-steps // -(-1442 // settings["batch_size"]))
    out = Path(tempfile.mkdtemp(dir=".")) / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Totals, "add", adding)
        run_training(recipe("digits", **settings, **options, epochs=epochs, milestones=(), eval_samples=10, out=out))
    return looks


def _evaluated(evaluations: int) -> list[Look]:
    model, (x, y), looks, clock = small.new(), small.images(8), [], _Clock()
    for number in range(1, evaluations + 1):
        evaluate_robustness(model, x, y, ("fgsm", "pgd2"), batch_size=4, seed=number)
        if number % max(1, evaluations // SAMPLES) == 0:
            looks.append(look(clock))
    return looks


class _Clock:
    def __init__(self) -> None:
        self.last = time.process_time()

    def passed(self) -> float:
        before, self.last = self.last, time.process_time()
        return self.last - before


def look(clock: _Clock) -> Look:
    """What there is now."""
    processes = [os.getpid(), *_children(os.getpid())]
    return Look(
        clock.passed(),
        sum(map(_resident, processes)),
        len(os.listdir("/proc/self/fd")),
        threading.active_count() + sum(_threads(process) for process in processes),
        sum(any(f"_{process}_" in name for process in processes) for name in os.listdir(SHARED)) if SHARED else 0,
        sum(len(files) for _, _, files in os.walk(tempfile.gettempdir())),
    )


SHARED = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""Where torch's loaders keep what processes share, under names with their process's number."""


@contextlib.contextmanager
def _own_temporary_folder() -> Iterator[None]:
    """While entered, temporary files are this process's alone; the path is short, for the sockets that lie in it."""
    with tempfile.TemporaryDirectory(prefix="fa-") as own, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", own)
        patch.setattr(tempfile, "tempdir", own)
        yield


def _children(process: int) -> list[int]:
    with contextlib.suppress(OSError):
        told = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        return [child for one in map(int, told) for child in (one, *_children(one))]
    return []


def _resident(process: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _threads(process: int) -> int:
    with contextlib.suppress(OSError):
        return len(os.listdir(f"/proc/{process}/task"))
    return 0
