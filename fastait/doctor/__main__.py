"""``fastait doctor``: whether this machine is set up right, and with which flags to train."""

if __name__ == "__main__":  # before the rest is imported, so that Ctrl-C meanwhile is one line
    from fastait.__main__ import end_as

    end_as("doctor")

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from fastait.doctor.advice import advise
from fastait.doctor.checks import MACHINE
from fastait.doctor.examination import document, examine, findings
from fastait.doctor.findings import OK, SKIPPED, WRONG, Setup
from fastait.doctor.jobs import Result
from fastait.runtime import cli
from fastait.runtime.console import say
from fastait.runtime.errors import InputError, RunError, one_line
from fastait.runtime.settings import normalise

COMMAND = "fastait doctor"
SUMMARY = (
    "Say whether this machine is set up right and with which flags to train: what is installed and how it fits, then "
    "a try of everything that a run uses. Takes less than a minute and leaves nothing behind."
)

WORDS = {OK: "OK", WRONG: "WRONG", SKIPPED: "skipped"}


@dataclass(frozen=True, kw_only=True)
class DoctorArguments:
    """What to look at."""

    json_: bool = field(default=False, metadata={"negative": ""})
    """Print one JSON document, for a bug report or a program, and nothing else."""

    out: Path = Path("runs")
    """Where runs are to be written, whether or not it exists yet; tried for its speed and room."""

    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        normalise(self)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 if what is there works, 1 if something is wrong."""
    return cli.run(COMMAND, _main, argv)


def _main(argv: list[str]) -> None:
    arguments = cli.parse(COMMAND, DoctorArguments(), argv, SUMMARY)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError("the doctor starts its processes itself; start it without torchrun")
    began = time.monotonic()
    setup = Setup(arguments.device, "cpu", str(arguments.out))
    results = examine(setup, (lambda result: None) if arguments.json_ else _show)
    found = findings(results)
    advice = advise(found, found[MACHINE.name].facts)
    if arguments.json_:
        say(json.dumps(document(results, advice, time.monotonic() - began), indent=1))
    else:
        say("\n".join(["", *advice.lines()]))
    bad = [name for name, finding in found.items() if finding.status == WRONG]
    if bad:
        raise RunError(f"{len(bad)} of {len(found)} checks found something wrong: {', '.join(bad)}")


def _show(result: Result) -> None:
    finding = result.finding
    say(f"{WORDS[finding.status]:8} {result.check.name:14} {one_line(finding.message)}")
    if finding.remedy:
        say(f"{'':8} {'':14} what to do: {one_line(finding.remedy)}")
