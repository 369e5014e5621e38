"""Networks trained where they are missing, and figures measured where they are missing."""

import io
from collections.abc import Container, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from fastait.attacks import RandomSignNoise
from fastait.checkpoints.folder import WEIGHTS, RunFolder
from fastait.config import PLACES, TrainConfig
from fastait.data import Dataset, ImageSet, load_dataset, load_unlabeled
from fastait.evaluation.entrants import code_of
from fastait.evaluation.evaluate import evaluate, units
from fastait.evaluation.journal import FileJournal, images_checksum, weights_checksum
from fastait.evaluation.model_files import load_model
from fastait.models import feature_function, make
from fastait.models.names import parse
from fastait.reproduction.grids import CLEAN, Cell
from fastait.reproduction.systems import DATA_SIZES, SYSTEMS, Choices, needs_unlabeled
from fastait.runtime.errors import InputError, Interrupted
from fastait.runtime.files import write_whole
from fastait.runtime.hardware import environment
from fastait.runtime.memory import said_with
from fastait.runtime.precision import current, resolve_device
from fastait.runtime.report import Report
from fastait.runtime.signals import StopRequest
from fastait.runtime.version import __version__
from fastait.training.networks import black
from fastait.training.prepare import check_method, checksum_of_all
from fastait.training.run import TrainResult, resume_training, run_training

CHOSEN = ("data_dir", "unlabeled", "device", "dali")
"""Settings that the user chooses for all runs, and may choose anew for those that are not finished."""


@dataclass(frozen=True)
class Measured:
    """How many of ``n`` images are classified correctly."""

    correct: int
    n: int

    @property
    def accuracy(self) -> float:
        """In percent."""
        return 100 * self.correct / self.n


@dataclass(frozen=True)
class Point:
    """What is measured in one call: the cells of a point differ in their attacks only."""

    system: str
    epsilon: float
    surrogate: str | None
    noisy: bool
    black_box: bool


def points(cells: Iterable[Cell]) -> dict[Point, list[str]]:
    """The attacks of each point, without ``clean``, which is measured with any."""
    found: dict[Point, list[str]] = {}
    for cell in cells:
        attacks = found.setdefault(_point(cell), [])
        if cell.attack not in (*attacks, CLEAN):
            attacks.append(cell.attack)
    return found


def _point(cell: Cell) -> Point:
    return Point(cell.system, cell.epsilon, cell.surrogate, cell.noisy, cell.black_box)


class Bench:
    """Trains and measures, each thing once.

    Args:
        choices: of the user.
        report: where notes and progress go.

    Attributes:
        trained: a system's finished run; trains it, or goes on with it, where it is not finished.
        network: a system's network, on the device.
        dataset: by name and image size.
        checksum: of a system's network.
        warn: says a line, once if several evaluations say the same.

    Raises:
        InputError: there is no such device.
    """

    def __init__(self, choices: Choices, report: Report):
        self.choices = choices
        self.report = report
        self.device = resolve_device(choices.device)
        self.environment = environment(self.device)
        self.trained = cache(self._trained)
        self.network = cache(self._network)
        self.dataset = cache(self._dataset)
        self.warn = cache(lambda text: report.note(f"warning: {text}"))
        self.checksum = cache(lambda system: checksum(self.network(system), choices.config(system).model))

    def _trained(self, system: str) -> TrainResult:
        """The finished run of a system, which is trained, or gone on with, where it is not finished."""
        config, folder = self.choices.config(system), RunFolder(self.choices.run(system))
        if needs_unlabeled(system) and self.choices.unlabeled is None:
            write_unlabeled(self.dataset(config.dataset, config.image_size), self.choices.folder / "unlabeled")
        begun, finished = RunFolder.begun(folder.path), folder.result_file.is_file()
        if not finished:
            self.report.note(f"{system}: training {'goes on' if begun else 'begins'}")
        show = self.report.show and not finished
        chosen = {} if finished else {name: getattr(config, name) for name in CHOSEN}
        if self.choices.model is not None:  # which lets a function of the user's own be called again
            chosen["model"] = config.model
        try:
            # What a run prints at its end is its own small evaluation, which is no part of a table.
            with redirect_stdout(io.StringIO()):
                if begun:
                    return resume_training(folder.path, show=show, **chosen)
                return run_training(config, show=show)
        except Interrupted as error:
            raise self.interrupted(error.exit_code - 128) from None

    def _network(self, system: str) -> nn.Module:
        network, which = self.trained(system).model, SYSTEMS[system].weights
        if which != "last":
            path = self.choices.run(system) / WEIGHTS[which]
            network = load_model(path, model=self.choices.config(system).model)[0]
        return network.to(self.device).to(memory_format=torch.channels_last)

    def _dataset(self, name: str, image_size: int) -> Dataset:
        return load_dataset(name, self.choices.data_dir, image_size, note=self.report.note)

    def images(self, point: Point) -> ImageSet:
        """The test images that a point is measured on."""
        scale, config = self.choices.scale, self.choices.config(point.system)
        test = self.dataset(config.dataset, config.image_size).test
        wanted = scale.black_box_images if point.black_box else scale.images
        return test if wanted is None or wanted >= len(test) else test.stratified(wanted)

    def measure(self, cells: Iterable[Cell], heading: str) -> dict[Cell, Measured]:
        """The figures of ``cells``; those whose system lacks images are left out.

        Raises:
            InputError, RunError: as ``run_training``; the journal's folder cannot be used.
            Interrupted: a signal that asks for an end (``runtime.signals``); finished batches are kept.
        """
        cells = [cell for cell in cells if not self.choices.lacks_images(cell.system)]
        asked = points(cells)
        for point in asked:
            for system in filter(None, (point.system, point.surrogate)):
                self.network(system)
        done = 0
        found: dict[Cell, Measured] = {}
        self.report.start(heading, sum(units(len(self.images(point)), attacks) for point, attacks in asked.items()))
        try:
            with (
                StopRequest() as stop,
                current(self.device),
                said_with(f"finished batches are kept, go on with the same command and --out {self.choices.out}"),
            ):
                for point, attacks in asked.items():

                    def advance(attack: str, images: int, point: Point = point) -> None:
                        nonlocal done
                        done += images
                        self.report.update(done, f"{heading}: {point.system}, {attack}")

                    def tick(part: str, standing: int) -> None:
                        if stop.number is not None:
                            raise self.interrupted(stop.number)

                    correct = self._evaluate(point, attacks, advance, tick)
                    found.update(
                        (cell, Measured(int(correct[cell.attack].sum()), len(correct[cell.attack])))
                        for cell in cells
                        if _point(cell) == point
                    )
        finally:
            self.report.finish()
        return found

    def _evaluate(self, point: Point, attacks: list[str], advance: Any, tick: Any) -> dict[str, torch.Tensor]:
        network, images = self.network(point.system), self.images(point)
        surrogate = None if point.surrogate is None else self.network(point.surrogate)
        return evaluate(
            RandomSignNoise(network, point.epsilon).eval() if point.noisy else network,
            images,
            attacks,
            epsilon=point.epsilon,
            step_size=self.choices.scale.step_size,
            seed=self.choices.seed,
            surrogate=surrogate,
            journal=self._journal.of(
                **subject(
                    self.checksum(point.system),
                    point.surrogate and self.checksum(point.surrogate),
                    point,
                    len(images),
                    self.environment,
                ),
                images=images_checksum(images),
            ),
            advance=advance,
            tick=tick,
            note=self.warn,
        ).correct

    @cached_property
    def _journal(self) -> FileJournal:
        return FileJournal(journal_folder(self.choices))

    def interrupted(self, number: int) -> Interrupted:
        """What is raised where the signal ``number`` stopped the work."""
        self.report.finish()
        return Interrupted(
            f"stopped; what is done is kept, go on with the same command and --out {self.choices.out}", number
        )


def check_system(system: str, choices: Choices) -> None:
    """Refuse, before any long work, a system that cannot be trained as asked.

    Raises:
        InputError: a setting is out of its range, its run was begun with other settings, or the images without labels
            are missing, bad or too few.
    """
    config, folder = choices.config(system), choices.run(system)
    unlabeled = None
    if needs_unlabeled(system) and choices.unlabeled is not None:
        images, unlabeled, _ = load_unlabeled(choices.unlabeled, config.image_size)
        if len(images) < config.batch_size:
            raise InputError(f"--unlabeled {choices.unlabeled} holds {len(images)} images, a batch {config.batch_size}")
    if RunFolder.begun(folder):
        _refuse_other_settings(RunFolder(folder), config, unlabeled)
    else:
        config.check()


def check_networks(systems: Iterable[str], choices: Choices, attacked: Container[str] = ()) -> None:
    """Refuse, before any long work, a network of the user's choice that a system cannot be trained with.

    Args:
        systems: that are to be trained.
        choices: of the user, the network among them.
        attacked: those that will be attacked in feature space.

    Raises:
        InputError: there is no such network, it cannot be mixed where a method does so, or it has no features.
    """
    made: dict[tuple[str, int], nn.Module] = {}
    for system in systems:
        config = choices.config(system)
        images = config.dataset, config.image_size
        if images not in made:
            classes = DATA_SIZES[config.dataset].classes
            made[images] = make(
                config.model, classes, image_size=config.image_size, generator_seed=None, allow_own=True
            )
        sample = black(config.image_size)
        check_method(made[images], config.model, config.method, sample)
        if system in attacked:
            feature_function(made[images], sample)


def journal_folder(choices: Choices) -> Path:
    """Where outcomes are remembered."""
    return choices.folder / "outcomes"


def checksum(network: nn.Module, name: str) -> str:
    """Of the weights of the network called ``name``, and of what makes it, where that is not of this package."""
    code = code_of(parse(name), network)
    return weights_checksum(network) + (f" by {code}" if code else "")


def subject(
    weights: str, surrogate: str | None, point: Point, images: int, environment: dict[str, Any]
) -> dict[str, Any]:
    """What identifies outcomes in the journal, besides the images and what ``evaluate`` adds.

    Args:
        weights, surrogate: checksums.
        images: how many.
        environment: of ``fastait.runtime.hardware``: figures are only taken over from where they are said to come from.
    """
    return {
        "model": weights,
        "surrogate": surrogate,
        "noise": point.epsilon if point.noisy else None,
        "n": images,
        "fastait": __version__,
        "torch": environment["torch"],
        "device": environment["device"],
    }


def write_unlabeled(dataset: Dataset, folder: Path) -> None:
    """The training images of ``dataset`` as PNGs, without their labels; those that are there are left."""
    assert isinstance(dataset.train, ImageSet)
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(dataset.train.images):
        path = folder / f"{i:05d}.png"
        if not path.exists():
            buffer = io.BytesIO()
            Image.fromarray(image.numpy()).save(buffer, "PNG")
            write_whole(path, buffer.getbuffer())


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
