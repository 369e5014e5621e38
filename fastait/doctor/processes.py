"""Two processes that meet as those of a run do, and add up what they have: NCCL between GPUs, gloo between CPUs."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import IO

from fastait.doctor.findings import Finding, Setup, ok, wrong

SECONDS = 60
"""How long they may take, Python's start included."""

DEVICE = "FASTAIT_DOCTOR_DEVICE"
"""The variable that tells them where to compute."""

PEER = "from fastait.doctor.processes import peer; peer()"
"""What each of them runs."""

REMEDY = (
    "processes of one machine must reach each other by loopback: look at firewalls, /etc/hosts and "
    "GLOO_SOCKET_IFNAME=lo, NCCL_SOCKET_IFNAME; NCCL_DEBUG=INFO says more, NCCL_P2P_DISABLE=1 avoids a broken link"
)


def processes(setup: Setup) -> Finding:
    """All-reduce between two."""
    on_gpus = setup.on_gpu and _gpus() >= 2
    port = free_port()
    with tempfile.TemporaryFile() as log:
        peers = [_start(rank, port, "cuda" if on_gpus else "cpu", log) for rank in range(2)]
        try:
            codes = _wait(peers)
        finally:
            for peer in peers:
                peer.kill()
                peer.wait()
        log.seek(0)
        said = log.read().decode("utf-8", "replace").splitlines()
    print("\n".join(said[-20:]))  # for the report
    if None in codes:
        late = " and ".join(str(rank) for rank, code in enumerate(codes) if code is None)
        return wrong(f"of two processes, number {late} did not end within {SECONDS} seconds", REMEDY)
    if any(codes):
        words = next((line.strip() for line in reversed(said) if "Error" in line), said[-1].strip() if said else "")
        return wrong(f"two processes could not add up a tensor: {words[:300]}", REMEDY)
    if on_gpus:
        return ok("two processes on two GPUs add up a tensor by NCCL, and agree by gloo")
    return ok("two processes add up a tensor by gloo" + ("; NCCL needs a second GPU" if setup.on_gpu else ""))


def _start(rank: int, port: int, device: str, log: IO[bytes]) -> subprocess.Popen:
    environment = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": 2,
        "LOCAL_WORLD_SIZE": 2,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        DEVICE: device,
    }
    return subprocess.Popen(
        [sys.executable, "-P", "-c", PEER],
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )


def peer() -> None:
    """One of the two."""
    import torch

    from fastait.runtime.precision import resolve_device
    from fastait.runtime.processes import join

    with join(os.environ[DEVICE]) as (ranks, name):
        tensor = torch.full((1000,), 1.0 + ranks.rank, device=resolve_device(name))
        ranks.average([tensor], 1.0)
        total = tensor.sum().item()
        if total != 3000 or ranks.largest(ranks.rank) != [1]:
            raise RuntimeError(f"Error: 1 and 2 were added up to {total / 1000:g}")


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _wait(peers: Sequence[subprocess.Popen]) -> list[int | None]:
    """Each one's exit code, None where it did not end in time; one that fails ends the waiting."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        codes = [peer.poll() for peer in peers]
        if None not in codes:
            return codes
        if any(codes):
            time.sleep(1)  # the other one may say more
            return [0 if peer.poll() is None else peer.poll() for peer in peers]
        time.sleep(0.05)
    return [peer.poll() for peer in peers]


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
