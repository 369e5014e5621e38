"""Which faults strike which command, and where."""

import random
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fault_commands import COMMANDS, Command
from fault_points import ANY, IMPORT, NAMED, NAMING, PASS, STEP, WRITING

MOMENTS = {
    "training": 7,
    "training, worker": 5,
    "training, DALI": 5,
    "training, interpolation": 5,
    "training, two processes": 4,
    "evaluation": 7,
    "evaluation, two processes": 4,
    "data": 2,
    "reproduce": 2,
}
"""How many SIGKILLs at random, 41 in all."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
SIGNALLED = {
    "training": 3,
    "training, worker": 2,
    "training, two processes": 2,
    "evaluation": 3,
    "evaluation, two processes": 2,
}
"""At how many moments each signal comes, twelve in all, to one process alone."""

SIGNALLED_ONCE = (("reproduce", signal.SIGTERM), ("reproduce", signal.SIGUSR1), ("data", signal.SIGINT))

WORKERS = {"training, worker": 3, "training, two processes": 4, "evaluation, two processes": 3}
"""How many are killed."""

FULL = (
    *(("training", 0.3), ("training", 0.7), ("training, two processes", 0.6), ("training, DALI", 0.9)),
    *(("evaluation", 0.4), ("evaluation", 0.8), ("data", 0.1), ("data", 0.6), ("reproduce", 0.6)),
)
"""Disks that have room for this share of what a command writes."""

LARGEST_FILE = (("training", 2000), ("training", 200_000), ("evaluation", 9000), ("data", 3000))
"""In bytes, where there is a limit."""

READ_ONLY = ("training", "training, two processes", "evaluation", "data", "reproduce")
VANISHING = {
    "training": "run",
    "training, worker": "run",
    "training, two processes": "run",
    "evaluation": "out",
    "evaluation, two processes": "out",
    "reproduce": "reproduction/small",
}
CLOCKS = READ_ONLY

MEMORY = (
    *(("training", 0), ("training", 1 << 20), ("training, worker", 0), ("training, two processes", 0)),
    *(("evaluation", 0), ("evaluation", 1 << 20), ("reproduce", 0)),
)
"""Bytes that there are, from some moment on, beside those that the process has."""

IMPORTED = {"train": 300, "eval": 500, "data": 700, "reproduce": 400}
"""The import at which people lose patience with a command."""

EARLY = 100
"""The same of ``python -m fastait.train`` and its like, where all but a few are still to come."""

ALONE = {"training": 6, "training, worker": 7, "data": 3}
"""Which of the files that have a name of their own is the last of a process that imports everything itself."""


@dataclass(frozen=True)
class Case:
    """A fault.

    Attributes:
        kind: in plain words, as it is counted.
        command: that is struck.
        fault: as ``fault_launcher`` reads it: its kind, point, number and what else it takes.
        alone: whether the process imports everything itself, as ``python -m`` does.
        disk: bytes of a file system of its own; None for the common one.
        read_only: whether it is told to go on where nothing can be written, before it may.
    """

    kind: str
    command: Command
    fault: Mapping[str, Any] = field(default_factory=dict)
    alone: bool = False
    disk: int | None = None
    read_only: bool = False

    @property
    def name(self) -> str:
        """For people, and told from all others."""
        what = [f"{name} {value}" for name, value in self.fault.items() if name not in ("kind", "path")]
        if self.disk is not None:
            what.append(f"{self.disk} bytes")
        return f"{self.kind}: {self.command.name} ({', '.join(what)})"


@dataclass(frozen=True)
class Known:
    """What undisturbed commands came to.

    Attributes:
        counts: {command: {point: how often}}.
        sizes: {command: bytes of what it left}.
    """

    counts: Mapping[str, Mapping[str, int]]
    sizes: Mapping[str, int]

    def at(self, command: Command, point: str, salt: object, **fault: object) -> dict[str, object]:
        """A fault at a point of this kind, which the salt chooses."""
        chosen = random.Random(f"{command.name} {point} {salt}")
        return {**fault, "point": point, "number": chosen.randint(1, self.counts[command.name][point])}

    def while_it_trains(self, command: Command, often: int, otherwise: str) -> str:
        """The kind of point of every second fault, the first one among them, of a training."""
        return STEP if self.counts[command.name].get(STEP) and often % 2 == 0 else otherwise


def cases(known: Known) -> Iterator[Case]:
    """All faults of those commands that something is known of."""
    commands = {command.name: command for command in COMMANDS if command.name in known.counts}
    for family in (_kills, _signals, _limits, _surroundings, _alone):
        yield from family(commands, known)


def _signal(number: int, /, **more: object) -> dict[str, object]:
    return {"kind": "signal", "signal": int(number), **more}


KILL = _signal(signal.SIGKILL)


def _of(commands: Mapping[str, Command], table: Any) -> Iterator[tuple[Command, Any]]:
    """(command, what a table says of it), of those that are there."""
    for name, value in table.items() if isinstance(table, dict) else table:
        if name in commands:
            yield commands[name], value


def _kills(commands: Mapping[str, Command], known: Known) -> Iterator[Case]:
    for command, many in _of(commands, MOMENTS):
        for i in range(many):
            point = known.while_it_trains(command, i, ANY)
            yield Case("SIGKILL at a random moment", command, known.at(command, point, i, **KILL))
        for point in WRITING:
            if known.counts[command.name].get(point):
                yield Case(f"SIGKILL {point}", command, known.at(command, point, "kill", **KILL))
    for command, many in _of(commands, WORKERS):
        for i in range(many):
            if command.ranks > 1:
                point = known.while_it_trains(command, i // 2, PASS)
                fault = known.at(command, point, ("worker", i), **KILL, rank=i % 2)
            else:  # in its steps, since there are none afterwards
                fault = {"kind": "worker", "point": NAMED, "number": 5 + i}
            yield Case("a worker killed", command, fault)


def _signals(commands: Mapping[str, Command], known: Known) -> Iterator[Case]:
    for number in SIGNALS:
        for command, many in _of(commands, SIGNALLED):
            for i in range(many):
                point = known.while_it_trains(command, i, PASS)
                rank = (i + number) % command.ranks
                fault = known.at(command, point, (int(number), i), **_signal(number, rank=rank))
                yield Case(number.name, command, fault)
    for command, number in _of(commands, SIGNALLED_ONCE):
        yield Case(number.name, command, known.at(command, ANY, number, **_signal(number)))


def _limits(commands: Mapping[str, Command], known: Known) -> Iterator[Case]:
    for command, share in _of(commands, FULL):
        yield Case("a full disk", command, disk=int(share * known.sizes[command.name]))
    for command, most in _of(commands, LARGEST_FILE):
        yield Case("a file-size limit", command, {"kind": "file size", "bytes": most})
    for command, more in _of(commands, MEMORY):
        fault = {"kind": "memory", "bytes": more, "point": PASS, "number": 1 + (more > 0)}  # early: it grows once
        yield Case("a memory limit", command, fault)


def _surroundings(commands: Mapping[str, Command], known: Known) -> Iterator[Case]:
    for command, _ in _of(commands, dict.fromkeys(READ_ONLY)):
        fault = known.at(command, ANY, "read-only", **KILL)
        yield Case("a read-only folder", command, fault, disk=1 << 28, read_only=True)
    for command, path in _of(commands, VANISHING):
        fault = {"kind": "gone", "path": path, "point": NAMED, "number": known.counts[command.name][NAMED] * 2 // 3}
        yield Case("a folder that vanishes", command, fault)
    for command, _ in _of(commands, dict.fromkeys(CLOCKS)):
        yield Case("a clock that jumps", command, {"kind": "clock", "point": ANY, "number": 1})


def _alone(commands: Mapping[str, Command], known: Known) -> Iterator[Case]:
    of_modules = {"train": "training", "eval": "evaluation", "data": "data", "reproduce": "reproduce"}
    for name, number in IMPORTED.items():
        for command, _ in _of(commands, {of_modules[name]: None}):
            typed = replace(command, module="fastait.__main__", argv=(name, *command.argv))
            for way, count in ((typed, number), *([(command, EARLY)] if name != "data" else ())):
                fault = _signal(signal.SIGINT, point=IMPORT, number=count)
                yield Case("Ctrl-C while it is imported", way, fault, alone=True)
    for command, number in _of(commands, ALONE):
        fault = {**KILL, "point": NAMING, "number": number}
        yield Case("SIGKILL of a process that nothing was imported for", command, fault, alone=True)
