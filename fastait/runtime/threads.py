"""How many cores this process may use, what each has, and as many threads.

torch starts a thread for each core that the system shows, also where a container's quota or further processes leave
few of them; threads that wait for each other then stand in each other's way. Two jobs of two threads each on two cores
have been seen to slow each other down fifteenfold.
"""

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastait.runtime.console import say

SAID_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables by which a user says how many threads there are to be; torchrun sets the first one to 1."""

CORE_CACHE = 1 << 20
"""Bytes of second-level cache that a core is taken to have."""

WHOLE = 0.1
"""A quota is rounded up, but for less than this share of a core."""


@dataclass(frozen=True)
class Cores:
    """What the system leaves a process.

    Attributes:
        host: cores of the machine.
        affinity: those that this process may run on.
        quota: how many cores' time its control groups allow; None without such a limit.
        processes: processes of this launch on this machine, which share the cores.
    """

    host: int
    affinity: int
    quota: float | None
    processes: int

    @property
    def usable(self) -> int:
        """This process's share in whole cores, at least one."""
        allowed = self.affinity if self.quota is None else min(self.affinity, math.ceil(self.quota - WHOLE))
        return max(1, allowed // self.processes)


def cores(root: Path = Path("/")) -> Cores:
    """What this process has now, by the system's files below ``root``."""
    host = os.cpu_count() or 1
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else host
    launched = os.environ.get("LOCAL_WORLD_SIZE", "")
    processes = max(1, int(launched)) if launched.isdecimal() else 1
    return Cores(host, affinity, min(_quotas(root), default=None), processes)


def usable_cores() -> int:
    """How many threads that compute this process should have, at least one."""
    return cores().usable


def core_cache(root: Path = Path("/")) -> int:
    """Bytes of the second-level cache of a core that this process may run on; ``CORE_CACHE`` where nothing says."""
    runs_on = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    for cache in sorted((root / f"sys/devices/system/cpu/cpu{runs_on}/cache").glob("index*")):
        size = _text(cache / "size").strip()
        if _text(cache / "level").strip() == "2" and re.fullmatch(r"[1-9]\d*K", size):
            return 1024 * int(size[:-1])
    return CORE_CACHE


def set_threads() -> None:
    """Let torch have no more threads than there are cores to use, unless the user has said how many.

    It is never given more: its own number counts cores, not hyperthreads. For the start of a command, since it
    concerns the whole process.
    """
    if any(os.environ.get(name) for name in SAID_BY):
        return
    import torch

    found, before = cores(), torch.get_num_threads()
    if found.usable >= before:
        return
    torch.set_num_threads(found.usable)
    if os.environ.get("LOCAL_RANK", "0") == "0":
        say(f"{found.usable} thread{'s' * (found.usable > 1)} instead of {before}: {_why(found)}", error=True)


def _why(found: Cores) -> str:
    quota = "" if found.quota is None else f", a quota of {found.quota:g}"
    shared = f", shared by {found.processes} processes" if found.processes > 1 else ""
    return f"{found.affinity} of {found.host} cores{quota}{shared} (OMP_NUM_THREADS says another number)"


def _quotas(root: Path) -> Iterator[float]:
    """The cores' time that each control group above this process allows it, where one says so."""
    for version, folder, top in _groups(root):
        while True:
            quota = _quota(folder, version)
            if quota is not None:
                yield quota
            if folder == top:
                break
            folder = folder.parent


def _groups(root: Path) -> Iterator[tuple[int, Path, Path]]:
    """(version, this process's folder, the mounted folder that it lies in) of the control groups of CPU time."""
    own = {}
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            own[2] = path
        elif "cpu" in controllers.split(","):
            own[1] = path
    for line in _text(root / "proc/self/mountinfo").splitlines():
        mount, _, rest = line.partition(" - ")
        kind, _, options = rest.partition(" ")
        version = 2 if kind == "cgroup2" else 1 if kind == "cgroup" and "cpu" in re.split("[ ,]", options) else 0
        if version not in own:
            continue
        mounted, place = (_unescaped(field) for field in mount.split(" ")[3:5])
        top = root / place.lstrip("/")
        # A container sees the paths of the machine, but only its own part of the tree is mounted in it.
        below = Path(own[version])
        inside = below.relative_to(mounted) if below.is_relative_to(mounted) else Path()
        yield version, top if ".." in inside.parts else top / inside, top


def _quota(folder: Path, version: int) -> float | None:
    if version == 2:
        quota, _, period = _text(folder / "cpu.max").strip().partition(" ")
    else:
        quota, period = (_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    whole = quota.isdecimal() and period.isdecimal() and int(quota) > 0 and int(period) > 0
    return int(quota) / int(period) if whole else None


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8", "replace")
    except OSError:
        return ""


def _unescaped(field: str) -> str:
    """mountinfo writes spaces and other white space as octal numbers."""
    return re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), field)
