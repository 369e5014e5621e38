"""All checks in their order, and what came of them as one document."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from fastait.doctor.advice import Advice
from fastait.doctor.checks import INSTALLED, MACHINE, tries
from fastait.doctor.findings import WRONG, Finding, Setup
from fastait.doctor.jobs import Result, do_jobs
from fastait.runtime.errors import InputError
from fastait.runtime.threads import usable_cores
from fastait.runtime.version import __version__

SCHEMA = 1
"""Of the document; another number has other keys."""

MOST_AT_ONCE = 4
"""Processes beside each other: each holds a torch, and on a GPU its context."""


def examine(setup: Setup, show: Callable[[Result], None]) -> list[Result]:
    """Do all checks; ``show`` is called with each result as it comes.

    Args:
        setup: its ``device`` is not known yet.

    Raises:
        InputError: ``--device`` names none of this machine.
    """
    results: dict[str, Result] = {}

    def done(result: Result) -> None:
        if result.finding.facts.get("refused"):
            raise InputError(result.finding.message)
        results[result.check.name] = result
        show(result)

    do_jobs([INSTALLED], setup, 1, done)
    facts = results[MACHINE.name].finding.facts
    if "device" in facts:  # without torch there is nothing to try
        # What is not about the GPU can be tried where the GPU does not work.
        lost = results["gpu"].finding.status == WRONG
        setup = replace(setup, device="cpu" if lost else facts["device"])
        shared = facts["compute_mode"] in (None, "Default")
        jobs = tries(setup.on_gpu)
        do_jobs(jobs, setup, min(MOST_AT_ONCE, usable_cores()) if shared else 1, done)
    return list(results.values())


def findings(results: Sequence[Result]) -> dict[str, Finding]:
    """By the checks' names."""
    return {result.check.name: result.finding for result in results}


def document(results: Sequence[Result], advice: Advice, seconds: float) -> dict[str, Any]:
    """Everything, as plain values.

    ``checks`` have a name, a status (ok, wrong or skipped), seconds, a message and a remedy, some have figures; what is
    wrong has a ``log``, the last lines that its process printed.
    """
    found = findings(results)
    return {
        "schema": SCHEMA,
        "fastait": __version__,
        "ok": not any(finding.status == WRONG for finding in found.values()),
        "seconds": round(seconds, 1),
        "environment": found[MACHINE.name].facts,
        "checks": [_plain(result) for result in results],
        "train": asdict(advice),
    }


def _plain(result: Result) -> Mapping[str, Any]:
    finding = result.finding
    about = {
        "name": result.check.name,
        "status": finding.status,
        "seconds": result.seconds,
        "message": finding.message,
        "remedy": finding.remedy,
    }
    if result.check != MACHINE and finding.facts:
        about["figures"] = finding.facts
    return {**about, "log": list(result.log)} if result.log else about
