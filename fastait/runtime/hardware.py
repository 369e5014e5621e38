"""What a run ran on: figures are worth nothing without it."""

import os
import platform
from pathlib import Path

import torch

from fastait.runtime.version import __version__


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


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
