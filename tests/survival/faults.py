"""Real processes, struck by faults at points that are counted, which must then go on as if nothing had been.

After each fault the same command, or ``--resume``, is run again: weights, outcomes and metrics must be those of an
undisturbed run to the bit, no file may be torn, none that is temporary may stay, and whoever could speak must have said
one line and ended with the exit code that fits.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from fault_cases import Known, cases
from fault_commands import COMMANDS, write_images
from fault_verdict import BABBLE, SUFFICED, fits, kept, last, left, one_line, torn

SHORT = (
    ("SIGKILL at a random moment", "training"),
    ("SIGTERM", "training"),
    ("SIGKILL mid-write", "data"),
    ("SIGKILL between write and rename", "data"),
    ("SIGKILL between rename and folder sync", "data"),
    ("a file-size limit", "data"),
    ("a clock that jumps", "data"),
)
"""(kind, command) of the faults of the short form."""

PRELOADED = ("fastait.train", "fastait.training.run", "fastait.data.__main__", "torch._dynamo", "rich.live")
PRELOADED_LONG = (
    *(*PRELOADED, "fastait.eval", "fastait.evaluation.session", "fastait.reproduce", "fastait.reproduction.session"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg"),
)
"""What is imported once; what is not in it is imported by each command for itself."""

LOSSES = "out/outcomes.safetensors"

LAUNCHER = Path(__file__).with_name("fault_launcher.py")
AT_A_TIME = 2


class Server:
    """A process that has imported modules and forks commands; one at a time."""

    def __init__(self, modules):
        self._process = subprocess.Popen(
            [sys.executable, str(LAUNCHER), "serve", *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def run(self, request):
        """The exit codes of its processes, minus the number for a signal."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())["codes"]

    def close(self):
        self._process.stdin.close()
        self._process.wait()


def alone(request):
    """As ``Server.run``, by a process that a shell would start."""
    done = subprocess.run(
        [sys.executable, str(LAUNCHER), "alone", json.dumps(request)],
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return [done.returncode]


def came(log, fault):
    """Whether a process came to the point of its fault, where it has one."""
    return "point" not in fault or Path(f"{log}.came").exists()


def can_mount(folder):
    """Whether a file system of a size of its own can be had here."""
    folder.mkdir(parents=True)
    if shutil.which("mount") is None:
        return False
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True, check=False
    )
    if done.returncode == 0:
        subprocess.run(["umount", str(folder)], check=True)
    return done.returncode == 0


class Harness:
    """Strikes commands in a folder of its own.

    Attributes:
        counts: {command: {point: how often}}, of undisturbed ones.
        sizes: {command: bytes of what it left}.
    """

    def __init__(self, folder, servers):
        self.folder = folder
        self.counts, self.sizes, self._made, self._names = {}, {}, {}, {}
        self._servers = SimpleQueue()
        for server in servers:
            self._servers.put(server)
        write_images(folder / "images")

    def run(self, command, folder, argv, log, fault=None, real=False):
        """(exit codes, what each process wrote to stderr)."""
        request = {"module": command.module, "argv": list(argv), "folder": str(folder), "ranks": command.ranks}
        request |= {"log": str(log), "fault": dict(fault or {})}
        if real:
            codes = alone(request)
        else:
            server = self._servers.get()
            try:
                codes = server.run(request)
            finally:
                self._servers.put(server)
        return codes, [Path(f"{log}.{rank}.err").read_text(errors="replace") for rank in range(command.ranks)]

    def undisturbed(self, command):
        """Run ``command`` for what others are compared with; a line if it fails."""
        folder, log = self.folder / "undisturbed" / command.name, self.folder / f"{command.name}.log"
        folder.mkdir(parents=True)
        (folder.parent / "images").exists() or os.symlink(self.folder / "images", folder.parent / "images")
        (folder.parent / "trained").exists() or os.symlink(
            self.folder / "undisturbed/training", folder.parent / "trained"
        )
        codes, said = self.run(command, folder, command.argv, log)
        if set(codes) != {0}:
            return f"{command.name}, undisturbed: exit codes {codes}: {last(said)}"
        self.counts[command.name] = json.loads(Path(f"{log}.0.points").read_text())
        self.sizes[command.name] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        self._made[command.name], self._names[command.name] = command.made(folder), command.names(folder)
        return None

    def strike(self, case, number):
        """(the kind of a fault as it is counted, what is wrong after it, a line each)."""
        home = self.folder / f"{number}"
        folder = home / "here"
        folder.mkdir(parents=True)
        os.symlink(self.folder / "images", home / "images")
        os.symlink(self.folder / "undisturbed/training", home / "trained")
        if case.disk is not None:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={case.disk}", "none", str(folder)], check=True)
        try:
            wrong = list(self._struck(case, folder, home))
        except Exception as error:  # of this harness, which goes on
            wrong = [f"{type(error).__name__}: {error}"]
        finally:
            if case.disk is not None:
                subprocess.run(["umount", "-l", str(folder)], check=True)
        if set(wrong) <= {SUFFICED}:
            shutil.rmtree(home)
        kind = f"{case.kind}, which sufficed" if SUFFICED in wrong else case.kind
        return kind, [f"{case.name}: {line} [{home}]" for line in wrong if line != SUFFICED]

    def _struck(self, case, folder, home):
        command = case.command
        codes, said = self.run(command, folder, command.argv, home / "struck", case.fault, case.alone)
        if not came(home / "struck", case.fault):
            yield "the point of the fault was never reached"
        yield from fits(case, codes, said)
        yield from torn(folder)
        yield from kept(case, folder, codes, said)
        if all(code in (0, 1, 2) for code in codes):
            yield from left(folder)
        if case.read_only:
            _remount(folder, "ro")
            codes, said = self.run(command, folder, command.going_on(folder), home / "read-only")
            if not (
                set(codes) & {1, 2} or (set(codes) == {0} and case.command.made(folder) == self._made[command.name])
            ):
                yield f"exit codes {codes} where nothing can be written: {last(said)}"
            yield from one_line(said, set(codes) != {0})
        if case.disk is not None:
            _remount(folder, "rw,size=256m")
        codes, said = self.run(command, folder, command.going_on(folder), home / "going-on")
        if set(codes) != {0}:
            yield f"going on, exit codes {codes}: {last(said)}"
            return
        yield from (f"going on, {word} was said" for word in BABBLE if word in "".join(said))
        yield from torn(folder)
        made, whole = command.made(folder), dict(self._made[command.name])
        if case.fault.get("kind") == "memory":  # batches were smaller, and losses are summed over batches
            made.pop(LOSSES, None), whole.pop(LOSSES, None)
        yield from (f"{name} is missing" for name in sorted(whole.keys() - made.keys()))
        yield from (f"{name} differs" for name in sorted(whole.keys() & made.keys()) if whole[name] != made[name])
        yield from left(folder)
        others = command.names(folder) ^ self._names[command.name]
        yield from (f"{name} is there or not, unlike undisturbed" for name in sorted(others))


def _remount(folder, options):
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def main(short, folder, only=None):
    """Strike all there is, or those that ``only``, a function of a ``Case``, selects.

    Returns:
        {"counts": {kind: faults that were survived}, "failures": lines, "notes": {what: said}}.
    """
    folder = folder.resolve()
    began = time.monotonic()
    failures, notes, survived = [], {}, Counter()
    mounts = can_mount(folder / "mounted")
    if not mounts:
        notes["left out"] = "a full disk and a read-only folder: no file system can be mounted here"
    commands = [c for c in COMMANDS if _possible(c, notes) and (not short or c.name in ("training", "data"))]
    servers = [Server(PRELOADED)] if short else [Server(PRELOADED_LONG) for _ in range(AT_A_TIME)]
    try:
        harness = Harness(folder, servers)
        with ThreadPoolExecutor(len(servers)) as pool:
            failures += filter(None, map(harness.undisturbed, commands[:1]))
            failures += filter(None, pool.map(harness.undisturbed, commands[1:]))
            known = Known(harness.counts, harness.sizes)
            chosen = few(known) if short and not failures else filter(only, cases(known))
            chosen = [case for case in chosen if mounts or case.disk is None]
            found = pool.map(harness.strike, chosen, range(len(chosen)))
            for number, (kind, wrong) in enumerate(found):
                failures += wrong
                survived[kind] += not wrong
                if not short and number % 20 == 19:
                    print(f"{number + 1} of {len(chosen)} faults, {len(failures)} failures", flush=True)
    finally:
        for server in servers:
            server.close()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    notes |= {"seconds": round(time.monotonic() - began), "CPU seconds": round(usage.ru_utime + usage.ru_stime)}
    return {"counts": dict(sorted(survived.items())), "failures": failures, "notes": notes}


def _possible(command, notes):
    if "--dali" in command.argv:
        try:
            import nvidia.dali  # noqa: F401
        except ImportError as error:
            notes["left out: DALI"] = str(error)
            return False
    return True


def few(known):
    """The faults of the short form: of each (kind, command) of ``SHORT`` the first."""
    first = {(case.kind, case.command.name): case for case in reversed(list(cases(known)))}
    return [first[key] for key in SHORT]


if __name__ == "__main__":
    out = Path(sys.argv[1])
    words = sys.argv[2:]
    told = main(False, out, (lambda case: any(word in case.name for word in words)) if words else None)
    print(json.dumps(told, indent=1))
