"""Points of a process that a fault may strike at: each of its writes below a folder, and each pass of a network.

They are counted in the process itself, so a fault at the n-th point of a kind strikes the same work again and again,
however fast the machine is.
"""

import builtins
import io
import os
import sys
from collections import Counter
from pathlib import Path

ANY = "any moment"

OPENED, TORN, WRITTEN, NAMING, NAMED, LINKED, REMOVED, PASS, STEP, IMPORT = (
    "before a file is opened to be written",
    "mid-write",
    "between write and sync",
    "between write and rename",
    "between rename and folder sync",
    "before a second name",
    "before a removal",
    "pass of a network",
    "pass of a network that is trained",
    "an import",
)
WRITING = (OPENED, TORN, WRITTEN, NAMING, NAMED, LINKED, REMOVED)

_NAMED_BY = {"os.rename": NAMING, "os.link": LINKED, "os.remove": REMOVED}


class Points:
    """Counts the points of this process, and calls ``strike`` at one of them.

    Args:
        folder: whose files count.
        point: the kind to strike at, or ``ANY``; None to count only.
        number: which of its kind, from 1.
        strike: what is done there.
    """

    def __init__(self, folder, point=None, number=0, strike=None):
        self.folder = os.path.realpath(folder) + os.sep
        self.point, self.number, self.strike = point, number, strike
        self.counts = Counter()
        self._process = os.getpid()  # loaders' workers inherit all this, and count nothing

    def watch(self):
        """From now on."""
        sys.addaudithook(self._heard)
        self._open, self._fsync = builtins.open, os.fsync
        builtins.open, os.fsync = self._opened, self._synced

    def stop(self):
        """Count no more."""
        builtins.open, os.fsync = self._open, self._fsync
        self._process = None

    def watch_passes(self):
        """Apart from ``watch``, since it imports torch."""
        from torch.nn.modules.module import register_module_forward_pre_hook

        register_module_forward_pre_hook(lambda module, args: self.reach(STEP if module.training else PASS))

    def reach(self, point):
        """A point is reached."""
        if os.getpid() != self._process:
            return
        for kind in (point, ANY) if point != IMPORT else (point,):
            self.counts[kind] += 1
            if kind == self.point and self.counts[kind] == self.number:
                self.point = None
                self.strike()

    def _ours(self, path):
        try:
            return (os.path.abspath(os.fsdecode(path)) + os.sep).startswith(self.folder)
        except TypeError:  # a descriptor
            return False

    def _heard(self, event, args):
        if event == "import":
            self.reach(IMPORT)
        elif event in _NAMED_BY and self._ours(args[0]):
            self.reach(_NAMED_BY[event])

    def _opened(self, file, mode="r", buffering=-1, *args, **options):
        if not set(mode) & set("wax+") or not self._ours(file):
            return self._open(file, mode, buffering, *args, **options)
        self.reach(OPENED)
        if "b" not in mode or buffering == 0:
            return self._open(file, mode, buffering, *args, **options)
        kind = Updated if "+" in mode else Written
        return kind(io.FileIO(file, mode.replace("b", "")), self)

    def _synced(self, handle):
        path = Path(f"/proc/self/fd/{handle}").resolve()
        if self._ours(path):
            self.reach(NAMED if path.is_dir() else WRITTEN)
        self._fsync(handle)


class _Torn:
    """A file as ``open`` gives it, whose writes are cut in half by a point."""

    def __init__(self, raw, points):
        super().__init__(raw)
        self._points = points

    def write(self, data):
        half = len(data) // 2
        written = super().write(data[:half])
        self.flush()
        self._points.reach(TORN)
        return written + super().write(data[half:])


class Written(_Torn, io.BufferedWriter):
    """Of a file that is only written."""


class Updated(_Torn, io.BufferedRandom):
    """Of one that is read as well."""
