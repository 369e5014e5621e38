"""What several workers come to, beside one: the real table, on a machine that has nothing else to do.

``python tests/reproduction/many_workers.py figures FOLDER`` has one process make table1, then four workers of which two
are killed and one is stopped for longer than a lapse, and compares weights, figures and what was done twice.
``... times FOLDER`` compares one worker of one thread with two. Prints JSON; the exit code is 0 if all is well.

``--short`` makes everything small enough for a test.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

LAPSE = 8.0
"""Of claims here, in seconds; the usual one is for disks that are far away."""

COMMAND = ["table1", "--scale", "small", "--device", "cpu"]


def main_of_a_worker(argv):
    """``fastait reproduce`` with this lapse, and short where the environment says so."""
    from fastait.reproduction import systems
    from fastait.runtime import claims

    claims.LAPSE = LAPSE
    if os.environ.get("SHORT"):
        import dataclasses

        published = systems.recipe
        systems.recipe = lambda name, **given: published(name, **{**given, "epochs": 4, "milestones": ()})
        small = dataclasses.replace(systems.SCALES["small"], images=40)
        systems.SCALES["small"] = small
        systems.SMALL_IMAGES = 8
    from fastait.reproduce import main

    return main(argv)


def start(out, *more):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "worker", *COMMAND, "--out", str(out), *more]
    log = open(f"{out}-{time.monotonic_ns()}.log", "wb")  # noqa: SIM115
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def made(out):
    """{name: bytes} of the table and of each network."""
    small = out / "small"
    files = [small / "table1.csv", *sorted(small.glob("runs/*/model.safetensors"))]
    return {str(path.relative_to(small)): path.read_bytes() for path in files}


def done_twice(out):
    """(claims beyond one for each item, batches of outcomes that were measured more than once)."""
    from fastait.runtime.claims import last_numbers

    numbers = last_numbers(out / "small/claims").values()
    seen = Counter()
    for path in (out / "small/outcomes").glob("*.jsonl"):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            seen[entry["unit"], str(entry["places"]), str(sorted(entry["found"]))] += 1
    return sum(numbers) - len(numbers), sum(count - 1 for count in seen.values())


def training(out, candidates):
    """One of these workers that has come to the end of an epoch of a run, or to one of its evaluations."""
    from fastait.runtime.claims import WORKING, last_numbers, last_record

    folder = out / "small/claims"
    for item, number in last_numbers(folder).items():
        record = last_record(folder, item, number)[1]
        for process in candidates:
            if record.state == WORKING and record.worker and record.worker["pid"] == process.pid:
                metrics = list((out / "small").glob(f"attempts/{item}@{number}.*/metrics.jsonl"))
                if "-at-" in item or any(path.stat().st_size for path in metrics):
                    return process
    return None


def until(condition, running, seconds=900):
    """What the condition gives, once it gives something."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it takes too long"
        codes = [process.poll() for process in running]
        assert all(code in (None, 0, -signal.SIGKILL) for code in codes), f"workers ended with {codes}"
        assert None in codes, "all was done before"
        time.sleep(0.05)
    return found


def figures(folder):
    """What is said of one process and of four workers in trouble."""
    one, four = folder / "one", folder / "four"
    alone = start(one)
    assert alone.wait() == 0, "the single process failed"
    running = [start(four, "--worker") for _ in range(4)]
    free = list(running)

    def next_one():
        free.remove(found := until(lambda: training(four, free), running))
        return found

    next_one().kill()
    stopped = next_one()
    stopped.send_signal(signal.SIGSTOP)
    asleep = time.monotonic()
    next_one().kill()
    until(lambda: time.monotonic() - asleep > 3 * LAPSE, running)
    stopped.send_signal(signal.SIGCONT)
    ended = [process.wait() for process in running]
    table = start(four)
    assert table.wait() == 0, "the table could not be printed"
    claims, batches = done_twice(four)
    return {
        "ended": ended,
        "the same bytes": made(one) == made(four),
        "files": len(made(one)),
        "attempts left": len(list((four / "small/attempts").glob("*"))),
        "claims beyond one each": claims,
        "batches measured again": batches,
    }


def well(said):
    """Two kills and a stop cost three claims at most, and as many batches."""
    return (
        sorted(said["ended"]) == [-9, -9, 0, 0]
        and said["the same bytes"]
        and said["files"] > 1
        and said["claims beyond one each"] <= 3
        and said["batches measured again"] <= 3
    )


def times(folder):
    """Wall times of one worker of one thread and of two."""
    found = {}
    for count in (1, 2):
        began = time.monotonic()
        for process in [start(folder / f"of-{count}", "--worker") for _ in range(count)]:
            assert process.wait() == 0, "a worker failed"
        found[count] = time.monotonic() - began
    return {"one": round(found[1], 1), "two": round(found[2], 1), "share": round(found[2] / found[1], 3)}


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        sys.exit(main_of_a_worker(sys.argv[2:]))
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=("figures", "times"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--short", action="store_true")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True)
    if asked.short:
        os.environ["SHORT"] = "1"
    said = figures(asked.folder) if asked.part == "figures" else times(asked.folder)
    print(json.dumps(said))
    sys.exit(not (well(said) if asked.part == "figures" else said["share"] <= 0.6))
