"""A pytest plugin: a line of JSON for each test, written as soon as it is known, so that a crash loses none.

The file is named by the environment variable FASTAIT_RECORD. ``read`` makes a summary of it.
"""

import json
import os
from pathlib import Path

SHORT = 4000
"""Characters that are kept of a failure, its last ones."""


def _write(**line):
    with open(os.environ["FASTAIT_RECORD"], "a") as file:
        file.write(json.dumps(line) + "\n")


def pytest_runtest_logstart(nodeid):
    _write(test=nodeid, begins=True)


def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        _write(test=report.nodeid, outcome=report.outcome, seconds=round(report.duration, 3), text=_text(report))


def pytest_collectreport(report):
    if report.outcome != "passed":
        _write(test=report.nodeid, outcome=report.outcome, seconds=0, text=_text(report))


def _text(report):
    if report.outcome == "skipped":
        return str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return str(report.longrepr)[-SHORT:] if report.outcome == "failed" else ""


def read(path):
    """What the file at ``path`` says: how many tests passed, which failed or were skipped, and which did not end."""
    found = {"passed": 0, "failed": [], "skipped": [], "slowest": [], "unfinished": None}
    times = {}
    for line in Path(path).read_text().splitlines() if Path(path).exists() else ():
        entry = json.loads(line)
        if "begins" in entry:
            found["unfinished"] = entry["test"]
            continue
        if found["unfinished"] == entry["test"]:
            found["unfinished"] = None
        times[entry["test"]] = entry["seconds"]
        if entry["outcome"] == "passed":
            found["passed"] += 1
        else:
            found[entry["outcome"]].append({"test": entry["test"], "text": entry["text"]})
    slowest = sorted(times.items(), key=lambda item: -item[1])[:5]
    found["slowest"] = [{"test": test, "seconds": seconds} for test, seconds in slowest]
    return found
