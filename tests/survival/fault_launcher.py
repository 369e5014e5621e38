"""Starts commands that are to be struck by a fault: a process that has imported everything once and forks, by request.

``python fault_launcher.py serve MODULE...`` imports the modules, reads a request a line, as JSON, and answers each by
the exit codes of its processes. ``python fault_launcher.py alone REQUEST`` is one such process that imports everything
itself, as ``python -m`` does.
"""

import gc
import importlib
import json
import os
import random
import resource
import runpy
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

from fault_points import Points

from fastait.runtime.signals import ENDS, WARNINGS

SECONDS = 120
"""After which a process is taken to hang."""

HANGS = "hangs"


def shorten():
    """Make whatever is only long short, for this process and those it forks."""
    import dataclasses

    from fastait.attacks.columns import PARTS
    from fastait.reproduction import systems
    from fastait.runtime import claims
    from fastait.training import loop
    from fastait.training.cost import Cost

    for part in PARTS:
        PARTS[part] = 8 if part == "square" else 2
    cost = {field.name: 1 for field in dataclasses.fields(Cost)}
    loop.step_cost = lambda *args, **options: Cost(**cost)
    loop.SAVING = 1e9  # a checkpoint after every step where no seconds are asked for
    claims.LAPSE = 1.0
    published = systems.recipe
    systems.recipe = lambda name, **given: published(name, **{**given, "epochs": 1, "milestones": ()})
    systems.SCALES["small"] = dataclasses.replace(systems.SCALES["small"], images=20)
    systems.SMALL_IMAGES = 8


def children():
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def strike_of(fault):
    """What a fault does to the process that it strikes."""
    kind = fault.get("kind")
    if kind == "signal":
        return lambda: os.kill(os.getpid(), fault["signal"])
    if kind == "worker":
        return lambda: os.kill(random.Random(fault["number"]).choice(children()), signal.SIGKILL)
    if kind == "gone":
        return lambda: shutil.rmtree(fault["path"])
    if kind == "memory":

        def limit():
            held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (held + fault["bytes"], resource.RLIM_INFINITY))

        return limit
    if kind == "clock":
        return lambda: disturb_clock(fault["number"])
    return None


def disturb_clock(seed):
    """Let the time of day jump back and forth by up to a year; that which is monotonic goes on."""
    jumps, now = random.Random(seed), time.time
    time.time = lambda: now() + jumps.uniform(-3e7, 3e7)
    time.time_ns = lambda: int(time.time() * 1e9)


def heed_signals():
    """As a process does that a person starts: a shell has what it runs in the background ignore some."""
    for number in (*ENDS, *WARNINGS):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def prepare(request, rank):
    """Make this process the one of a request."""
    heed_signals()
    os.chdir(request["folder"])
    for number, name in ((1, "out"), (2, "err")):
        handle = os.open(f"{request['log']}.{rank}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
        os.close(handle)
    fault = request.get("fault") or {}
    if fault.get("kind") == "file size":
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault["bytes"], fault["bytes"]))
    struck, act = rank == fault.get("rank", 0), strike_of(fault)

    def strike():
        Path(f"{request['log']}.came").touch()
        act()

    points = Points(".", fault.get("point") if struck else None, fault.get("number", 0), strike)
    points.watch()
    return points


def forked(request, rank, port):
    """A child that runs the command of a request; returns its process id, in the parent."""
    pid = os.fork()
    if pid:
        return pid
    os.setpgid(0, 0)
    sys.stdin.close()
    if request.get("ranks", 1) > 1:
        where = {"WORLD_SIZE": request["ranks"], "RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in where.items()}, MASTER_ADDR="127.0.0.1")
    points = prepare(request, rank)
    points.watch_passes()
    code = importlib.import_module(request["module"]).main(request["argv"])
    Path(f"{request['log']}.{rank}.points").write_text(json.dumps(points.counts))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # without taking apart what was imported, which takes longer than most commands here


def waited(pids):
    """Their exit codes, in order; minus the signal's number for those that one ended, ``HANGS`` for what did not."""
    codes, deadline = {}, time.monotonic() + SECONDS
    while len(codes) < len(pids):
        for pid in pids:
            if pid not in codes:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    codes[pid] = os.waitstatus_to_exitcode(status)
                elif time.monotonic() > deadline:
                    os.killpg(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    codes[pid] = HANGS
        time.sleep(0.005)
    return [codes[pid] for pid in pids]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def serve(modules):
    """Until stdin ends. No thread is started before a child is forked, nor anything computed."""
    for name in modules:
        importlib.import_module(name)
    shorten()
    gc.freeze()
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        port = free_port()
        codes = waited([forked(request, rank, port) for rank in range(request.get("ranks", 1))])
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        answers.write(json.dumps({"codes": codes, "seconds": usage.ru_utime + usage.ru_stime}) + "\n")
        answers.flush()


def alone(request):
    """Become ``python -m MODULE ARGV``, struck as the request says, at anything but a pass of a network."""
    os.setpgid(0, 0)
    prepare(request, 0)
    sys.argv[1:] = request["argv"]
    sys.path[0] = ""
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2:])
    else:
        alone(json.loads(sys.argv[2]))
