"""What is done, running, waiting and failed of a comparison, as its files say."""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fastait.evaluation.journal import Recorded
from fastait.reproduction.standing import Standing, journal_folder
from fastait.reproduction.systems import Choices
from fastait.reproduction.worker import Item, claims_folder
from fastait.runtime import claims
from fastait.runtime.claims import DONE, FAILED, WORKING, Record, last_numbers, last_record
from fastait.runtime.console import say, show_table
from fastait.runtime.report import duration

WATCHED = 2.5
"""In times of a renewal: how long a claim is watched before it is said that nothing is heard of its worker."""


def show_status(choices: Choices, wanted: Mapping[str, Sequence[Item]]) -> None:
    """Print what is there of ``wanted``, the items of each table; nothing is written.

    Claims that are being worked on are watched until they are renewed, for some seconds at most.
    """
    recorded = Recorded(journal_folder(choices))
    recorded.read()
    standings = {one.seed: Standing(one, recorded) for one in choices.each_seed()}
    every = {item.name: item for items in wanted.values() for item in items}
    done = {name for name, item in every.items() if item.done(standings[item.seed])}
    folder = claims_folder(choices)
    records, silent = watch(folder, every)
    states = {name: "done" if name in done else state(records.get(name), name in silent) for name in every}
    lines = [
        [
            name,
            "run" if item.point is None else ", ".join(item.attacks) or "clean",
            *_line(records.get(name), states[name]),
        ]
        for name, item in every.items()
    ]
    if lines:
        show_table(["name", "what", "state", "where", "since", "how far", "left"], lines, words=range(6))
    counts = ", ".join(
        f"{sum(found == kind for found in states.values())} {kind}" for kind in dict.fromkeys(states.values())
    )
    say(f"{choices.folder}: {counts or 'nothing to train or measure'}.")
    for table, items in wanted.items():
        missing = [item for item in items if item.name not in done]
        lacking = ", ".join(item.name for item in missing[:4]) + (
            f" and {len(missing) - 4} more" if missing[4:] else ""
        )
        say(f"{table}: {f'still missing: {lacking}' if missing else 'all is there'}.")
    for name, found in states.items():
        if found == "failed":
            say(f"{name} failed: {records[name].why}.")


def watch(folder: Path, items: Iterable[str]) -> tuple[dict[str, Record], set[str]]:
    """The last claim on each of the items that has one, and the items whose claim is not given back nor renewed."""
    last = last_numbers(folder)
    first = {item: last_record(folder, item, last[item]) for item in items if item in last}
    waited_for = {item for item, (_, record) in first.items() if record.state == WORKING}
    records = {item: record for item, (_, record) in first.items()}
    until = time.monotonic() + WATCHED * claims.LAPSE / claims.RENEWALS
    while waited_for and time.monotonic() < until:
        time.sleep(0.1)
        for item in sorted(waited_for):
            data, record = last_record(folder, item, last[item])
            if data != first[item][0]:
                records[item] = record
                waited_for.discard(item)
    return records, waited_for


def state(record: Record | None, silent: bool) -> str:
    """What is said of an item that is not done."""
    if record is None or record.state not in (WORKING, FAILED):
        return "waiting"  # released, or done before more was asked for
    if record.state == FAILED:
        return "failed"
    return "nothing heard" if silent else "running"


def _line(record: Record | None, state: str) -> list[str]:
    if record is None or record.worker is None or (state == "done" and record.state != DONE):
        return [state, "", "", "", ""]
    job = f", job {record.worker['job']}" if record.worker.get("job") else ""
    where = f"{record.worker['host']}, process {record.worker['pid']}{job}"
    left = "" if record.left is None or state != "running" else duration(record.left)
    doing = record.doing if state in ("running", "nothing heard") else record.why
    return [state, where, record.began.replace("T", " "), doing, left]
