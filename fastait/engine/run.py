"""A training run from its config to its result: what ``python -m fastait.train`` does, as functions."""

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastait.attacks import ATTACKS
from fastait.config import TrainConfig
from fastait.data import BatchPlan, Dataset, load_dataset, make_loader
from fastait.engine.evaluate import evaluate
from fastait.engine.hardware import differences, environment
from fastait.engine.precision import Precision, current, native_half, resolve_device
from fastait.engine.randomness import derive
from fastait.engine.report import Report
from fastait.engine.run_folder import RunFolder, load_weights
from fastait.engine.signals import StopRequest
from fastait.engine.step import Totals, TrainStep
from fastait.errors import InputError, Interrupted, RunError
from fastait.methods import METHODS, Settings
from fastait.methods.labels import effective_epsilon_y
from fastait.models import WideResNet

READ_SECONDS = 0.5
"""How often the running totals are read from the device."""


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

    Args:
        config: see ``fastait.recipe``.
        show: print notes, progress bars and the final table.

    Raises:
        InputError: a setting or a file is not what it must be; found before training starts, nothing is written.
        RunError: the loss became NaN, or a file could not be written; the last good checkpoint is kept.
        Interrupted: SIGINT or SIGTERM; the run has been saved.
    """
    config.check()
    config = config.resolved()
    report = Report(show)
    with _readable_memory_errors(), RunFolder.new(config.out or _dated_folder(config)) as folder:
        prepared = _Prepared(config, report)
        folder.begin(config)
        return _go_on(folder, prepared, report, None)


def resume_training(path: Path, *, show: bool = False) -> TrainResult:
    """Go on with the run in ``path`` from its last checkpoint, or return its result if it is finished.

    Raises:
        As ``run_training``.
    """
    report = Report(show)
    threads = torch.get_num_threads()
    with _readable_memory_errors(), RunFolder.existing(path) as folder:
        folder.lock()
        config = folder.config()
        finished = folder.result()
        if finished is not None:
            report.result(finished, str(path))
            return TrainResult(path, _trained_model(config, folder.weights()), finished)
        checkpoint = folder.load_checkpoint()
        if checkpoint is None:
            return _go_on(folder, _Prepared(config, report), report, None)
        _refuse_other_config(folder, checkpoint["config"], config.to_json())
        torch.set_num_threads(checkpoint["environment"]["threads"])
        try:
            # The checkpoint's weights replace those that the run began with, which need not be there any more.
            return _go_on(folder, _Prepared(replace(config, init_from=None), report), report, checkpoint)
        finally:
            torch.set_num_threads(threads)


@contextmanager
def _readable_memory_errors() -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in text:
            first = text.splitlines()[0] if text else "MemoryError"
            raise RunError(f"out of memory ({first}); a smaller --batch-size, network or image may help") from None
        raise


def _refuse_other_config(folder: RunFolder, saved: dict[str, Any], found: dict[str, Any]) -> None:
    changed = sorted(key for key in saved.keys() | found.keys() if saved.get(key) != found.get(key))
    if changed:
        raise InputError(
            f"{folder.config_file} is not what {folder.checkpoint_file} was made with: {', '.join(changed)}"
        )


def _trained_model(config: TrainConfig, weights: dict[str, Tensor]) -> nn.Module:
    model = WideResNet(config.depth, config.widen_factor, len(weights["fc.bias"]))
    model.load_state_dict(weights)
    return model.eval()


class _Prepared:
    """Everything that can be found wrong before a run folder is made."""

    def __init__(self, config: TrainConfig, report: Report):
        self.config = config
        self.device = resolve_device(config.device)
        self.precision = Precision(self.device, native_half(self.device) if config.amp else None)
        if config.amp and self.precision.dtype is None:
            report.note("--amp: this CPU has no native bf16, so the run is fp32 (emulation would be slower).")
        self.dataset = load_dataset(config.dataset, config.data_dir, config.image_size)
        _check_sizes(config, self.dataset)
        self.plan = BatchPlan(config.seed, len(self.dataset.train), config.batch_size, config.crop_padding, config.flip)
        self.loader = make_loader(self.dataset.train, self.plan, self.device, dali=config.dali, workers=config.workers)
        self.settings = Settings(config.epsilon, config.epsilon_y, config.attack_steps, len(self.dataset.classes))
        if METHODS[config.method].labels == "adversarial_interpolation":
            _warn_of_labels(self.settings, report)
        self.model = (
            _make_model(config, len(self.dataset.classes)).to(self.device).to(memory_format=torch.channels_last)
        )
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=config.lr, momentum=0.9, weight_decay=config.weight_decay
        )


def _check_sizes(config: TrainConfig, dataset: Dataset) -> None:
    if config.batch_size > len(dataset.train):
        raise InputError(f"--batch-size {config.batch_size} is larger than the {len(dataset.train)} training images")
    if (config.eval_samples or 0) > len(dataset.test):
        raise InputError(f"--eval-samples {config.eval_samples} is more than the {len(dataset.test)} test images")


def _warn_of_labels(settings: Settings, report: Report) -> None:
    moved = effective_epsilon_y(settings.epsilon_y, settings.steps)
    classes = settings.num_classes
    if moved >= (classes - 1) / classes:
        report.note(
            f"warning: --epsilon-y {settings.epsilon_y:g} with --attack-steps {settings.steps} moves labels by "
            f"{moved:g}: where both images are of one class, the true class is no longer the largest "
            f"(below {(classes - 1) / classes:g} it is, with {classes} classes)."
        )


def _make_model(config: TrainConfig, num_classes: int) -> WideResNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(config.seed, "weights"))
        model = WideResNet(config.depth, config.widen_factor, num_classes)
    if config.init_from is not None:
        weights = load_weights(config.init_from)
        own = model.state_dict()
        wrong = sorted(
            name
            for name in own.keys() | weights.keys()
            if name not in own or name not in weights or own[name].shape != weights[name].shape
        )
        if wrong:
            raise InputError(
                f"--init-from {config.init_from} does not fit WRN-{config.depth}-{config.widen_factor} with "
                f"{num_classes} classes: {', '.join(wrong[:3])}{' and others' if len(wrong) > 3 else ''}"
            )
        model.load_state_dict(weights)
    return model


def _dated_folder(config: TrainConfig) -> Path:
    return Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S-%f}-{config.dataset}-{config.method}"


def _go_on(folder: RunFolder, prepared: _Prepared, report: Report, checkpoint: dict[str, Any] | None) -> TrainResult:
    try:
        with current(prepared.device), StopRequest() as stop:
            run = _Run(folder, prepared, report)
            if checkpoint is not None:
                run.restore(checkpoint)
            run.train(stop)
            result = run.evaluate(stop)
    finally:
        report.finish()
    report.result(result, str(folder.path))
    return TrainResult(folder.path, prepared.model.eval(), result)


class _Run:
    """The state of a run and the loop that advances it."""

    def __init__(self, folder: RunFolder, prepared: _Prepared, report: Report):
        self.folder = folder
        self.prepared = prepared
        self.config = prepared.config
        self.report = report
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.totals = Totals(prepared.device)
        self.environment = {**environment(prepared.device), "precision": prepared.precision.describe()}
        self.seconds_before = 0.0
        self.training_seconds: float | None = None
        self.epoch_seconds_before = 0.0
        self.started = self.epoch_started = self.last_read = self.last_save = time.monotonic()

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Put every part of the run where the checkpoint has it."""
        prepared = self.prepared
        prepared.model.load_state_dict(checkpoint["model"])
        prepared.optimizer.load_state_dict(checkpoint["optimizer"])
        if checkpoint["scaler"] and prepared.precision.scaler.is_enabled():
            prepared.precision.scaler.load_state_dict(checkpoint["scaler"])
        self.step = checkpoint["step"]
        self.history = checkpoint["history"]
        self.totals.load(checkpoint["totals"])
        self.seconds_before = checkpoint["seconds"]
        self.training_seconds = checkpoint["training_seconds"]
        self.epoch_seconds_before = checkpoint["epoch_seconds"]
        changed = differences(checkpoint["environment"], self.environment)
        if changed:
            self.report.note(
                f"warning: not the machine or the versions that the run was begun with, so its weights will not be "
                f"the same to the bit: {', '.join(changed)}"
            )

    def save(self) -> None:
        """Write a checkpoint, unless the run has gone wrong since the last one."""
        self._check_finite()
        if not all(bool(value.isfinite().all()) for value in self.prepared.model.state_dict().values()):
            raise self._not_finite("the weights are", self.step - 1)
        now = time.monotonic()
        self.folder.save_checkpoint(
            {
                "config": self.config.to_json(),
                "step": self.step,
                "model": self.prepared.model.state_dict(),
                "optimizer": self.prepared.optimizer.state_dict(),
                "scaler": self.prepared.precision.scaler.state_dict(),
                "history": self.history,
                "totals": self.totals.state(),
                "seconds": self._seconds(),
                "training_seconds": self.training_seconds,
                "epoch_seconds": self.epoch_seconds_before + now - self.epoch_started,
                "environment": self.environment,
            }
        )
        self.last_save = time.monotonic()

    def train(self, stop: StopRequest) -> None:
        """From the current step to the last."""
        config, prepared = self.config, self.prepared
        per_epoch = prepared.plan.steps_per_epoch
        last = config.epochs * per_epoch
        train_step = TrainStep(
            prepared.model,
            METHODS[config.method],
            prepared.settings,
            prepared.optimizer,
            prepared.precision,
            config.seed,
        )
        self.folder.write_metrics(self.history)
        self.report.note(self._headline())
        self.report.start("training", last, self.step)
        prepared.model.train()
        for images, labels in prepared.loader.batches(self.step, last):
            for group in prepared.optimizer.param_groups:
                group["lr"] = config.learning_rate(self.step // per_epoch)
            train_step(images, labels, self.step, self.totals)
            self.step += 1
            if self.step % per_epoch == 0:
                self._end_epoch()
            now = time.monotonic()
            if now - self.last_read >= READ_SECONDS:
                self._show_progress()
            if self.step == last:
                self.training_seconds = self._seconds()
            if now - self.last_save >= config.checkpoint_seconds or self.step == last:
                self.save()
            if stop.number is not None:
                self._stop(stop.number)

    def evaluate(self, stop: StopRequest) -> dict[str, Any]:
        """Write the weights, measure them and write the result."""
        config, prepared = self.config, self.prepared
        self.folder.save_weights(prepared.model.state_dict())
        images = prepared.dataset.test
        if config.eval_samples is not None:
            images = images.stratified(config.eval_samples)
        done = itertools.count(1)
        batches = -(-len(images) // config.batch_size)
        self.report.start("evaluating", batches * (1 + len(ATTACKS)))

        def advance() -> None:
            self.report.update(next(done))
            if stop.number is not None:
                self._stop(stop.number)

        outcomes = evaluate(
            prepared.model,
            images,
            ATTACKS,
            epsilon=config.epsilon,
            seed=config.seed,
            batch_size=config.batch_size,
            advance=advance,
        )
        result = {
            **{name: round(100 * outcome.double().mean().item(), 2) for name, outcome in outcomes.items()},
            "test_images": len(images),
            "dataset": config.dataset,
            "method": config.method,
            "epsilon": config.epsilon,
            "seed": config.seed,
            "epochs": config.epochs,
            "network": f"WRN-{config.depth}-{config.widen_factor}",
            "training_seconds": round(self.training_seconds or 0.0, 1),
            "wall_seconds": round(self._seconds(), 1),
            **self.environment,
        }
        self.report.finish()
        self.folder.save_result(result)
        return result

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def _end_epoch(self) -> None:
        self._check_finite()
        now = time.monotonic()
        totals = self.totals.state()
        seconds = self.epoch_seconds_before + now - self.epoch_started
        epoch = self.step // self.prepared.plan.steps_per_epoch
        record = {
            "epoch": epoch,
            "step": self.step,
            "lr": self.config.learning_rate(epoch - 1),
            "loss": totals["loss"] / totals["seen"],
            "accuracy": 100 * totals["correct"] / totals["seen"],
            "images_per_second": round(totals["seen"] / seconds, 1),
            "seconds": round(seconds, 3),
        }
        self.history.append(record)
        self.folder.write_metrics(self.history)
        self.report.note(
            f"epoch {epoch}/{self.config.epochs}  loss {record['loss']:.4f}  training accuracy "
            f"{record['accuracy']:.1f} %  {record['images_per_second']:.0f} images/s"
        )
        self.totals = Totals(self.prepared.device)
        self.epoch_seconds_before = 0.0
        self.epoch_started = now

    def _show_progress(self) -> None:
        self._check_finite()
        self.last_read = time.monotonic()
        totals = self.totals.state()
        if totals["seen"]:
            speed = totals["seen"] / (self.epoch_seconds_before + self.last_read - self.epoch_started)
            self.report.update(
                self.step,
                f"epoch {self.step // self.prepared.plan.steps_per_epoch + 1}/{self.config.epochs}",
                f"loss {totals['loss'] / totals['seen']:.3f}  accuracy {100 * totals['correct'] / totals['seen']:.1f} %"
                f"  {speed:.0f} images/s",
            )

    def _check_finite(self) -> None:
        bad = self.totals.bad_step()
        if bad is not None:
            raise self._not_finite("the loss became", bad)

    def _not_finite(self, what: str, step: int) -> RunError:
        epoch = step // self.prepared.plan.steps_per_epoch + 1
        kept = self.folder.checkpoint_file
        return RunError(
            f"{what} NaN or infinite at step {step + 1} (epoch {epoch}); "
            + (f"the last good checkpoint is kept in {kept}" if kept.exists() else "there is no checkpoint before it")
            + f"; a smaller --lr than {self.config.lr:g} may help"
        )

    def _stop(self, number: int) -> None:
        self.report.finish()
        self.save()
        raise Interrupted(
            f"stopped at step {self.step} and saved; go on with: python -m fastait.train --resume {self.folder.path}",
            number,
        )

    def _headline(self) -> str:
        config, data = self.config, self.prepared.dataset
        return (
            f"{config.method} on {config.dataset}: {len(data.train)} training and {len(data.test)} test images, "
            f"{len(data.classes)} classes; WRN-{config.depth}-{config.widen_factor}, "
            f"{self.prepared.precision.describe()}, {self.environment['device']}, "
            f"{'DALI' if config.dali else 'torch'} loader; run folder {self.folder.path}"
        )
