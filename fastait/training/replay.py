"""The step whose numbers went wrong, once more: ``fastait train --resume RUN --replay-failure``."""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from fastait.checkpoints import checkpoint
from fastait.checkpoints.folder import CHECKPOINT, RunFolder
from fastait.config import TrainConfig
from fastait.data import Shard
from fastait.runtime.errors import InputError, Interrupted, NotWritten, RunError, SaidElsewhere
from fastait.runtime.files import write_whole
from fastait.runtime.processes import Ranks, join
from fastait.runtime.report import Report
from fastait.runtime.settings import as_path, check_names
from fastait.runtime.signals import StopRequest
from fastait.training.failure import Failure, read_failure
from fastait.training.loop import Loop
from fastait.training.pace import Decisions
from fastait.training.run import alone, changed, prepared_for, restored, taking_up, where_there_are_folders

FOLDER = "failure"
"""In the run folder: what a replay keeps."""


def replay_failure(path: Path | str, *, show: bool = False, **changes: Any) -> Path:
    """Take the steps of the run in ``path`` from its last checkpoint to the one that failed, which ends it, once more.

    What a step draws is a function of the seed and of its number, so it fails again where machine, versions and means
    are the same. The run itself stays as it is.

    Args:
        path: the run folder.
        show: print notes and a progress bar.
        changes: as in ``resume_training``, save ``out``.

    Returns:
        The folder that holds ``batch.safetensors`` (the failing step's batch: ``images`` uint8 [B, H, W, 3] as they are
        augmented, ``labels`` int64 [B], ``places`` int64 [B] in the training set; ``unlabeled``, images, where the
        method has such), ``checkpoint.pt`` (the state before the step) and ``failure.json`` (the step, what went wrong
        in it first and, under ``bad``, all that did).

    Raises:
        InputError: no step of the run has failed, or it has gone past that step since; also as ``resume_training``.
        RunError: the step does not fail in the same way, or something could not be written.
        Interrupted: a signal asked for an end; nothing was written.
    """
    path = as_path("path", path)
    check_names(changes, (field.name for field in fields(TrainConfig)))
    if changes.get("out") is not None:
        raise InputError(f"--out {changes['out']}: --replay-failure leaves the run where it is; leave --out out")
    saved = RunFolder.existing(path).config()
    config, allow_own = changed(path, saved, changes), "model" in changes
    with alone(), join(config.device, capture=config.cuda_graph == "on") as (ranks, device):
        report = Report(show and ranks.first)
        with RunFolder(path, writes=ranks.first) as folder:

            def read() -> tuple[Failure, dict[str, Any] | None, TrainConfig]:
                failure = read_failure(folder)
                folder.lock()
                state = folder.load_checkpoint(report.note)
                with taking_up(folder.checkpoint_file):
                    gone_past = state is not None and state["step"] >= failure.step
                if gone_past:
                    raise InputError(
                        f"--replay-failure: the run in {path} has gone past step {failure.step}, at which it failed"
                    )
                return failure, state, where_there_are_folders(path, saved, config)

            failure, state, config = ranks.from_first(read)
            with (
                prepared_for(folder, config, state, report, ranks, device, allow_own=allow_own) as prepared,
                restored(folder, prepared, report, state, folder.checkpoint_file) as (loop, stop),
            ):
                kept = _replayed(loop, failure, stop)
            report.note(
                f"{failure}, as before; {kept} has its batch (batch.safetensors) and the state before it ({CHECKPOINT})"
            )
            return kept


def _replayed(loop: Loop, failure: Failure, stop: StopRequest) -> Path:
    """Take the steps; returns the folder that holds what the last of them began with."""
    ranks, last = loop.ranks, failure.step - 1
    ranks.refuse(
        last >= loop.config.epochs * loop.prepared.plan.steps_per_epoch,
        f"{loop.folder.failure_file} is damaged: the run has no step {failure.step}",
    )
    loop.report.note(f"replaying steps {loop.step + 1} to {failure.step} of {loop.folder.path}")
    loop.report.start("replaying", failure.step, loop.step)
    loop.prepared.model.train()
    decisions = Decisions(ranks, loop.step)
    for batch in loop.batches(failure.step):
        if loop.step == last:  # a loader may fill the same memory again
            whole, state = _whole(loop, *batch), loop.state()
            before = checkpoint.packed(state) if ranks.first else b""
        loop.take(*batch)
        if not decisions.due(loop.step):
            continue
        loop.report.update(loop.step)
        (number,) = decisions.largest(loop.step, stop.number or 0)
        if number:
            loop.report.finish()
            if not ranks.first:
                raise SaidElsewhere(128 + number)
            raise Interrupted("stopped; the replay has written nothing", number)
    found = loop.failure()
    if found != failure:
        raise _another(loop, failure, found) if ranks.first else SaidElsewhere(RunError.exit_code)
    return ranks.from_first(lambda: _keep(loop, failure, whole, before))


def _another(loop: Loop, failure: Failure, found: Failure | None) -> RunError:
    return RunError(
        f"the replay does not fail as the run did: {failure}, but now "
        + (f"{found}" if found is not None else "nothing does")
        + "; another machine, version or means can be why, or a fault of the hardware that has passed: go on by "
        f"fastait train --resume {loop.folder.path}"
    )


def _whole(loop: Loop, images: Tensor, labels: Tensor, unlabeled: tuple[Any, ...]) -> dict[str, Tensor]:
    """The current step's batch of all processes, on the CPU. For all of them to call."""
    plan, step = loop.prepared.plan, loop.step
    parts = {"images": (plan, images), "labels": (plan, labels), "places": (plan, plan.batch(step).index)}
    if loop.prepared.unlabeled is not None:
        parts["unlabeled"] = loop.prepared.unlabeled[1], unlabeled[0]
    return {name: _of_all(loop.ranks, part, of.shard(step)) for name, (of, part) in parts.items()}


def _of_all(ranks: Ranks, part: Tensor, shard: Shard) -> Tensor:
    whole = torch.zeros(shard.batch, *part.shape[1:], dtype=part.dtype, device="cpu")
    whole[shard.start : shard.start + shard.size] = part[: shard.size].cpu()
    return ranks.merge(whole)


def _keep(loop: Loop, failure: Failure, batch: dict[str, Tensor], before: bytes) -> Path:
    folder = loop.folder.path / FOLDER
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise NotWritten(f"{folder} cannot be made: {error.strerror}") from None
    told = {**asdict(failure), "bad": [number._asdict() for number in loop.train_step.bad()]}
    write_whole(folder / "batch.safetensors", save(batch))
    write_whole(folder / CHECKPOINT, before)
    write_whole(folder / "failure.json", (json.dumps(told, indent=2) + "\n").encode())
    return folder
