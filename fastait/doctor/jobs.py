"""Jobs done in processes of their own, each check within its time: one that hangs or dies is a result like another."""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from typing import IO

from fastait.doctor.checks import Check, Job
from fastait.doctor.findings import WRONG, Finding, Setup, wrong
from fastait.runtime.threads import SAID_BY

START_SECONDS = 60
"""What a process may take longer for its first check, since Python and torch start; from a cold network disk that is
slow."""

END_SECONDS = 5
"""How long the end of a process that is killed is waited for."""

LAST_WORDS = 30
"""Lines of what a process printed that are kept where something is wrong."""


@dataclass(frozen=True)
class Result:
    """A check, done.

    Attributes:
        check: which.
        finding: what it found.
        seconds: how long it took; the first of a process, its start too.
        log: what the process printed last, where something is wrong.
    """

    check: Check
    finding: Finding
    seconds: float
    log: tuple[str, ...] = ()


def do_jobs(jobs: Sequence[Job], setup: Setup, at_once: int, done: Callable[[Result], None]) -> None:
    """Do ``jobs``, ``at_once`` beside each other, then those that must be alone; ``done`` is called with each result.

    What was started is ended when this function is left, also by an exception.
    """
    with tempfile.TemporaryDirectory(prefix="fastait-doctor-") as cache, ThreadPoolExecutor(max(1, at_once)) as pool:
        work = _Work(setup, done, cache)
        try:
            together = [pool.submit(work.do, job) for job in jobs if not job.alone]
            for future in as_completed(together):
                future.result()
            for job in jobs:
                if job.alone:
                    work.do(job)
        except BaseException:
            work.stop()
            raise


class _Work:
    """Jobs that are being done, in any thread, until they are told to stop."""

    def __init__(self, setup: Setup, done: Callable[[Result], None], cache: str):
        self.setup = setup
        self.done = done
        self.cache = cache
        self.lock = threading.Lock()
        self.running: set[subprocess.Popen] = set()
        self.stopped = False

    def do(self, job: Job) -> None:
        """One after another, in a new process wherever the last one is gone."""
        left = list(job.checks)
        while left:
            with tempfile.TemporaryFile() as log:
                with self.lock:
                    if self.stopped:
                        return
                    process = _start(left, job, self.setup, self.cache, log)
                    self.running.add(process)
                try:
                    for result in _results(process, left, log):
                        with self.lock:
                            if self.stopped:
                                return
                            self.done(result)
                        del left[0]
                finally:
                    with self.lock:
                        self.running.discard(process)
                    _end(process)

    def stop(self) -> None:
        """End what runs; nothing more is begun, and no more results are told."""
        with self.lock:
            self.stopped = True
            for process in self.running:
                _kill(process)


def _start(checks: Sequence[Check], job: Job, setup: Setup, cache: str, log: IO[bytes]) -> subprocess.Popen:
    told = {"setup": asdict(setup), "calls": [check.call for check in checks]}
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(os.path.abspath(p) for p in sys.path),
        # What was compiled for earlier runs would hide that nothing can be compiled any more.
        **{name: os.path.join(cache, name) for name in ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")},
    }
    if not job.alone and not any(environment.get(name) for name in SAID_BY):
        environment["OMP_NUM_THREADS"] = "1"  # threads of jobs that run beside each other would wait for each other
    for name, value in job.environment.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    return subprocess.Popen(
        [sys.executable, "-Pu", "-m", "fastait.doctor.child", json.dumps(told)],  # unbuffered: what it said last
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        env=environment,
        start_new_session=True,  # so that it is ended with all that it started
    )


def _results(process: subprocess.Popen, checks: Sequence[Check], log: IO[bytes]) -> Iterator[Result]:
    """A result for each check up to one that hangs or dies, that one included."""
    lines = _Lines(process)
    for place, check in enumerate(list(checks)):
        began = time.monotonic()
        limit = check.seconds + (0 if place else START_SECONDS)
        line = lines.next(limit)
        seconds = round(time.monotonic() - began, 2)
        if line:
            found = Finding(**json.loads(line))
        elif line is None:
            with contextlib.suppress(OSError):
                process.send_signal(signal.SIGUSR1)
                time.sleep(0.5)
            found = wrong(f"did not end within {limit:g} seconds{_place(_tail(log))}", "")
        else:
            found = wrong(f"{_end_of(process)}{_place(_tail(log))}", "")
        log_kept = tuple(_tail(log)) if found.status == WRONG else ()
        yield Result(check, with_remedy(found, check), seconds, log_kept)
        if not line:
            return


def with_remedy(found: Finding, check: Check) -> Finding:
    """With the check's own remedy where something is wrong and nobody knew a better one."""
    needs = found.status == WRONG and not found.remedy
    return replace(found, remedy=check.remedy) if needs else found


class _Lines:
    """Lines of a process's stdout, as they come."""

    def __init__(self, process: subprocess.Popen):
        self.process = process
        self.stream = process.stdout
        self.buffer = b""

    def next(self, seconds: float) -> str | None:
        """The next line; None if none comes within ``seconds``; empty if none can come any more."""
        assert self.stream is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self.buffer:
            ended = self.process.poll() is not None
            left = deadline - time.monotonic()
            # What a process started may hold its stdout open after its end, so that is looked at too.
            readable, _, _ = select.select([self.stream], [], [], 0 if ended else max(0, min(left, 0.1)))
            if readable and (more := os.read(self.stream.fileno(), 1 << 16)):
                self.buffer += more
            elif ended or readable:
                return ""
            elif left <= 0:
                return None
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.decode()


def _kill(process: subprocess.Popen) -> None:
    """And all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen) -> None:
    _kill(process)
    with contextlib.suppress(subprocess.TimeoutExpired):  # one that waits for a dead disk or driver cannot be ended
        process.wait(END_SECONDS)
    if process.stdout is not None:
        process.stdout.close()


def _end_of(process: subprocess.Popen) -> str:
    try:
        code = process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        return "its process says no more"
    if code >= 0:
        return f"its process ended with exit code {code}"
    try:
        return f"its process died of {signal.Signals(-code).name}"
    except ValueError:
        return f"its process died of signal {-code}"


def _tail(log: IO[bytes]) -> list[str]:
    log.seek(max(0, log.seek(0, os.SEEK_END) - (1 << 14)))
    return log.read().decode("utf-8", "replace").splitlines()[-LAST_WORDS:]


def _place(lines: Sequence[str]) -> str:
    """Where it was, by the last traceback that Python's faulthandler wrote."""
    for i, line in reversed(list(enumerate(lines))):
        if "most recent call first" in line and i + 1 < len(lines):
            where = re.search(r'File "(.+)", line (\d+) in (\S+)', lines[i + 1])
            return f", in {where[3]} ({os.path.basename(where[1])}:{where[2]})" if where else ""
    return ""
