"""A training run from its config to its result: what ``fastait train`` does, as functions."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from fastait.checkpoints.classes import shown
from fastait.checkpoints.folder import RunFolder
from fastait.checkpoints.weights import contiguous
from fastait.config import IN_PLACE, PLACES, TrainConfig
from fastait.evaluation.model_files import load_model
from fastait.runtime.errors import FastaitError, InputError, OutOfMemory, RunError, first_line, words
from fastait.runtime.memory import let_go, ran_out
from fastait.runtime.precision import current
from fastait.runtime.processes import Ranks, join, launched, lost_another
from fastait.runtime.report import Report
from fastait.runtime.settings import as_path, check_names
from fastait.runtime.signals import StopRequest
from fastait.runtime.threads import usable_cores
from fastait.training.loop import Loop
from fastait.training.networks import refuse_other_weights
from fastait.training.prepare import Prepared


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
        Interrupted: a signal that asks for an end (``runtime.signals``); the run has been saved.
    """
    if not isinstance(config, TrainConfig):
        raise InputError(f"config must be a TrainConfig, of fastait.recipe for example, got {type(config).__name__}")
    config.check()
    config = config.resolved()
    if launched() and config.out is None:
        raise InputError("torchrun may start this run anew, so it must be told its folder: --out RUN")
    with alone(), join(config.device, capture=config.cuda_graph == "on") as (ranks, device):
        report = Report(show and ranks.first)
        out = config.out or _dated_folder(config)
        if ranks.from_first(lambda: launched() and RunFolder.begun(out)):
            return _resume(out, ranks, device, report, lambda saved: _as_asked(out, saved, config), allow_own=True)
        with RunFolder(ranks.from_first(lambda: RunFolder.new(out).path), writes=ranks.first) as folder:
            return _begin(folder, config, ranks, device, report)


def _begin(folder: RunFolder, config: TrainConfig, ranks: Ranks, device: str, report: Report) -> TrainResult:
    """Of what a caller of ``run_training`` must not hold when it has failed: the network is known here only."""
    prepared = Prepared(config, report, ranks, device, allow_own=True)
    return _go_on(folder, prepared, report, None, lambda: folder.begin(config, prepared.about))


def resume_training(path: Path | str, *, show: bool = False, **changes: Any) -> TrainResult:
    """Go on with the run in ``path`` from its last checkpoint, or return its result if it is finished.

    Args:
        path: the run folder.
        show: as in ``run_training``.
        changes: settings of ``fastait.config.PLACES`` that are to be others from now on: they say where things lie and
            how they are loaded and run. ``out`` is a new folder that the run goes on in, with a copy of what it has
            come to; the old one stays as it is. ``model``, of the same value, is needed where a function of somebody's
            own makes the network: that the folder names it is no permission to call it.

    Raises:
        InputError, RunError, Interrupted: as ``run_training``; InputError also if a change would decide the weights, or
            the images are others.
        TypeError: a change is no setting.
    """
    path = as_path("path", path)
    check_names(changes, (field.name for field in fields(TrainConfig)))
    saved = RunFolder.existing(path).config()
    config, allow_own = changed(path, saved, changes), "model" in changes
    out = config.out if changes.pop("out", None) is not None else None
    if out is not None and out.resolve() == path.resolve():
        out = None
    with alone(), join(config.device, capture=config.cuda_graph == "on") as (ranks, device):
        report = Report(show and ranks.first)

        def begun_by_an_earlier_start() -> bool:
            if out is None or not (launched() and RunFolder.begun(out)):
                return False
            new = RunFolder(out)
            _refuse_other_config(new, path, saved.to_json(), new.config())
            return True

        if ranks.from_first(begun_by_an_earlier_start):
            path, out = cast(Path, out), None
        return _resume(path, ranks, device, report, lambda saved: changed(path, saved, changes), out, allow_own)


def _resume(
    path: Path,
    ranks: Ranks,
    device: str,
    report: Report,
    change: Callable[[TrainConfig], TrainConfig],
    out: Path | None = None,
    allow_own: bool = False,
) -> TrainResult:
    """Go on with the run in ``path``, with what ``change`` makes of its settings, in ``out`` or where it lies."""
    source = RunFolder(path)
    with RunFolder(out or path, writes=ranks.first) as folder:

        def read() -> tuple[TrainConfig, dict[str, Any] | None, dict[str, Any] | None, dict[str, Any]]:
            if out is None:
                folder.lock()
            else:
                RunFolder.new(out)
            saved = source.config()
            config = change(saved) if out is None else replace(change(saved), out=out)
            finished = source.figures()
            if finished is None:
                config = where_there_are_folders(path, saved, config)
            checkpoint = None if finished else source.load_checkpoint(report.note)
            before = saved.to_json()
            if checkpoint is not None:
                with taking_up(source.checkpoint_file):
                    before = TrainConfig.from_json(checkpoint["config"]).to_json()
                _refuse_other_config(source, source.checkpoint_file, before, config)
            return config, finished, checkpoint, before

        def say(what: str) -> None:
            if missing := source.defaults():
                report.note(f"{source.config_file} lacks settings, which have their defaults: {_listed(missing)}")
            _say_changes(what, before, config, report)

        def settle() -> None:
            if not finished:
                say("goes on with")
            if out is not None:
                folder.continue_from(source, config)
            elif config != folder.config() or folder.defaults():
                folder.change(config)

        config, finished, checkpoint, before = ranks.from_first(read)
        if finished is not None:
            say("is finished, so these have no effect:")
            if out is not None:
                ranks.from_first(settle)
            report.result(finished, str(folder.path))
            network = load_model(source.path, model=config.model if allow_own else None)[0]
            return TrainResult(folder.path, network, finished)
        with prepared_for(source, config, checkpoint, report, ranks, device, allow_own=allow_own) as prepared:
            return _go_on(folder, prepared, report, checkpoint, settle, source.checkpoint_file)


@contextmanager
def prepared_for(
    source: RunFolder,
    config: TrainConfig,
    checkpoint: dict[str, Any] | None,
    report: Report,
    ranks: Ranks,
    device: str,
    *,
    allow_own: bool,
) -> Iterator[Prepared]:
    """What the run in ``source`` needs to go on from ``checkpoint``, or to begin if it had not come to one.

    Within, torch has as many threads as then, for their bits; where fewer cores are left, speed goes first.

    Raises:
        InputError: something that it needs is not what it was.
    """
    if checkpoint is None:
        prepared = Prepared(config, report, ranks, device, allow_own=allow_own)
        _refuse_other_classes(source, prepared.dataset.classes)
        yield prepared
        return
    threads = torch.get_num_threads()
    with taking_up(source.checkpoint_file):
        torch.set_num_threads(min(checkpoint["environment"]["threads"], max(threads, usable_cores())))
    try:
        # The checkpoint's weights replace those that the run began with, which need not be there any more.
        prepared = Prepared(config, report, ranks, device, allow_own=allow_own, begun=True)
        with taking_up(source.checkpoint_file):
            refuse_other_weights(prepared.model, config.model, checkpoint["model"], source.checkpoint_file)
        yield prepared
    finally:
        torch.set_num_threads(threads)


def where_there_are_folders(path: Path, saved: TrainConfig, config: TrainConfig) -> TrainConfig:
    """``config``, with a place for decoded images only where there is one: a run's settings, which may be somebody
    else's, decide what is read, and make no folders elsewhere.

    Raises:
        InputError: the images do not lie where the run says.
    """
    saved = saved.resolved()
    downloaded = config.data_dir is not None and config.dataset not in IN_PLACE
    if downloaded and config.data_dir == saved.data_dir and not os.path.isdir(cast(Path, config.data_dir)):
        raise InputError(
            f"--resume {path}: its images were in {config.data_dir}, where there is no folder; --data-dir makes one"
        )
    if config.cache_dir is not None and config.cache_dir == saved.cache_dir and not os.path.isdir(config.cache_dir):
        return replace(config, cache_dir=None)
    return config


def changed(path: Path, saved: TrainConfig, changes: dict[str, Any]) -> TrainConfig:
    """The settings of the run in ``path`` with ``changes``.

    Raises:
        InputError: a change is not of its setting's type or out of its range, or decides the weights.
    """
    new = replace(saved, **changes)
    # The loader that is asked for now replaces the one before.
    if new.dali and new.workers is not None and ("dali" in changes) != ("workers" in changes):
        new = replace(new, workers=None) if "dali" in changes else replace(new, dali=False)
    wrong = _deciding(saved.to_json(), new.to_json())
    if (saved.init_from is None) != (new.init_from is None):
        wrong.append("init_from")
    if wrong:
        what = ", ".join(f"{name} {getattr(new, name)} (the run has {getattr(saved, name)})" for name in wrong)
        raise InputError(f"--resume {path}: a run goes on with its own settings, but the command changes {what}")
    new.check()
    return new.resolved()


def _as_asked(path: Path, saved: TrainConfig, asked: TrainConfig) -> TrainConfig:
    """The settings of the run in ``path``, loaded and run as ``asked``."""
    _refuse_other_config(RunFolder(path), "the command", asked.to_json(), saved)
    return replace(saved, **{name: getattr(asked, name) for name in PLACES})


def _refuse_other_config(folder: RunFolder, other: Path | str, saved: dict[str, Any], config: TrainConfig) -> None:
    other_settings = _deciding(saved, config.to_json())
    if other_settings:
        raise InputError(f"{folder.config_file} is not what {other} was made with: {', '.join(other_settings)}")


def _refuse_other_classes(folder: RunFolder, found: tuple[str, ...]) -> None:
    """Of a run that has not come to a checkpoint, which would know its images."""
    own = folder.classes()
    if own not in (None, found):
        raise InputError(
            f"the data set has changed since the run was begun: its classes are {shown(found)}, then {shown(own)}; "
            "bring back what it was, or begin a new run"
        )


def _deciding(saved: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Which settings that a run keeps are not the same."""
    return sorted(key for key in saved.keys() | found.keys() if key not in PLACES and saved.get(key) != found.get(key))


def _say_changes(what: str, before: dict[str, Any], config: TrainConfig, report: Report) -> None:
    told = [name for name in PLACES if name not in ("out", "init_from")]
    new = {name: value for name, value in config.to_json().items() if name in told and before.get(name) != value}
    if new:
        report.note(f"the run {what} " + ", ".join(f"{n} {v} (was {before.get(n)})" for n, v in new.items()))


def _listed(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


@contextmanager
def _readable_errors() -> Iterator[None]:
    """What torch raises for want of memory, of a compiler or of another process, as one line."""
    try:
        yield
    except FastaitError:
        raise
    except (MemoryError, OSError, RuntimeError) as error:
        text, first = str(error), first_line(error)
        if ran_out(error):
            let_go(error)
            raise OutOfMemory(f"out of memory ({first}); a smaller --batch-size, network or image may help") from None
        if "DataLoader worker" in text:
            raise RunError(
                f"--workers: {first}; too little (shared) memory may be why, so try fewer, or 0, which a "
                "--resume takes too; checkpoints, if there were any, are kept"
            ) from None
        if "finished reduction" in text:
            raise RunError(
                "the loss does not reach all of the network's parameters, which several processes would wait for; "
                "give those requires_grad_(False), or train by one process"
            ) from None
        if lost_another(error):
            raise RunError(
                f"another process of this run is gone ({first}); checkpoints, if there were any, are kept"
            ) from None
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise RunError(
                f"--compile: torch.compile failed ({first}); leave --compile out, at a --resume by --no-compile"
            ) from None
        raise


def _dated_folder(config: TrainConfig) -> Path:
    return Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S-%f}-{config.dataset}-{config.method}"


def _go_on(
    folder: RunFolder,
    prepared: Prepared,
    report: Report,
    checkpoint: dict[str, Any] | None,
    settle: Callable[[], None],
    checkpoint_file: Path | None = None,
) -> TrainResult:
    """Train and evaluate from ``checkpoint`` on; ``settle`` writes the settings, once nothing is wrong with them."""
    with restored(folder, prepared, report, checkpoint, checkpoint_file) as (loop, stop):
        prepared.ranks.from_first(settle)
        loop.train(stop)
        result = loop.evaluate(stop)
    report.result(result, str(folder.path))
    network = contiguous(prepared.model)
    network.eval()
    return TrainResult(folder.path, network, result)


@contextmanager
def restored(
    folder: RunFolder,
    prepared: Prepared,
    report: Report,
    checkpoint: dict[str, Any] | None,
    checkpoint_file: Path | None,
) -> Iterator[tuple[Loop, StopRequest]]:
    """The loop of a run where ``checkpoint`` has it, which lies in ``checkpoint_file``, and what says whether a signal
    has asked for its end."""
    try:
        with (
            current(prepared.device),
            torch.autocast(prepared.device.type, enabled=False),
            StopRequest() as stop,
            closing(Loop(folder, prepared, report)) as loop,
        ):
            if checkpoint is not None:
                with taking_up(checkpoint_file):
                    loop.restore(checkpoint)
            yield loop, stop
    finally:
        report.finish()


@contextmanager
def taking_up(file: Path | None) -> Iterator[None]:
    """What a checkpoint raises that is whole and holds something else than the state of such a run, as one line."""
    try:
        yield
    except FastaitError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        if ran_out(error) or lost_another(error):
            raise
        why = f"{type(error).__name__}: {words(error, 200)}"
        raise InputError(f"{file} is whole, but does not hold what this run goes on from ({why})") from None


@contextmanager
def alone() -> Iterator[None]:
    """Errors as one line, and no default device of the caller's: a run names its devices."""
    here = torch.empty(0).device.type == "cpu"  # get_default_device sees no context before torch 2.8
    with _readable_errors(), nullcontext() if here else torch.device("cpu"):
        yield
