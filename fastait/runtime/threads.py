"""How many cores this process may use."""

import os


def usable_cores() -> int:
    """This process's share of the cores that it may run on, at least one; torchrun says how many share them."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, here // max(1, int(processes) if processes.isdecimal() else 1))
