"""Which faults strike which command, and what must be seen of each."""

import random
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from fault_commands import COMMANDS, Command
from fault_points import ANY, IMPORT, NAMED, PASS, WRITING

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
"""At how many moments each signal comes, twelve in all; ``reproduce`` and ``data`` get one of two kinds each."""


@dataclass(frozen=True)
class Case:
    """A fault.

    Attributes:
        kind: in plain words, as it is counted.
        command: that is struck.
        fault: as ``fault_launcher`` reads it: its kind, point, number and what else it takes.
        alone: whether the process imports everything itself, as ``python -m`` does.
        disk: bytes of a file system of its own; None for the common one.
        read_only: whether it is killed, and the command then told to go on where nothing can be written.
    """

    kind: str
    command: Command
    fault: Mapping[str, object] = field(default_factory=dict)
    alone: bool = False
    disk: int | None = None
    read_only: bool = False

    @property
    def name(self) -> str:
        """For people, and told from all others."""
        what = {name: value for name, value in self.fault.items() if name not in ("kind", "path")}
        said = ", ".join(f"{name} {value}" for name, value in what.items())
        disk = "" if self.disk is None else f", {self.disk} bytes"
        return f"{self.kind}: {self.command.name} ({said}{disk}){' alone' if self.alone else ''}"


def cases(counts: Mapping[str, Mapping[str, int]], sizes: Mapping[str, int]) -> Iterator[Case]:
    """All of the long form.

    Args:
        counts: {command: {point: how often the undisturbed command came to it}}.
        sizes: {command: bytes of what it left}.
    """
    commands = {command.name: command for command in COMMANDS if command.name in counts}

    def at(name: str, point: str, salt: object, **more: object) -> dict[str, object]:
        number = random.Random(f"{name} {point} {salt}").randint(1, counts[name][point])
        return {"point": point, "number": number, **more}

    kill = {"kind": "signal", "signal": int(signal.SIGKILL)}
    for name, command in commands.items():
        for i in range(MOMENTS[name]):
            yield Case("SIGKILL at a random moment", command, at(name, ANY, i, **kill))
        for point in WRITING:
            if counts[name].get(point):
                yield Case(f"SIGKILL {_when(point)}", command, at(name, point, "kill", **kill))
    for number in SIGNALS:
        for name in commands.keys() & SIGNALLED.keys():
            for i in range(SIGNALLED[name]):
                rank = i % commands[name].ranks
                where = at(name, PASS, (number, i), kind="signal", signal=int(number), rank=rank)
                yield Case(number.name, commands[name], where)
    for name, number in (("reproduce", signal.SIGTERM), ("data", signal.SIGINT), ("reproduce", signal.SIGUSR1)):
        if name in commands:
            yield Case(number.name, commands[name], at(name, ANY, int(number), kind="signal", signal=int(number)))
    for name, many in (("training, worker", 3), ("training, two processes", 4), ("evaluation, two processes", 3)):
        for i in range(many if name in commands else 0):
            if "two" in name:
                where = at(name, PASS, ("worker", i), **kill, rank=i % 2)
            else:  # in its steps: afterwards there are no workers
                where = {"kind": "worker", "point": NAMED, "number": 5 + i}
            yield Case("a worker killed", commands[name], where)
    for name, share in (
        *(("training", 0.3), ("training", 0.7), ("training, two processes", 0.6), ("training, DALI", 0.9)),
        *(("evaluation", 0.4), ("evaluation", 0.8), ("data", 0.1), ("data", 0.6), ("reproduce", 0.6)),
    ):
        if name in commands:
            yield Case("a full disk", commands[name], disk=int(share * sizes[name]))
    for name, most in (("training", 2000), ("training", 200_000), ("evaluation", 9000), ("data", 3000)):
        if name in commands:
            yield Case("a file-size limit", commands[name], {"kind": "file size", "bytes": most})
    for name in ("training", "training, two processes", "evaluation", "data", "reproduce"):
        if name in commands:
            yield Case("a read-only folder", commands[name], at(name, ANY, "ro", **kill), disk=1 << 28, read_only=True)
    for name, path in (
        *(("training", "run"), ("training, worker", "run"), ("training, two processes", "run")),
        *(("evaluation", "out"), ("evaluation, two processes", "out"), ("reproduce", "reproduction/small")),
    ):
        if name in commands:
            number = counts[name][NAMED] * 2 // 3
            yield Case(
                "a folder that vanishes",
                commands[name],
                {"kind": "gone", "path": path, "point": NAMED, "number": number},
            )
    for name in ("training", "training, two processes", "evaluation", "data", "reproduce"):
        if name in commands:
            yield Case("a clock that jumps", commands[name], at(name, ANY, "clock", kind="clock"))
    for name, more in (
        ("training", 0),
        ("training", 1 << 20),
        ("training, worker", 0),
        ("evaluation", 0),
        ("evaluation", 1 << 20),
        ("reproduce", 0),
    ):
        if name in commands:
            yield Case("a memory limit", commands[name], at(name, PASS, ("memory", more), kind="memory", bytes=more))
    for name, number in (
        ("training", signal.SIGINT),
        ("evaluation", signal.SIGINT),
        ("data", signal.SIGINT),
        ("reproduce", signal.SIGINT),
    ):
        if name in commands:
            yield Case(
                "Ctrl-C while it imports",
                commands[name],
                {"kind": "signal", "signal": int(number), "point": IMPORT, "number": 300},
                alone=True,
            )
    for name in ("training", "evaluation", "data"):
        if name in commands:
            yield Case("SIGKILL of a process by itself", commands[name], at(name, ANY, "alone", **kill), alone=True)


def _when(point: str) -> str:
    return point if point.startswith(("before", "between")) else f"at {point}" if point == PASS else point
