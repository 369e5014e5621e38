"""What a run ran on: figures are worth nothing without it."""

import os
import platform
from pathlib import Path

import torch

from fastait.runtime.version import __version__

CPUINFO = Path("/proc/cpuinfo")


def environment(device: torch.device) -> dict[str, str | int | None]:
    """Versions, hardware and thread count, as recorded in checkpoints and results."""
    return {
        "fastait": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # a subclass of str, which weights_only loading refuses
        "cuda": torch.version.cuda,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }


def differences(then: dict[str, str | int | None], now: dict[str, str | int | None]) -> list[str]:
    """What changed between two environments, a phrase each."""
    return [f"{key} {now[key]} (was {then.get(key)})" for key in now if now[key] != then.get(key)]


def cpu_features() -> set[str]:
    """What the CPU can do, in Linux' words, which are torch's too: ``avx512_bf16``, ``amx_bf16``, ARM's ``bf16``.

    Empty where there is no ``/proc/cpuinfo``.
    """
    return set(" ".join(_cpu_lines("flags") or _cpu_lines("Features")).split())


def _cpu_name() -> str:
    names = _cpu_lines("model name")
    return names[0] if names else platform.processor() or platform.machine()


def _cpu_lines(key: str) -> list[str]:
    """What each core says of ``key``."""
    try:
        lines = CPUINFO.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    said = (line.partition(":") for line in lines)
    return [value.strip() for name, _, value in said if name.strip() == key]
