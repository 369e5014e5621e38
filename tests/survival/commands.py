"""Ten thousand command lines in one process: each ends with 0, 1 or 2 and one line at most, and leaves it as it was."""

import contextlib
import io
import resource
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lines import Lines
from standing import changes, standing
from stubs import stubbed
from world import World

from fastait.__main__ import main as command

LINES, FEW = 10_000, 50

ROOM = 3 << 30
"""Bytes of addresses that a line may take: what asks for more is refused by the system, not by the machine's end."""


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
    wrong += changes(before)
    return code, wrong


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
