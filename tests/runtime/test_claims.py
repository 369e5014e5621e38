"""Claims: one of many takes an item, a silent one is followed, a late one writes nothing; kills by the hundred."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

import fastait
from fastait.runtime import claims as module
from fastait.runtime.claims import DONE, FAILED, RELEASED, SIZE, Claims, Lost, Record, Worker, last_numbers
from fastait.runtime.errors import NotWritten
from fastait.runtime.files import checked, name_folder, write_whole
from fastait.runtime.signals import LOST, StopRequest

SCRIPT = Path(__file__).with_name("claim_workers.py")


class Clock:
    def __init__(self):
        self.time = 1000.0

    def __call__(self):
        return self.time


def worker(name):
    return Worker(name, "host", 1)


@pytest.fixture
def two(tmp_path):
    """(a worker's claims, another's, the clock of the latter)."""
    clock = Clock()
    return Claims(tmp_path, worker("a"), lapse=60), Claims(tmp_path, worker("b"), lapse=60, now=clock), clock


def test_one_of_many_takes_an_item(tmp_path):
    """All try at the same moment, again and again."""
    many = [Claims(tmp_path, worker(str(n))) for n in range(8)]
    for number in range(1, 20):
        barrier, taken = threading.Barrier(len(many)), []

        def take(claims, barrier=barrier, taken=taken):
            barrier.wait()
            if (claim := claims.take("item")) is not None:
                taken.append(claim)

        threads = [threading.Thread(target=take, args=(claims,)) for claims in many]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (claim,) = taken
        assert claim.number == number
        claim.end(RELEASED)


def test_a_claim_that_is_renewed_is_left_alone(two):
    a, b, clock = two
    claim = a.take("item")
    for _ in range(5):
        assert b.take("item") is None
        clock.time += 50
        claim._write(Record(renewed=claim._record.renewed + 1))
    assert b.take("item") is None
    clock.time += 61
    assert b.take("item").number == 2


def test_a_lapse_is_judged_by_the_observers_clock_alone(two, tmp_path):
    """What machines take for the time, and the file's, say nothing."""
    a, b, clock = two
    a.take("item")
    os.utime(tmp_path / "item@1", (0, 0))
    assert b.take("item") is None
    os.utime(tmp_path / "item@1", (2**32, 2**32))
    clock.time += 59
    assert b.take("item") is None
    clock.time += 2
    assert b.take("item") is not None


def test_one_that_wakes_up_late_knows_it_before_it_writes(two, tmp_path):
    a, b, clock = two
    late = a.take("item")
    path = tmp_path / "file"
    with checked(late.check):
        write_whole(path, b"in time")
    b.take("item")
    clock.time += 61
    taken = b.take("item")
    with checked(late.check), pytest.raises(Lost, match="item was taken over by another worker"):
        write_whole(path, b"late")
    assert path.read_bytes() == b"in time"
    late._write(Record(renewed=99))  # of its own claim alone
    taken.check()
    write_whole(path, b"nobody asks")
    taken.end(DONE)
    assert b.take("item").number == 3


def test_a_folder_that_has_a_name_keeps_it(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result").write_text(name)
    assert name_folder(tmp_path / "one", tmp_path / "runs" / "run")
    assert not name_folder(tmp_path / "two", tmp_path / "runs" / "run")
    assert (tmp_path / "runs" / "run" / "result").read_text() == "one"
    assert (tmp_path / "two" / "result").read_text() == "two"
    with pytest.raises(NotWritten, match="could not be renamed to"):
        name_folder(tmp_path / "one", tmp_path / "three")


def test_what_is_given_back_may_be_followed_at_once(two):
    a, b, _ = two
    with a.take("item"):
        assert b.take("item") is None
    with pytest.raises(ValueError, match="why"), b.take("item"):
        raise ValueError("why")
    assert module.last_record(a.folder, "item", 2)[1].why == "why"
    assert a.take("item").number == 3


def test_what_failed_is_tried_by_those_who_come_later(two, tmp_path):
    a, b, _ = two
    with a.take("item") as claim:
        claim.end(FAILED, "the loss became NaN")
    for claims in (a, b):
        assert claims.take("item") is None
        assert claims.failed("item", 1) == "the loss became NaN"
    late = Claims(tmp_path, worker("c"))
    assert late.failed("item", 1) is None
    again = late.take("item")
    assert again.number == 2
    again.end(FAILED, "again")
    assert late.take("item") is None
    assert late.failed("item", 2) == "again"


def test_a_claim_is_renewed_and_says_how_far_it_is(tmp_path):
    claims = Claims(tmp_path, worker("a"), lapse=0.24)
    with claims.take("item") as claim:
        claim.progress = lambda: {"doing": "epoch 3 of 10\n" + "ä" * 3000, "left": 7.5}
        until = time.monotonic() + 10
        while (record := module.last_record(tmp_path, "item", 1)[1]).renewed < 3 and time.monotonic() < until:
            time.sleep(0.01)
        assert record.left == 7.5
        assert (tmp_path / "item@1").stat().st_size == SIZE
    record = module.last_record(tmp_path, "item", 1)[1]
    assert (record.state, record.left) == (RELEASED, None)
    renewed = record.renewed
    time.sleep(0.05)
    assert module.last_record(tmp_path, "item", 1)[1].renewed == renewed


def test_a_claim_is_renewed_whatever_is_said(tmp_path):
    with Claims(tmp_path, worker("a"), lapse=0.24).take("item") as claim:
        claim.progress = lambda: 1 / 0
        until = time.monotonic() + 10
        while (record := module.last_record(tmp_path, "item", 1)[1]).renewed < 2 and time.monotonic() < until:
            time.sleep(0.01)
        assert record.renewed >= 2


def test_a_long_text_is_cut(tmp_path):
    assert len(Record(doing="ä" * 3000, why="\x1b\n" * 3000).packed()) == SIZE
    assert Record.of(Record(doing="epoch 3", why="w" * 500).packed()).doing == "epoch 3"
    assert Record.of(b"") == Record()
    assert Record.of(b'{"state": "of a newer version", "more": 1}') == Record()
    assert Record.of(b"[" * 100_000) == Record()


def test_a_worker_that_is_followed_is_asked_to_stop(tmp_path):
    a = Claims(tmp_path, worker("a"), lapse=0.24)
    with StopRequest() as outer, a.take("item") as claim, StopRequest() as inner:
        (tmp_path / "item@2").write_bytes(b"")
        until = time.monotonic() + 10
        while inner.number is None and time.monotonic() < until:
            time.sleep(0.01)
        assert inner.number == outer.number == LOST
        assert claim.is_lost()
        signal.raise_signal(signal.SIGTERM)  # a real one counts more
        assert inner.number == outer.number == signal.SIGTERM


def test_a_full_disk_is_one_line_and_a_claim_that_is_held_is_kept(two, monkeypatch):
    a, b, _ = two
    claim = a.take("item")

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(NotWritten, match=r"another@1 could not be written: No space left on device"):
            b.take("another")
        claim._write(Record(renewed=1))  # tried again at the next renewal
    claim.check()


def test_claims_that_are_removed_are_lost(two, tmp_path):
    a, _, _ = two
    claim = a.take("item")
    (tmp_path / "item@1").unlink()
    assert claim.is_lost()


def test_names_of_workers_are_theirs():
    names = {Worker.here().name for _ in range(100)}
    assert len(names) == 100
    assert all("/" not in name and " " not in name for name in names)


def siege(folder, *, workers, items, steps, seconds, lapse, kills, stops, seed=0):
    """Workers under kills and stops; returns the lines of their logs once all is done, and how many were killed."""
    env = {**os.environ, "PYTHONPATH": str(Path(fastait.__file__).parents[1])}
    command = [sys.executable, str(SCRIPT), *map(str, (folder, items, steps, seconds, lapse))]
    chance = random.Random(seed)

    def start():
        return subprocess.Popen(command, env=env, stderr=subprocess.PIPE)

    def wake(process):
        process.send_signal(signal.SIGCONT)
        stopped.remove(process)

    running, stopped, killed, until = [start() for _ in range(workers)], [], 0, time.monotonic() + 400
    try:
        while not all((folder / f"item-{n}" / "result").exists() for n in range(items)):
            if killed == kills:
                (folder / "enough").touch()
            assert time.monotonic() < until, "it does not come to an end"
            time.sleep(0.03)
            for i, process in enumerate(running):
                if process.poll() not in (None, 0, -signal.SIGKILL):
                    raise AssertionError(process.stderr.read().decode())
                if process.poll() == -signal.SIGKILL:
                    process.stderr.close()
                    running[i] = start()
            alive = [process for process in running if process.poll() is None and process not in stopped]
            if killed < kills and len(alive) > 1 and chance.random() < 0.5:
                chance.choice(alive).kill()
                killed += 1
            elif stops and len(alive) > 1 and chance.random() < 0.1:
                process = chance.choice(alive)
                process.send_signal(signal.SIGSTOP)
                stopped.append(process)
                stops -= 1
                threading.Timer(2.5 * lapse, wake, [process]).start()
        for process in running:
            process.send_signal(signal.SIGCONT)
            assert process.wait(30) in (0, -signal.SIGKILL), process.stderr.read().decode()
    finally:
        for process in running:
            process.kill()
            process.wait()
            process.stderr.close()
    lines = [json.loads(line) for path in sorted(folder.glob("*.log")) for line in path.read_text().splitlines()]
    return lines, killed


def settled(folder, lines, items, steps):
    """Nothing is missing, each item has one result, and steps are done again only by attempts of a higher number."""
    by_item = {f"item-{n}": [line for line in lines if line["item"] == f"item-{n}"] for n in range(items)}
    again = 0
    for item, of_it in by_item.items():
        named = [line for line in of_it if line.get("named")]
        result = (folder / item / "result").read_text()
        assert len(named) <= 1  # a worker may be killed before it says so
        assert not named or result.startswith(f"{item}@{named[0]['number']} ")
        done = Counter(line["step"] for line in of_it if "step" in line)
        assert set(done) == set(range(steps))
        claims = last_numbers(folder / "claims")[item]
        assert max(done.values()) <= claims
        again += sum(done.values()) - steps
    return again


def test_workers_under_kills_and_stops(tmp_path):
    lines, killed = siege(tmp_path, workers=4, items=6, steps=5, seconds=0.02, lapse=0.6, kills=12, stops=2)
    again = settled(tmp_path, lines, 6, 5)
    assert killed == 12
    # A kill costs the step that was not saved; a stop what is done until the late one looks, before it writes.
    assert again <= killed + 2 * 2


@pytest.mark.slow
def test_workers_under_hundreds_of_kills(tmp_path):
    lines, killed = siege(tmp_path, workers=6, items=60, steps=40, seconds=0.08, lapse=0.6, kills=300, stops=30)
    again = settled(tmp_path, lines, 60, 40)
    assert killed == 300
    assert again <= killed + 2 * 30
