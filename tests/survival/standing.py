"""What whoever is called must leave as it was: the state of a process that others live in too."""

import os
import random
import signal
import sys
import threading
from typing import Any

import numpy as np
import torch

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)


def standing() -> dict[str, Any]:
    """What a line must leave as it was."""
    return {
        "the current folder": os.getcwd(),
        "the environment": dict(os.environ),
        "signal handlers": [signal.getsignal(number) for number in SIGNALS],
        "the timer": signal.getitimer(signal.ITIMER_REAL),
        "Python's generator": hash(random.getstate()),
        "numpy's generator": hash(np.random.get_state()[1].tobytes()),
        "torch's generator": hash(torch.get_rng_state().numpy().tobytes()),
        "the default type": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "precision": (torch.backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision()),
        "determinism": torch.are_deterministic_algorithms_enabled(),
        "torch's threads": torch.get_num_threads(),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "the streams": (sys.stdout, sys.stderr),
        "open files": len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0,
    }


def changes(before: dict[str, Any]) -> list[str]:
    """What is not as it was ``before``, a line each."""
    after = standing()
    return [f"{name} changed: {_change(before[name], after[name])}" for name in after if before[name] != after[name]]


def _change(before: Any, after: Any) -> str:
    if isinstance(before, dict):
        return str({key: after.get(key) for key in before.keys() | after.keys() if before.get(key) != after.get(key)})
    return f"from {before} to {after}"
