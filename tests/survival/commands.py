"""Ten thousand command lines in one process: each ends with 0, 1 or 2 and one line at most, and leaves it as it was."""

import contextlib
import io
import os
import random
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lines import Lines
from stubs import stubbed
from world import World

from fastait.__main__ import main as command

LINES, FEW = 10_000, 80

ROOM = 3 << 30
"""Bytes of addresses that a line may take: what asks for more is refused by the system, not by the machine's end."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)


def main(short: bool, folder: Path) -> dict[str, Any]:
    """Draw lines and run them; what is wrong with one is a failure that shows it."""
    counts = {"command lines": 0, "of them done": 0, "of them refused": 0, "of them failed": 0}
    failures: list[str] = []
    world = World(folder)
    lines = Lines(0, world.names)
    with stubbed(), _limited(), contextlib.chdir(world.folder):
        for warm in (["report", "run", "--eval", "eval"], ["data", "digits"], ["--version"]):
            run(warm)  # what is imported then stays: open files, and variables of the environment
        for number in range(FEW if short else LINES):
            line = lines.draw()
            code, wrong = run(line)
            wrong += [f"{name} is no device any more" for name in world.lost_devices()]
            world.put_back()
            counts["command lines"] += 1
            key = {0: "of them done", 1: "of them failed", 2: "of them refused"}.get(code)
            if key is not None:
                counts[key] += 1
            failures += [f"line {number}, fastait {_shown(line)}: {what}" for what in wrong]
    return {"counts": counts, "failures": failures, "notes": {}}


def run(line: Sequence[str], body: Callable[[list[str]], int] = command) -> tuple[Any, list[str]]:
    """Run one line; its exit code, and what is wrong with how it went."""
    out, err = io.StringIO(), io.StringIO()
    before, code, wrong = standing(), None, []
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = body(list(line))
        except SystemExit as end:
            code = end.code or 0
        except BaseException as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}:{place.lineno}"
            wrong.append(f"a traceback: {type(error).__name__}: {str(error)[:200]} ({where})")
    said = err.getvalue()
    if not wrong and (isinstance(code, bool) or code not in (0, 1, 2)):
        wrong.append(f"exit code {code}")
    errors = [each for each in said.splitlines() if "error:" in each]
    if not wrong and len(errors) != (code != 0):
        wrong.append(f"exit code {code} and {len(errors)} lines of error: {said[:300]!r}")
    if errors and not said.rstrip("\n").endswith(errors[-1]):
        wrong.append(f"the error is not what is said last: {said[-300:]!r}")
    if "Traceback" in said + out.getvalue():
        wrong.append("a traceback is printed")
    after = standing()
    wrong += [f"{name} changed: {_change(before[name], after[name])}" for name in after if before[name] != after[name]]
    return code, wrong


def _change(before: Any, after: Any) -> str:
    if isinstance(before, dict):
        return str({key: after.get(key) for key in before.keys() | after.keys() if before.get(key) != after.get(key)})
    return f"from {before} to {after}"


def standing() -> dict[str, Any]:
    """What a line must leave as it was."""
    return {
        "the current folder": os.getcwd(),
        "the environment": dict(os.environ),
        "signal handlers": [signal.getsignal(number) for number in SIGNALS],
        "the timer": signal.getitimer(signal.ITIMER_REAL),
        "Python's generator": hash(random.getstate()),
        "numpy's generator": hash(np.random.get_state()[1].tobytes()),
        "torch's generator": hash(torch.get_rng_state().numpy().tobytes()),
        "the default type": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "precision": (torch.backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision()),
        "determinism": torch.are_deterministic_algorithms_enabled(),
        "torch's threads": torch.get_num_threads(),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "the streams": (sys.stdout, sys.stderr),
        "open files": len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0,
    }


@contextmanager
def _limited() -> Iterator[None]:
    """While entered, memory is short."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _shown(line: Sequence[str]) -> str:
    return " ".join(repr(word) if len(word) < 80 else f"{word[:20]!r}... ({len(word)})" for word in line)
