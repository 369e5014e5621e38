"""Who does which of several things, where workers on any machines share a folder and nothing else.

An item is something that is to be done once. Whoever wants to do it takes a claim on it, which is a lease: its worker
renews it while it works, and others may take the item over once the claim has lapsed.

How it works:

- A claim is a file ``ITEM@N``, N = 1, 2, 3, ...: the item belongs to the claim of the highest number. A claim is
  taken by creating the file of the next number, which must not exist (``O_CREAT | O_EXCL``). So of any number of
  workers that try one succeeds, and no number is given twice, since no file of claims is ever removed.
- Only its own worker writes to a claim: in place, a record of one size, with a count that grows at each renewal. So a
  full disk does not end a claim, and a late worker's renewal changes nothing, because its number is not the highest.
- A claim whose worker says that it is done with the item may be followed at once. One that is being worked on may be
  followed when an observer has seen it unchanged for ``lapse`` seconds by its own monotonic clock. Times that
  machines write down are for people; none is ever compared.
- A worker that has slept looks, before it writes anything, whether there is a claim of the next number: ``check``.

What is relied on: exclusive creation (local file systems, NFS from version 3 on, Lustre, GPFS, CephFS, BeeGFS), and
that a file that is opened anew shows what was written before it was last closed elsewhere (close-to-open consistency).
No locks, no links, no clocks that agree.

What is not guaranteed: that two workers are never at one item at the same time. A worker may stop for longer than a
lapse and go on, or write between ``check`` and the other's claim; NFS may show a new claim as late as it caches a
folder (``acdirmax``, 60 s unless mounted otherwise). So what is done under a claim must be harmless if it is done
twice. Whoever uses this therefore lets each claim write to files of its own, and gives the result its name by a rename
that cannot replace another: ``fastait.reproduction.attempts`` for runs, a journal of each worker for outcomes. Then a
late worker cannot overwrite anything, whatever it believes, and ``check`` is only there to save its time.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

from fastait.runtime.errors import FastaitError, NotWritten, one_line, words
from fastait.runtime.files import json_of
from fastait.runtime.signals import LOST, ask_to_stop

LAPSE = 120.0
"""Seconds without a renewal after which a claim may be followed. More than file systems cache what others write."""

RENEWALS = 24
"""In the time of a lapse: every 5 seconds."""

WORKING, RELEASED, DONE, FAILED = "working", "released", "done", "failed"
"""States of a claim. After ``RELEASED`` and ``DONE`` anyone may follow at once, after ``FAILED`` workers that began
later."""

SIZE = 2048
"""Bytes of a claim's record, which is padded with blanks: less than a page, so that it is read as it was written."""

LONGEST = 400
"""Characters of what is said in it."""


class Lost(FastaitError):
    """Another worker has taken over what this one was doing, because it had not been heard of for too long."""


@dataclass(frozen=True)
class Worker:
    """Who claims: a process.

    Attributes:
        name: of files that are its own; no other process ever has it.
        host: where it runs.
        pid: its number there.
        job: of a batch system, empty without one.
    """

    name: str
    host: str
    pid: int
    job: str = ""

    @classmethod
    def here(cls) -> "Worker":
        """This process."""
        host = "".join(c if c.isalnum() or c in "-." else "-" for c in socket.gethostname()) or "host"
        job, array = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_ARRAY_JOB_ID", "")
        task = os.environ.get("SLURM_ARRAY_TASK_ID", "")
        return cls(f"{host}-{os.getpid()}-{token_hex(3)}", host, os.getpid(), f"{array}_{task}" if array else job)


@dataclass(frozen=True)
class Record:
    """What a claim says.

    Attributes:
        state: one of the four.
        worker: its ``Worker`` as a dictionary.
        began: when, by its worker's clock.
        renewed: how many times.
        doing: what it is at, such as ``epoch 3 of 10``.
        left: seconds that this is estimated to take.
        why: it failed, or was given up.
    """

    state: str = WORKING
    worker: Mapping[str, Any] | None = None
    began: str = ""
    renewed: int = 0
    doing: str = ""
    left: float | None = None
    why: str = ""

    def packed(self) -> bytes:
        """The bytes of its file."""
        short = replace(self, doing=words(one_line(self.doing), LONGEST), why=words(one_line(self.why), LONGEST))
        data = json.dumps(asdict(short)).encode()
        if len(data) >= SIZE:  # letters that are six bytes each
            data = json.dumps(asdict(replace(short, doing="", why=short.why[:80]))).encode()
        return data.ljust(SIZE - 1) + b"\n"

    @classmethod
    def of(cls, data: bytes) -> "Record":
        """What the bytes of a file say; one that cannot be read, as before it is first written, is being worked on."""
        try:
            return cls(**json_of(data))
        except (TypeError, ValueError):
            return cls()


class Claims:
    """The claims in a folder, as one worker sees them.

    Args:
        folder: which all workers share; it is made when a claim is taken.
        worker: who takes claims.
        lapse: seconds; the same for all workers.
        now: a clock that only goes forward.
    """

    def __init__(
        self, folder: Path, worker: Worker, *, lapse: float | None = None, now: Callable[[], float] = time.monotonic
    ):
        self.folder, self.worker, self.now = folder, worker, now
        self.lapse = LAPSE if lapse is None else lapse
        self._seen: dict[Path, tuple[bytes, float]] = {}
        self._at_first = last_numbers(folder)

    def take(self, item: str, last: int | None = None) -> "Claim | None":
        """The item's next claim; None if the last one may not be followed (yet), or another worker was first.

        Args:
            item: a name that can stand in a file's.
            last: number of its last claim, where ``last_numbers`` has just been asked.

        Raises:
            NotWritten: the file system takes no more files.
        """
        if last is None:
            last = last_numbers(self.folder).get(item, 0)
        if last and not self._may_follow(item, last):
            return None
        path = claim_file(self.folder, item, last + 1)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return None
        except OSError as error:
            raise _not_written(path, error) from None
        record = Record(worker=asdict(self.worker), began=datetime.now().astimezone().isoformat(timespec="seconds"))
        try:
            os.pwrite(handle, record.packed(), 0)
        except OSError as error:
            raise _not_written(path, error) from None
        finally:
            os.close(handle)
        return Claim(self, item, last + 1, record)

    def failed(self, item: str, last: int) -> str | None:
        """Why the item failed, if it did and this worker is not to try it again."""
        record = Record.of(_read(claim_file(self.folder, item, last))) if last else Record()
        return record.why if record.state == FAILED and last > self._at_first.get(item, 0) else None

    def _may_follow(self, item: str, last: int) -> bool:
        path = claim_file(self.folder, item, last)
        data = _read(path)
        state = Record.of(data).state
        if state in (RELEASED, DONE):
            return True
        if state == FAILED:
            return last <= self._at_first.get(item, 0)
        before = self._seen.get(path)
        if before is None or before[0] != data:
            self._seen[path] = data, self.now()
            return False
        return self.now() - before[1] > self.lapse


class Claim:
    """A claim of this worker, which is renewed by a thread while it is entered.

    On leaving, others are told that they may follow: after an exception because of what it says, unless ``end`` has
    said something else.

    Attributes:
        item, number: whose and which.
        lost: whether another worker was seen to have followed.
        progress: asked at each renewal for what the record says, by ``doing`` and ``left``.
    """

    def __init__(self, claims: Claims, item: str, number: int, record: Record):
        self.item, self.number, self.lost = item, number, False
        self.progress: Callable[[], dict[str, Any]] = dict
        self._folder = claims.folder
        self._path, self._next = (claim_file(claims.folder, item, n) for n in (number, number + 1))
        self._every = claims.lapse / RENEWALS
        self._record, self._ended = record, False
        self._leaving = threading.Event()
        self._owner = threading.get_ident()
        self._thread = threading.Thread(target=self._renew, name=f"claim {item}", daemon=True)

    def check(self) -> None:
        """Raise ``Lost`` if another worker has followed. To be called before anything is written."""
        if self.lost or self._next.exists() or not self._path.exists():
            self.lost = True
            raise Lost(f"{self.item} was taken over by another worker")

    def is_lost(self) -> bool:
        """Whether another worker has followed."""
        with suppress(Lost):
            self.check()
        return self.lost

    def end(self, state: str, why: str = "") -> None:
        """Say how it ended, now."""
        self._leave()
        self._ended = True
        self._write(replace(self._record, state=state, why=why, left=None))

    def __enter__(self) -> "Claim":
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: object) -> None:
        if not self._ended:
            self.end(RELEASED, "" if error is None else f"{error}" or type(error).__name__)

    def _leave(self) -> None:
        self._leaving.set()
        if self._thread.is_alive():
            self._thread.join()

    def _renew(self) -> None:
        while not self._leaving.wait(self._every):
            try:
                self.check()
            except Lost:
                ask_to_stop(LOST, self._owner)
                return
            told: dict[str, Any] = {}
            with suppress(Exception):  # whatever it is, the claim must not lapse for it
                told = self.progress()
            self._write(replace(self._record, renewed=self._record.renewed + 1, **told))

    def _write(self, record: Record) -> None:
        """In place; what cannot be written is tried again at the next renewal, and else the claim lapses."""
        self._record = record
        try:
            handle = os.open(self._path, os.O_WRONLY)
            try:
                os.pwrite(handle, record.packed(), 0)
            finally:
                os.close(handle)
        except OSError:
            pass


def last_numbers(folder: Path) -> dict[str, int]:
    """The number of the last claim on each item that has had one."""
    found: dict[str, int] = {}
    try:
        names = os.listdir(folder)
    except OSError:
        return found
    for name in names:
        item, at, number = name.rpartition("@")
        if at and number.isdecimal():
            found[item] = max(found.get(item, 0), int(number))
    return found


def claim_file(folder: Path, item: str, number: int) -> Path:
    """Where the claim of this number on an item lies."""
    return folder / f"{item}@{number}"


def last_record(folder: Path, item: str, number: int) -> tuple[bytes, Record]:
    """A claim's bytes, which differ after each renewal, and what they say."""
    data = _read(claim_file(folder, item, number))
    return data, Record.of(data)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _not_written(path: Path, error: OSError) -> NotWritten:
    return NotWritten(f"{path} could not be written: {error.strerror}; what was done before is kept")
