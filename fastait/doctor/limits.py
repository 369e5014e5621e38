"""What the system and the user's settings leave a run: cores and threads, shared memory, open files, a compiler."""

import math
import os
import resource
import shutil

from fastait.doctor.findings import Finding, Setup, ok, ready, skipped, wrong
from fastait.doctor.machine import shared_memory_bytes
from fastait.runtime.threads import SAID_BY, cores

BATCH = 128
"""Images of a batch, of the paper."""

IN_FLIGHT = 5
"""Batches that a loader of two processes holds: two prefetched by each, and the one that is trained on."""

SMALLEST = 32
"""Height of the images that a DataLoader must at least be able to hand over."""

OPEN_FILES = 256
"""torch's libraries, a loader's processes and the images together come near a hundred."""

SLEEPERS = {"OMP_WAIT_POLICY": ("passive",), "GOMP_SPINCOUNT": ("0",)}
"""Settings by which threads that wait fall asleep. Two jobs of two threads on two cores ran at a seventh of their speed
with either of them."""


def threads(setup: Setup) -> Finding:
    """No more threads than cores, as the commands start them."""
    import torch

    alone = torch.get_num_threads()
    ready(setup)
    found, have = cores(), torch.get_num_threads()
    said = [f"{name}={os.environ[name]}" for name in SAID_BY if os.environ.get(name)]
    seen = f"{found.affinity} of {found.host} cores" + ("" if found.quota is None else f", quota {found.quota:g}")
    if have > found.usable:
        return wrong(
            f"{have} threads ({', '.join(said) or 'torch'}) for {seen}: they wait for each other",
            f"{'unset ' + ' '.join(SAID_BY) + ', or ' if said else ''}set OMP_NUM_THREADS={found.usable}",
        )
    asleep = [f"{name}={os.environ[name]}" for name in SLEEPERS if os.environ.get(name, "").lower() in SLEEPERS[name]]
    if asleep:
        return wrong(
            f"{', '.join(asleep)}: threads that wait fall asleep, and jobs beside each other crawl",
            f"unset {' '.join(name.partition('=')[0] for name in asleep)}",
        )
    message = f"{have} thread{'s' * (have > 1)} for {seen}"
    if alone > have:
        message += f"; Python programs of your own start {alone}: set OMP_NUM_THREADS={have} for them"
    elif said and have < found.usable and not setup.on_gpu:
        message += f", since {' and '.join(said)}"
    return ok(message, threads=have)


def shared_memory(setup: Setup) -> Finding:
    """Room for the batches of ``--workers``."""
    free = shared_memory_bytes()
    if free is None:
        return skipped("there is no /dev/shm")
    largest = math.isqrt(free // (IN_FLIGHT * BATCH * 3))
    seen = f"{free / 2**20:,.0f} MB free in /dev/shm"
    if largest < SMALLEST:
        return wrong(
            f"{seen}, too little for --workers 2 with batches of {BATCH}",
            "in a container start it with --shm-size 8g (or --ipc=host); leave --workers out, or use --workers 0",
        )
    return ok(f"{seen}: --workers 2 with batches of {BATCH} can have images of {largest} px")


def open_files(setup: Setup) -> Finding:
    """Descriptors for the files of loaders and libraries."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES:
        return wrong(
            f"at most {soft} files open at once",
            f"ulimit -n {4096 if hard < 0 else min(hard, 4096)}, before the command",
        )
    return ok("as many as one likes" if soft == resource.RLIM_INFINITY else f"{soft} at once")


def compiler(setup: Setup) -> Finding:
    """What torch.compile needs on a CPU, and Triton on a GPU for a kernel's launcher."""
    of_c, of_cpp = c_compiler(), cpp_compiler()
    if setup.on_gpu and of_c is None:
        return wrong("no C compiler (gcc, clang): Triton cannot launch kernels", "install gcc, or set CC")
    if of_cpp is None:
        return wrong("no C++ compiler (g++): --compile cannot work", "install g++, or set CXX; or leave --compile out")
    return ok(f"{of_cpp}{f', {of_c}' if of_c else ''}")


def c_compiler() -> str | None:
    """The one that Triton takes."""
    named = os.environ.get("CC")
    return shutil.which(named.split()[0]) if named else shutil.which("gcc") or shutil.which("clang")


def cpp_compiler() -> str | None:
    """The one that torch.compile takes."""
    return shutil.which((os.environ.get("CXX") or "g++").split()[0])
