"""A training run of one process that is made to do what several do, and how it ends.

``python one_process_group.py FOLDER CASE SECONDS`` prints a line of JSON; after SECONDS it prints where every thread
is, and ends. The process believes itself the first of two, but its process group, NCCL's on a GPU, holds it alone: so
each collective of a step and of its graph is one of NCCL's. One that has a single process is a copy, and NCCL holds
nothing of a graph for it: what may wait for ever for a captured collective is seen with two GPUs only, under torchrun.
"""

import faulthandler
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from rehearsal import DEVICE, REHEARSED

from fastait import recipe, run_training
from fastait.runtime import processes
from fastait.training.step import TrainStep

STEP = 30
"""At which something happens: in the second epoch, with a graph alive."""


def alone(patch):
    """Be one process that thinks it is two; under torchrun, one of those that there are."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return
    for name, value in {
        "WORLD_SIZE": "2",
        "RANK": "0",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "x",
        "MASTER_PORT": "1",
    }.items():
        patch.setenv(name, value)
    begin = dist.init_process_group
    patch.setattr(processes, "_store_of_this_start", lambda rank, size: dist.HashStore())
    patch.setattr(
        dist, "init_process_group", lambda *backend, **options: begin(*backend, **{**options, "world_size": 1})
    )


def happens(case, step, images):
    """What ``case`` says, in the middle of a run."""
    if case == "raises":
        raise ZeroDivisionError("of the test's making")
    if case == "signal":
        signal.raise_signal(signal.SIGTERM)
    if case == "nan":
        with torch.no_grad():
            next(step.model.parameters()).fill_(torch.nan)


def watched(patch, case, seen):
    """Count what each step did, and let it happen."""
    call = TrainStep.__call__

    def counted(self, images, *rest, **more):
        call(self, images, *rest, **more)
        seen["steps"] += 1
        seen["replays"] += bool(self.graphs)
        if seen["steps"] == STEP:
            seen["happened"] = time.monotonic()
            happens(case, self, images)

    patch.setattr(TrainStep, "__call__", counted)
    if case == "no capture":
        losses = TrainStep.compute

        def reading(self, *inputs):
            losses(self, *inputs)
            float(self.totals.loss)

        patch.setattr(TrainStep, "compute", reading)


def main(folder, case, seconds):
    faulthandler.dump_traceback_later(float(seconds), exit=True)
    seen = {"steps": 0, "replays": 0, "happened": time.monotonic()}
    with pytest.MonkeyPatch.context() as patch:
        if REHEARSED:
            import stand_ins

            stand_ins.take_their_place(patch)
        alone(patch)
        watched(patch, case, seen)
        graph = "off" if case == "eager" else "on"
        device = "cpu" if REHEARSED else DEVICE.type
        config = recipe(
            "digits", image_size=16, epochs=3, milestones=(), eval_samples=20, device=device, out=Path(folder)
        )
        try:
            run_training(recipe("digits", **{**vars(config), "cuda_graph": graph, "amp": True}))
            ended, why = "finished", ""
        except BaseException as error:
            ended, why = type(error).__name__, str(error)[:500]
        print(json.dumps({**seen, "ended": ended, "why": why, "left": time.monotonic() - seen["happened"]}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
