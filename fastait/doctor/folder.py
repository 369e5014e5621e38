"""Where runs are written: whether it can be, how fast, and how much fits."""

import os
import shutil
import tempfile
import time
from pathlib import Path

from fastait.doctor.findings import Finding, Setup, ok, wrong
from fastait.runtime.errors import RunError
from fastait.runtime.files import write_whole

WEIGHTS = 146_000_000
"""Bytes of WRN-28-10's 36.5 million weights."""

CHECKPOINT = 5 * WEIGHTS
"""Weights, momentum, averaged ones, the best, and those of the epoch before; a run without the last three has 2."""

WRITTEN = 1 << 26
"""Bytes that are written."""

RUN = 3 * CHECKPOINT + 4 * WEIGHTS
"""A run holds two checkpoints and the one that is being written, and weights in files of their own."""

SLOW = 30.0
"""Seconds for a checkpoint: the next one comes 50 minutes later."""


def folder(setup: Setup) -> Finding:
    """Write, force to the disk and remove a file in the folder, or in the one that it would be made in."""
    place = existing(Path(setup.out))
    if not place.is_dir():
        return wrong(f"{place} is a file, not a folder", "choose another place by --out")
    free = shutil.disk_usage(place).free
    if free < RUN:
        return wrong(
            f"{free / 1e9:.1f} GB free in {place}; a run of WRN-28-10 can write {RUN / 1e9:.1f} GB",
            "make room, or choose another place by --out",
        )
    data = os.urandom(WRITTEN)  # that no file system makes smaller
    try:
        with tempfile.TemporaryDirectory(prefix=".fastait-doctor-", dir=place) as own:
            began = time.perf_counter()
            write_whole(Path(own, "checkpoint"), data)
            seconds = time.perf_counter() - began
    except (OSError, RunError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        return wrong(
            f"nothing can be written in {place}: {why}", "choose another place by --out, or mend its permissions"
        )
    each = seconds * CHECKPOINT / WRITTEN
    seen = f"{WRITTEN / seconds / 1e6:,.0f} MB/s in {place}, {free / 1e9:,.0f} GB free"
    if each > SLOW:
        return wrong(
            f"{seen}: a checkpoint of WRN-28-10 can take {each:.0f} s, so they will be far apart",
            "choose a local disk by --out",
        )
    return ok(f"{seen}: a checkpoint of WRN-28-10 takes {each:.1f} s at most")


def existing(path: Path) -> Path:
    """``path``, or the nearest folder above it that exists."""
    path = path.expanduser().absolute()
    return next((p for p in (path, *path.parents) if p.exists()), Path("/"))
