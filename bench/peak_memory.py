"""The peak memory of one way to train, in a process of its own: prints one number of bytes.

``python peak_memory.py reference|fastait|compiled DEPTH WIDEN_FACTOR BATCH``
"""

import sys
from pathlib import Path

import torch
from ways import make

from fastait.models import WideResNet

STEPS = 5


def resident():
    """The most memory that this process has had resident, in bytes; getrusage counts that of its parent's too."""
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def main(way, depth, widen_factor, batch):
    """Peak resident set (GPU: allocated memory) of STEPS steps, less that before the model is made."""
    torch.manual_seed(0)
    on_gpu = torch.cuda.is_available()
    before = resident()
    step = make(way, WideResNet(int(depth), int(widen_factor), 10), int(batch))
    for _ in range(STEPS):
        step()
    return torch.cuda.max_memory_allocated() if on_gpu else resident() - before


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
