"""Networks trained where they are missing, and figures measured where they are missing."""

import io
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import closing, redirect_stdout
from dataclasses import replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from fastait.attacks import RandomSignNoise
from fastait.checkpoints.folder import WEIGHTS, RunFolder
from fastait.config import PLACES, TrainConfig
from fastait.data import Dataset, ImageSet, load_dataset, load_unlabeled
from fastait.evaluation.evaluate import evaluate, units
from fastait.evaluation.journal import FileJournal, images_checksum
from fastait.evaluation.model_files import load_model
from fastait.evaluation.outcomes import Outcomes
from fastait.evaluation.progress import Effort
from fastait.models import feature_function, make
from fastait.reproduction import attempts
from fastait.reproduction.images import Datasets
from fastait.reproduction.points import Point, point_name
from fastait.reproduction.standing import ANYWHERE, Standing, journal_folder
from fastait.reproduction.systems import Choices
from fastait.runtime.claims import Claim, Worker
from fastait.runtime.errors import InputError, Interrupted
from fastait.runtime.files import checked, json_of, write_whole
from fastait.runtime.hardware import environment
from fastait.runtime.memory import said_with
from fastait.runtime.precision import current, resolve_device
from fastait.runtime.report import Report
from fastait.runtime.signals import StopRequest
from fastait.training.networks import black
from fastait.training.prepare import check_method, checksum_of_all
from fastait.training.run import resume_training, run_training

CHOSEN = tuple(name for name in PLACES if name not in ("out", "init_from"))
"""Settings that the user may choose anew for runs that are not finished."""


class Bench:
    """Trains and measures what one seed needs, each thing once.

    Args:
        choices: of the user, with one seed.
        report: where notes and progress go.
        worker: this process.
        standing: what is there.
        datasets: that several seeds share.

    Attributes:
        network: a system's network, whose run is finished, on the device.
        warn: says a line, once if several evaluations say the same.

    Raises:
        InputError: there is no such device.
    """

    def __init__(
        self,
        choices: Choices,
        report: Report,
        worker: Worker,
        standing: Standing,
        datasets: Datasets,
    ):
        self.choices = choices
        self.report = report
        self.worker = worker
        self.standing = standing
        self.device = resolve_device(choices.device)
        self.environment = environment(self.device)
        self.network = lru_cache(maxsize=2)(self._network)  # of a point, with its surrogate
        self.datasets = datasets
        self.warn = cache(lambda text: report.note(f"warning: {text}"))

    def train(self, system: str, claim: Claim) -> None:
        """Train a system under a claim on it, from where the last attempt was, and give the run its name.

        Raises:
            InputError, RunError: as ``run_training``.
            Interrupted: a signal that asks for an end; what is done is saved.
            Lost: the claim was taken over.
        """
        config, run = self.choices.config(system), self.choices.run(system)
        claim.progress = partial(_epochs, attempt := attempts.new(run, claim.number, self.worker.name), config.epochs)
        with checked(claim.check):
            if self.choices.needs_unlabeled(system) and self.choices.unlabeled is None:
                self._unlabeled(config)
            source = attempts.take_over(run)
            self.report.note(f"{run.name}: training {'goes on' if source else 'begins'}")
            if source is not None and attempts.finished(source):
                attempt = source  # whose worker ended before it had its name
            else:
                self._train(config, run, source, attempt)
            attempts.publish(attempt, run)

    def _train(self, config: TrainConfig, run: Path, source: Path | None, attempt: Path) -> None:
        chosen = {name: getattr(config, name) for name in CHOSEN}
        if self.choices.may_call(config.model):
            chosen["model"] = config.model
        try:
            # What a run prints at its end is its own small evaluation, which is no part of a table.
            with redirect_stdout(io.StringIO()):
                if source is None:
                    run_training(replace(config, out=attempt), show=self.report.show)
                else:
                    attempts.forget_before(source, run)
                    resume_training(source, show=self.report.show, out=attempt, **chosen)
        except Interrupted as error:
            raise self.interrupted(error.exit_code - 128) from None

    def _network(self, system: str) -> nn.Module:
        path = self.choices.run(system) / WEIGHTS[self.choices.weights(system)]
        network, _ = load_model(path, model=self.choices.config(system).model)
        return network.to(self.device).to(memory_format=torch.channels_last)

    def images(self, point: Point) -> ImageSet:
        """The test images that a point is measured on."""
        config = self.choices.config(point.system)
        test = self.datasets.of(config).test
        wanted = self.choices.test_images(point.system, point.black_box)
        return test if wanted >= len(test) else test.stratified(wanted)

    def measure(self, point: Point, attacks: list[str], claim: Claim) -> None:
        """Find what is not known of a point under a claim on it; finished batches are in the journal.

        Raises:
            InputError, RunError: as ``evaluate``; the journal's folder cannot be used.
            Interrupted: a signal that asks for an end; finished batches are kept.
            Lost: the claim was taken over.
        """
        heading = point_name(self.choices, point)
        effort, done = Effort(), 0
        claim.progress = lambda: {"doing": f"{effort.part}, {effort.standing} images stand", "left": effort.seconds}
        self.report.start(heading, units(len(self.images(point)), attacks))

        def advance(attack: str, images: int) -> None:
            nonlocal done
            done += images
            self.report.update(done, f"{heading}: {attack}")

        with StopRequest() as stop, said_with(f"finished batches are kept, go on with {self.choices.again}"):

            def tick(part: str, standing: int) -> None:
                if stop.number is not None:
                    raise self.interrupted(stop.number)

            try:
                with closing(self.journal(claim.check)) as journal:
                    self._evaluate(point, attacks, journal, effort=effort, advance=advance, tick=tick)
            finally:
                self.report.finish()

    def journal(self, check: Callable[[], None] = lambda: None) -> FileJournal:
        """What all workers remember, of any seed, and where this one writes; it reads them all."""
        return FileJournal(journal_folder(self.choices), self.worker.name, ANYWHERE, check)

    def outcomes(self, point: Point, attacks: Sequence[str], journal: FileJournal) -> Outcomes:
        """What is known of each image of a point that is ``complete``: nothing is attacked."""
        return self._evaluate(point, attacks, journal)

    def _evaluate(self, point: Point, attacks: Sequence[str], journal: FileJournal, **options: Any) -> Outcomes:
        network, images = self.network(point.system), self.images(point)
        surrogate = None if point.surrogate is None else self.network(point.surrogate)
        here = {name: self.environment[name] for name in ANYWHERE}
        with current(self.device):
            return evaluate(
                RandomSignNoise(network, point.epsilon).eval() if point.noisy else network,
                images,
                attacks,
                epsilon=point.epsilon,
                step_size=self.choices.step_size,
                seed=self.choices.seed,
                surrogate=surrogate,
                journal=journal.of(
                    **self.standing.subject(point), **here, n=len(images), images=images_checksum(images)
                ),
                note=self.warn,
                **options,
            )

    def _unlabeled(self, config: TrainConfig) -> None:
        write_unlabeled(self.datasets.of(config), self.choices.folder / "unlabeled")

    def interrupted(self, number: int) -> Interrupted:
        """What is raised where the signal ``number`` stopped the work."""
        self.report.finish()
        return Interrupted(f"stopped; what is done is kept, go on with {self.choices.again}", number)


def _epochs(attempt: Path, epochs: int) -> dict[str, Any]:
    """How far a training is, as a claim says it."""
    try:
        seconds = [json_of(line)["seconds"] for line in (attempt / "metrics.jsonl").read_bytes().splitlines()]
        left = sum(seconds) / len(seconds) * (epochs - len(seconds)) if seconds else None
    except (OSError, TypeError, ValueError, LookupError):
        seconds, left = [], None
    return {"doing": f"{len(seconds)} of {epochs} epochs", "left": left}


def check_system(system: str, choices: Choices) -> None:
    """Refuse, before any long work, a system that cannot be trained as asked.

    Raises:
        InputError: a setting is out of its range, its run was begun with other settings, or the images without labels
            are missing, bad or too few.
    """
    config, folder = choices.config(system), attempts.begun(choices.run(system))
    unlabeled = None
    if choices.needs_unlabeled(system) and choices.unlabeled is not None:
        images, unlabeled, _ = load_unlabeled(choices.unlabeled, config.image_size)
        if len(images) < config.batch_size:
            raise InputError(f"--unlabeled {choices.unlabeled} holds {len(images)} images, a batch {config.batch_size}")
    if folder is None:
        config.check()
        return
    try:
        _refuse_other_settings(RunFolder(folder), config, unlabeled)
    except InputError:
        if folder.exists():
            raise
        check_system(system, choices)  # an attempt that has got its run's name meanwhile


def check_networks(systems: Iterable[str], choices: Choices, attacked: Container[str] = ()) -> None:
    """Refuse, before any long work, a network of the user's choice that a system cannot be trained with.

    Args:
        systems: that are to be trained.
        choices: of the user, the network among them.
        attacked: those that will be attacked in feature space.

    Raises:
        InputError: there is no such network, it cannot be mixed where a method does so, or it has no features.
    """
    made: dict[tuple[str, str, int], nn.Module] = {}
    for system in systems:
        config = choices.config(system)
        images = config.model, config.dataset, config.image_size
        if images not in made:
            classes = choices.classes(system)
            made[images] = make(
                config.model, classes, image_size=config.image_size, generator_seed=None, allow_own=True
            )
        sample = black(config.image_size)
        check_method(made[images], config.model, config.method, sample)
        if system in attacked:
            feature_function(made[images], sample)


def write_unlabeled(dataset: Dataset, folder: Path) -> None:
    """The training images of ``dataset`` as PNGs, without their labels; those that are there are left."""
    assert isinstance(dataset.train, ImageSet)
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(dataset.train.images):
        path = folder / f"{i:05d}.png"
        if not path.exists():
            buffer = io.BytesIO()
            Image.fromarray(image.numpy()).save(buffer, "PNG")
            write_whole(path, buffer.getbuffer(), shared=True)


def _refuse_other_settings(folder: RunFolder, config: TrainConfig, unlabeled: str | None) -> None:
    """Raise an InputError unless the run in ``folder`` is one of ``config``.

    ``unlabeled`` is the checksum of the images without labels, if the user names some.
    """
    saved, asked = folder.config().to_json(), config.to_json()
    changed = [key for key in asked if key not in PLACES and saved[key] != asked[key]]
    if saved["unlabeled"] != asked["unlabeled"]:
        # They may have been moved; the small scale's own with the folder that they lie in.
        own = unlabeled is None and saved["unlabeled"] and _end(saved["unlabeled"]) == _end(asked["unlabeled"])
        if not own and not _trained_on(folder, config, unlabeled):
            changed.append("unlabeled")
    if changed:
        what = ", ".join(f"{key} {saved[key]} (now {asked[key]})" for key in changed)
        raise InputError(f"{folder.path} was trained with {what}; choose another --out")


def _trained_on(folder: RunFolder, config: TrainConfig, unlabeled: str | None) -> bool:
    """Whether the run in ``folder`` has come to a checkpoint, with these images without labels."""
    checkpoint = folder.load_checkpoint()
    if checkpoint is None or unlabeled is None:
        return False
    dataset = load_dataset(config.dataset, config.data_dir, config.image_size)
    return checkpoint["data"]["checksum"] == checksum_of_all(dataset.checksum, unlabeled)


def _end(path: str) -> tuple[str, ...]:
    return Path(path).parts[-2:]
