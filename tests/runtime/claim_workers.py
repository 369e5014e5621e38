"""Workers that claim stubs of work: steps that are counted and saved, in attempts that are given their name at the end.

``python claim_workers.py FOLDER ITEMS STEPS SECONDS LAPSE`` is one of them.
"""

import json
import os
import sys
import time
from pathlib import Path

from fastait.runtime.claims import DONE, Claims, Lost, Worker, last_numbers
from fastait.runtime.files import checked, name_folder, write_whole


def attempts(folder, item):
    found = [p for p in (folder / "attempts").glob(f"{item}@*") if (p / "step").exists()]
    return sorted(found, key=lambda p: int(p.name.rpartition("@")[2].partition(".")[0]))


def work(folder, items, steps, seconds, lapse):
    """Until all items have their result."""
    claims = Claims(folder / "claims", Worker.here(), lapse=lapse)
    log = open(folder / f"{claims.worker.name}.log", "a")  # noqa: SIM115
    while True:
        left = [item for item in items if not (folder / item / "result").exists()]
        if not left:
            return
        for item in left:
            claim = claims.take(item)
            if claim is None:
                continue
            try:
                with claim, checked(claim.check):
                    if not (folder / item / "result").exists():
                        one(folder, item, claim, claims.worker.name, steps, seconds, log, items[-1])
                    claim.end(DONE)
            except Lost:
                print(json.dumps({"item": item, "number": claim.number, "lost": True}), file=log, flush=True)
            break
        else:
            time.sleep(0.02)


def one(folder, item, claim, name, steps, seconds, log, last):
    before = attempts(folder, item)
    begun = int((before[-1] / "step").read_bytes()) if before else 0
    own = folder / "attempts" / f"{item}@{claim.number}.{name}"
    own.mkdir(parents=True)
    for step in range(begun, steps):
        time.sleep(seconds)
        print(json.dumps({"item": item, "number": claim.number, "step": step}), file=log, flush=True)
        write_whole(own / "step", b"%d" % (step + 1))
    while item == last and not (folder / "enough").exists():  # of what is done to the workers
        time.sleep(0.02)
        claim.check()
    write_whole(own / "result", f"{item}@{claim.number} by {name}".encode())
    claim.check()
    named = name_folder(own, folder / item)
    print(json.dumps({"item": item, "number": claim.number, "named": named}), file=log, flush=True)


if __name__ == "__main__":
    _, path, count, steps, seconds, lapse = sys.argv
    work(Path(path), [f"item-{n}" for n in range(int(count))], int(steps), float(seconds), float(lapse))
    assert last_numbers(Path(path) / "claims")
    os._exit(0)
