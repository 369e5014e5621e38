"""The training loop and the evaluation at its end."""

import itertools
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

from torch import Tensor

from fastait.attacks import ATTACKS
from fastait.checkpoints.folder import RunFolder
from fastait.config import CLASSES, NORMALIZATION
from fastait.data import ImageSet
from fastait.evaluation import evaluate, units
from fastait.methods import METHODS
from fastait.runtime.errors import FastaitError, Interrupted, RunError, SaidElsewhere
from fastait.runtime.hardware import differences, environment
from fastait.runtime.memory import release, said_with
from fastait.runtime.report import Report
from fastait.runtime.signals import StopRequest
from fastait.training.attack_gradients import gradient_shares, without_gradients
from fastait.training.averaged import Averaged
from fastait.training.cost import Cost, said, step_cost
from fastait.training.events import Events
from fastait.training.failure import Failure, failed
from fastait.training.headline import headline
from fastait.training.optimizer import restore_optimizer, set_lr
from fastait.training.pace import Backlog, Decisions
from fastait.training.prepare import Prepared
from fastait.training.schedule import learning_rate
from fastait.training.step import TrainStep
from fastait.training.watch import Watch, few, holding

SAVING = 0.01
"""At most this share of the time is spent on checkpoints, save those that are asked for."""

READ_SECONDS = 0.5
"""How often the running totals are read from the device."""


def _rate(speed: float) -> str:
    return f"{speed:.0f} images/s" if speed >= 10 else f"{speed:.2g} images/s"


class Loop:
    """The state of a run and the loop that advances it."""

    def __init__(self, folder: RunFolder, prepared: Prepared, report: Report):
        self.folder = folder
        self.prepared = prepared
        self.config = prepared.config
        self.report = report
        self.ranks = prepared.ranks
        self.step = 0
        self.rate: float | None = None
        self.backlog = Backlog(prepared.device)
        self.history: list[dict[str, Any]] = []
        self.averaged = None if self.config.ema is None else Averaged(prepared.model, self.config.ema)
        self.train_step = TrainStep(
            prepared.model,
            METHODS[self.config.method],
            prepared.settings,
            prepared.optimizer,
            prepared.precision,
            self.config.seed,
            prepared.ranks,
            features=prepared.features,
            clip_norm=self.config.clip_grad_norm,
            averaged=self.averaged,
            batch_size=self.config.batch_size,
            compile=self.config.compile,
            graph=prepared.graph,
            insist=self.config.cuda_graph == "on",
            note=report.note,
        )
        self.totals = self.train_step.totals
        self.environment = {
            **environment(prepared.device),
            "precision": prepared.precision.name,
            "processes": prepared.ranks.size,
        }
        self.seconds_before = 0.0
        self.training_seconds: float | None = None
        self.epoch_seconds_before = 0.0
        self.save_seconds = 0.0
        self._warn = cache(lambda text: report.note(f"warning: {text}"))  # once, if several evaluations say the same
        self.watch = Watch(
            self.config,
            prepared.model,
            self.averaged,
            prepared.validation,
            few(prepared.dataset, prepared.plan.split()[0]),
            self._warn,
            prepared.ranks,
        )
        self.events = Events(folder.path, self.config, prepared.dataset.test, self.ranks.first)
        self.started = self.epoch_started = self.last_read = self.last_save = time.monotonic()

    def close(self) -> None:
        """Give back what must not outlive the processes' group, which waits for captured graphs that use it."""
        self.train_step.close()
        self.events.close()

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Put every part of the run where the checkpoint has it."""
        prepared = self.prepared
        then, now = checkpoint["data"], self._data()
        self.ranks.refuse(
            then != now,
            f"the data set has changed since the run was begun: {now['images']} images with checksum "
            f"{now['checksum'][:12]}, then {then['images']} with {then['checksum'][:12]}; bring back what it was, or "
            "begin a new run",
        )
        prepared.model.load_state_dict(checkpoint["model"])
        restore_optimizer(prepared.optimizer, checkpoint["optimizer"])
        if checkpoint["scaler"] and prepared.precision.scaler.is_enabled():
            prepared.precision.scaler.load_state_dict(checkpoint["scaler"])
        self.step = checkpoint["step"]
        self.history = checkpoint["history"]
        self.watch.load(checkpoint["watch"])
        if self.averaged is not None:
            self.averaged.load(checkpoint["averaged"])
        if self.ranks.first:  # the sums are of all processes
            self.totals.load(checkpoint["totals"])
        self.seconds_before = checkpoint["seconds"]
        self.training_seconds = checkpoint["training_seconds"]
        self.epoch_seconds_before = checkpoint["epoch_seconds"]
        changed = differences(checkpoint["environment"], self.environment)
        # DALI decodes the files of a folder alone; of other sets it is given pixels.
        by_means = ("compile", "dali") if self.config.dataset == "folder" else ("compile",)
        before, now = checkpoint["config"], self.config.to_json()
        changed += [f"{n} {now[n]} (was {before[n]})" for n in by_means if before.get(n, now[n]) != now[n]]
        if changed:
            self.report.note(
                "warning: not the machine, the versions or the means that the run was begun with, so its weights will "
                f"not be the same to the bit: {', '.join(changed)}"
            )

    def save(self) -> None:
        """Write a checkpoint, unless the run has gone wrong since the last one. For all processes to call."""
        self._check_finite()
        began = time.monotonic()
        self.folder.save_checkpoint(self.state(), self.config.keep_checkpoints)
        self.last_save = time.monotonic()
        self.save_seconds = self.last_save - began

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds; the tensors are the run's own. For all processes to call."""
        return {
            "config": self.config.to_json(),
            CLASSES: list(self.prepared.dataset.classes),
            NORMALIZATION: self.prepared.about.normalization,
            "data": self._data(),
            "step": self.step,
            "model": self.prepared.model.state_dict(),
            "optimizer": self.prepared.optimizer.state_dict(),
            "scaler": self.prepared.precision.scaler.state_dict(),
            "history": self.history,
            "watch": self.watch.state(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "totals": self.totals.state(self.ranks),
            "seconds": self._seconds(),
            "training_seconds": self.training_seconds,
            "epoch_seconds": self.epoch_seconds_before + time.monotonic() - self.epoch_started,
            "environment": self.environment,
        }

    def train(self, stop: StopRequest) -> None:
        """From the current step to the last."""
        config, prepared, ranks = self.config, self.prepared, self.ranks
        per_epoch = prepared.plan.steps_per_epoch
        last = config.epochs * per_epoch
        decisions = Decisions(ranks, self.step)
        self.folder.write_metrics(self.history)
        self.events.begin(self.history)
        self.report.note(headline(prepared, self.environment, self.step, self.folder.path))
        if prepared.features is not None:
            self.report.note(f"features: {prepared.features.source}")
        if self.report.show:
            self.report.note(said(self._cost()))
        self.report.start("training", last, self.step)
        prepared.model.train()
        for batch in self.batches(last):
            self.take(*batch)
            if self.step % per_epoch == 0:
                self._end_epoch()
            if self.step == last:
                self.training_seconds = self._seconds()
            if not decisions.due(self.step) and self.step != last:
                continue
            now = time.monotonic()
            # One clock decides for all processes; a signal may have reached any of them.
            read, save, number = decisions.largest(
                self.step,
                ranks.first and now - self.last_read >= READ_SECONDS,
                ranks.first and now - self.last_save >= max(config.checkpoint_seconds, self.save_seconds / SAVING),
                stop.number or 0,
            )
            if read:
                self._show_progress()
            if save or self.step == last:
                self.save()
            if number:
                self.report.finish()
                self.save()
                raise self._interrupted(number)

    def take(self, images: Tensor, labels: Tensor, unlabeled: tuple[Any, ...]) -> None:
        """The current step, on a batch of ``batches``."""
        plan = self.prepared.plan
        rate = learning_rate(self.config, self.step, plan.steps_per_epoch)
        if rate != self.rate:
            set_lr(self.prepared.optimizer, rate)
            self.rate = rate
        self.train_step(images, labels, self.step, plan.shard(self.step), *unlabeled)
        self.backlog.add()
        self.step += 1

    def batches(self, last: int) -> Iterator[tuple[Tensor, Tensor, tuple[Any, ...]]]:
        """Images and classes of the steps from here to ``last``, and what the step takes of images without classes."""
        labeled = self.prepared.loader.batches(self.step, last)
        if self.prepared.unlabeled is None:
            yield from ((images, labels, ()) for images, labels in labeled)
            return
        loader, plan = self.prepared.unlabeled
        steps = itertools.count(self.step)
        for (images, labels), (more, _), step in zip(labeled, loader.batches(self.step, last), steps, strict=False):
            yield images, labels, (more, plan.shard(step))

    def evaluate(self, stop: StopRequest) -> dict[str, Any]:
        """Write the weights, measure them and write the result."""
        config, prepared = self.config, self.prepared
        self.train_step.close()  # its memory is wanted
        release()
        images = prepared.dataset.test
        if config.eval_samples is not None:
            images = images.stratified(config.eval_samples)
        networks = self._networks()
        for which, (weights, _) in networks.items():
            self.folder.save_weights(weights, prepared.about, which)
        path = self.folder.path
        with said_with(
            f"the training is finished and its weights are kept in {path}: evaluate by fastait eval {path}, "
            f"or finish by fastait train --resume {path}, where there is more memory (--device)"
        ):
            measured = {}
            for which, (weights, found) in networks.items():
                with holding(prepared.model, None if which == "last" else weights):
                    measured[which] = {**found, **self._measure(images, stop)}
        result = {
            **measured["last"],
            "weights": "last",
            **{which: figures for which, figures in measured.items() if which != "last"},
            "test_images": len(images),
            "dataset": config.dataset,
            "method": config.method,
            "epsilon": config.epsilon,
            "seed": config.seed,
            "epochs": config.epochs,
            "network": config.model,
            "training_seconds": round(self.training_seconds or 0.0, 1),
            "wall_seconds": round(self._seconds(), 1),
            **self.environment,
        }
        self.report.finish()
        self.folder.save_result(result)
        self.events.result(result)
        return result

    def _networks(self) -> dict[str, tuple[dict[str, Tensor], dict[str, Any]]]:
        """{which: (weights, what is known of them)} of the finished run."""
        found: dict[str, tuple[dict[str, Tensor], dict[str, Any]]] = {"last": (self.prepared.model.state_dict(), {})}
        if self.watch.best is not None:
            best = dict(self.watch.best)
            found["best"] = best.pop("weights"), best
        if self.averaged is not None:
            found["ema"] = self.averaged.state_dict(), {}
        return found

    def _measure(self, images: ImageSet, stop: StopRequest) -> dict[str, float]:
        done = 0
        self.report.start("evaluating", units(len(images), tuple(ATTACKS), self.ranks))

        def advance(name: str, more: int) -> None:
            nonlocal done
            done += more
            self.report.update(done)

        def tick(part: str, standing: int) -> None:
            if stop.number is not None:
                self.report.finish()
                raise self._interrupted(stop.number)

        outcomes = evaluate(
            self.prepared.model,
            images,
            tuple(ATTACKS),
            epsilon=self.config.epsilon,
            seed=self.config.seed,
            advance=advance,
            tick=tick,
            note=self._warn,
            ranks=self.ranks,
        )
        return {name: round(accuracy, 2) for name, accuracy in outcomes.accuracy().items()}

    def _watch(self, epoch: int) -> dict[str, Any]:
        """What is measured after an epoch."""
        with said_with(
            f"it measured images after epoch {epoch}; checkpoints, if there were any, are kept: go on by fastait train "
            f"--resume {self.folder.path}, where there is more memory (--device)"
        ):
            found = self.watch.measure(epoch)
        if self.watch.collapsed == epoch and self.watch.before is not None:
            self.folder.save_weights(self.watch.before, self.prepared.about, "before-collapse")
        return found

    def _data(self) -> dict[str, Any]:
        dataset = self.prepared.dataset
        return {"images": len(dataset.train) + len(dataset.test), "checksum": self.prepared.data_checksum}

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def _end_epoch(self) -> None:
        self._check_finite()
        now = time.monotonic()
        totals = self.totals.state(self.ranks)
        seconds = self.epoch_seconds_before + now - self.epoch_started
        epoch = self.step // self.prepared.plan.steps_per_epoch
        record = {
            "epoch": epoch,
            "step": self.step,
            "lr": learning_rate(self.config, self.step - 1, self.prepared.plan.steps_per_epoch),
            "loss": totals["loss"] / totals["seen"],
            "accuracy": 100 * totals["correct"] / totals["seen"],
            "images": totals["seen"],
            **gradient_shares(totals),
            "images_per_second": round(totals["seen"] / seconds, 1),
            "seconds": round(seconds, 3),
            **self._watch(epoch),
        }
        self.history.append(record)
        self.folder.write_metrics(self.history)
        self.events.epoch(record, self.prepared.model)
        line = (
            f"epoch {epoch}/{self.config.epochs}  loss {record['loss']:.4f}  training accuracy "
            f"{record['accuracy']:.1f} %  {_rate(record['images_per_second'])}"
        )
        line += self.watch.said(record)
        self.report.note(line)
        if warning := without_gradients(totals, epoch):
            self.report.note(warning)
        self.totals.reset()
        self.epoch_seconds_before = 0.0
        self.epoch_started = time.monotonic()

    def _show_progress(self) -> None:
        self._check_finite()
        self.last_read = time.monotonic()
        totals = self.totals.state(self.ranks)
        if totals["seen"]:
            speed = totals["seen"] / (self.epoch_seconds_before + self.last_read - self.epoch_started)
            self.report.update(
                self.step,
                f"epoch {self.step // self.prepared.plan.steps_per_epoch + 1}/{self.config.epochs}",
                f"loss {totals['loss'] / totals['seen']:.3f}  accuracy {100 * totals['correct'] / totals['seen']:.1f} %"
                f"  {_rate(speed)}",
            )

    def failure(self) -> Failure | None:
        """The first step in which a number went wrong, if one did. For all processes to call; waits for the device."""
        found = self.train_step.failure()
        return None if found is None else Failure.of(*found, self.prepared.plan.steps_per_epoch)

    def _check_finite(self) -> None:
        failure = self.failure()
        if failure is not None and not self.ranks.first:
            raise SaidElsewhere(RunError.exit_code)
        if failure is not None:
            raise failed(failure, self.folder, self.config.lr)

    def _interrupted(self, number: int) -> FastaitError:
        if not self.ranks.first:
            return SaidElsewhere(128 + number)
        return Interrupted(
            f"stopped at step {self.step} and saved; go on with: fastait train --resume {self.folder.path}",
            number,
        )

    def _cost(self) -> Cost:
        prepared, config = self.prepared, self.config
        size = {"image_size": config.image_size, "batch_size": config.batch_size}
        return step_cost(prepared.model, METHODS[config.method], prepared.settings, prepared.features, **size)
