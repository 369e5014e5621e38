"""What one of several processes does for test_two_processes.py: evaluate in fp64, perhaps until it kills itself."""

import os
import signal
import sys
from pathlib import Path

import pytest
import small
import test_autoattack
import torch

from fastait.evaluation import evaluate
from fastait.evaluation.journal import FileJournal
from fastait.runtime.processes import join

NAMES = ["autoattack", "pgd3-min4", "cw2+square"]


def main(folder, victim, passes):
    """Save outcomes as ``RANK.pt``; the process ``victim`` dies at its pass of that number."""
    patch = pytest.MonkeyPatch()
    small.short_autoattack(patch, queries=test_autoattack.QUERIES, iterations=2)
    model, images = test_autoattack.problem()
    with join("cpu") as (ranks, _):

        def tick(part, standing):
            nonlocal passes
            passes -= 1
            if ranks.rank == victim and passes == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        ranks.from_first(lambda: FileJournal(folder).close())
        journal = FileJournal(folder, ranks.rank)
        options = {"epsilon": test_autoattack.EPSILON, "seed": 3, "batch_size": 8}
        found = evaluate(model, images, NAMES, journal=journal.of(model="m"), tick=tick, ranks=ranks, **options)
        kinds = ("correct", "classes", "decided", "losses", "stages", "warnings")
        torch.save({kind: getattr(found, kind) for kind in kinds}, folder / f"{ranks.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
