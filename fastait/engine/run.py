"""A training run from its config to its result: what ``python -m fastait.train`` does, as functions."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastait.config import TrainConfig
from fastait.engine.distributed import Ranks, join, launched
from fastait.engine.loop import Loop
from fastait.engine.precision import current
from fastait.engine.prepare import Prepared
from fastait.engine.report import Report
from fastait.engine.run_folder import RunFolder
from fastait.engine.signals import StopRequest
from fastait.errors import FastaitError, InputError, RunError
from fastait.models import WideResNet


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Attributes:
        folder: the run folder.
        model: the trained network, in eval mode.
        result: what ``result.json`` holds: ``clean``, ``fgsm``, ``pgd20``, ``cw20`` in percent, and their provenance.
    """

    folder: Path
    model: nn.Module
    result: dict[str, Any]


def run_training(config: TrainConfig, *, show: bool = False) -> TrainResult:
    """Train and evaluate as ``config`` says.

    Under torchrun, one of the processes that do so together. torchrun may start them anew, with the same settings, when
    one dies or another machine joins: they then go on from the last checkpoint in ``config.out``.

    Args:
        config: see ``fastait.recipe``.
        show: print notes, progress bars and the final table.

    Raises:
        InputError: a setting or a file is not what it must be; found before training starts, nothing is written.
        RunError: the loss became NaN, a file could not be written, or another process of the run died; the last good
            checkpoint is kept.
        Interrupted: SIGINT or SIGTERM; the run has been saved.
    """
    config.check()
    config = config.resolved()
    if launched() and config.out is None:
        raise InputError("torchrun may start this run anew, so it must be told its folder: --out RUN")
    with _readable_errors(), join(config.device, capture=config.cuda_graph == "on") as (ranks, device):
        report = Report(show and ranks.first)
        out = config.out or _dated_folder(config)
        if ranks.from_first(lambda: launched() and RunFolder.begun(out)):
            return _resume(out, ranks, device, report, config)
        with RunFolder(ranks.from_first(lambda: RunFolder.new(out).path), writes=ranks.first) as folder:
            prepared = Prepared(config, report, ranks, device)
            ranks.from_first(lambda: folder.begin(config))
            return _go_on(folder, prepared, report, None)


def resume_training(path: Path, *, show: bool = False) -> TrainResult:
    """Go on with the run in ``path`` from its last checkpoint, or return its result if it is finished.

    Raises:
        InputError, RunError, Interrupted: as ``run_training``.
    """
    config = RunFolder.existing(path).config()
    with _readable_errors(), join(config.device, capture=config.cuda_graph == "on") as (ranks, device):
        return _resume(path, ranks, device, Report(show and ranks.first))


def _resume(path: Path, ranks: Ranks, device: str, report: Report, asked: TrainConfig | None = None) -> TrainResult:
    threads = torch.get_num_threads()
    with RunFolder(path, writes=ranks.first) as folder:

        def read() -> tuple[TrainConfig, dict[str, Any] | None, dict[str, Any] | None]:
            folder.lock()
            config, finished = folder.config(), folder.result()
            checkpoint = None if finished else folder.load_checkpoint()
            if checkpoint is not None:
                _refuse_other_config(folder, folder.checkpoint_file, checkpoint["config"], config)
            if asked is not None:
                _refuse_other_config(folder, "the command", asked.to_json(), config)
            return config, finished, checkpoint

        config, finished, checkpoint = ranks.from_first(read)
        if finished is not None:
            report.result(finished, str(path))
            return TrainResult(path, _trained_model(config, folder.weights()), finished)
        if checkpoint is None:
            return _go_on(folder, Prepared(config, report, ranks, device), report, None)
        torch.set_num_threads(checkpoint["environment"]["threads"])
        try:
            # The checkpoint's weights replace those that the run began with, which need not be there any more.
            prepared = Prepared(replace(config, init_from=None), report, ranks, device)
            return _go_on(folder, prepared, report, checkpoint)
        finally:
            torch.set_num_threads(threads)


@contextmanager
def _readable_errors() -> Iterator[None]:
    """What torch raises for want of memory, of a compiler or of another process, as one line."""
    try:
        yield
    except FastaitError:
        raise
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        first = text.splitlines()[0] if text else type(error).__name__
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in text:
            raise RunError(f"out of memory ({first}); a smaller --batch-size, network or image may help") from None
        if "DataLoader worker" in text:
            raise RunError(
                f"--workers: {first}; too little (shared) memory may be why, so try fewer, or 0; checkpoints, "
                "if there were any, are kept"
            ) from None
        if isinstance(error, dist.DistError) or "gloo" in text.lower():
            raise RunError(
                f"another process of this run is gone ({first}); checkpoints, if there were any, are kept"
            ) from None
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise RunError(f"--compile: torch.compile failed ({first}); leave --compile out") from None
        raise


def _refuse_other_config(folder: RunFolder, other: Path | str, saved: dict[str, Any], config: TrainConfig) -> None:
    found = config.to_json()
    changed = sorted(key for key in saved.keys() | found.keys() if saved.get(key) != found.get(key))
    if changed:
        raise InputError(f"{folder.config_file} is not what {other} was made with: {', '.join(changed)}")


def _trained_model(config: TrainConfig, weights: dict[str, Tensor]) -> nn.Module:
    model = WideResNet(config.depth, config.widen_factor, len(weights["fc.bias"]))
    model.load_state_dict(weights)
    return model.eval()


def _dated_folder(config: TrainConfig) -> Path:
    return Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S-%f}-{config.dataset}-{config.method}"


def _go_on(folder: RunFolder, prepared: Prepared, report: Report, checkpoint: dict[str, Any] | None) -> TrainResult:
    try:
        with current(prepared.device), StopRequest() as stop:
            loop = Loop(folder, prepared, report)
            if checkpoint is not None:
                loop.restore(checkpoint)
            loop.train(stop)
            result = loop.evaluate(stop)
    finally:
        report.finish()
    report.result(result, str(folder.path))
    return TrainResult(folder.path, prepared.model.eval(), result)
