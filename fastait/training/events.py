"""A run as TensorBoard shows it: scalars of each epoch, a few images under attack, the final table."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastait.attacks import ATTACKS
from fastait.config import TrainConfig
from fastait.data import ImageSet
from fastait.data.picture import change
from fastait.runtime.errors import InputError, RunError
from fastait.runtime.precision import full_precision
from fastait.runtime.randomness import derive
from fastait.runtime.report import AUTOATTACK_CAVEAT, COLUMNS, result_rows
from fastait.training.watch import WATCHED

FOLDER = "tensorboard"
"""In the run folder."""

IMAGES = 8
"""Test images that are shown, classes in proportion."""

_PARTS = {
    "val_ema_": "held out, averaged weights",
    "val_": "held out",
    "train_": "training images",
    "zero_": "gradients",
    "nan_": "gradients",
    "images_per_": "speed",
    "seconds": "speed",
}
"""Where TensorBoard shows a figure, by how its key begins; the others are the training's."""

_NO_FIGURES = ("epoch", "step", "images", "val_images", "train_images")


def available() -> None:
    """Raise an InputError unless TensorBoard's writer is there; it says what to install."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--tensorboard needs the package tensorboard, which cannot be imported ({error}); install it with "
            "pip install 'fastait[tensorboard]'"
        ) from None


class Events:
    """Writes what ``metrics.jsonl`` has, and a little more, into ``tensorboard/`` of a run folder, if asked to.

    What an earlier start of the run wrote there is replaced by its history: so no reader of the files sees an epoch
    twice, whatever was written after the checkpoint that the run goes on from. A TensorBoard that is open drops what it
    has read of them.

    Args:
        folder: the run folder.
        config: of the run.
        images: the test set.
        first: whether this is the first of the run's processes, the one that writes.

    Raises:
        RunError: from each of its functions, the files cannot be written.
    """

    def __init__(self, folder: Path, config: TrainConfig, images: ImageSet, first: bool):
        self.writes = config.tensorboard and first
        self.folder = folder / FOLDER
        self.config = config
        self.images = images
        self.writer: Any = None

    def begin(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write the epochs that the run has behind it."""
        if not self.writes:
            return
        from torch.utils.tensorboard import SummaryWriter

        with self._written():
            for file in self.folder.glob("events.out.tfevents.*"):
                file.unlink()
            self.writer = SummaryWriter(str(self.folder), purge_step=1)
            left = sum(record["seconds"] for record in history)
            now = time.time()
            for record in history:
                left -= record["seconds"]
                self._scalars(record, now - left)
            self.writer.flush()

    def epoch(self, record: Mapping[str, Any], model: nn.Module) -> None:
        """An epoch of ``metrics.jsonl``, and what PGD-10 makes of a few test images."""
        if not self.writes:
            return
        with self._written():
            self._scalars(record, time.time())
            self.writer.add_image(f"{WATCHED}: clean, moved, difference", self._moved(model), record["epoch"])
            self.writer.flush()

    def result(self, result: Mapping[str, Any]) -> None:
        """The final table."""
        if not self.writes:
            return
        lines = ["| weights | " + " | ".join(COLUMNS.values()) + " |", "| --- |" + " ---: |" * len(COLUMNS)]
        for which, row in result_rows(result).items():
            lines.append(f"| {which} | " + " | ".join(f"{row[key]:.1f}" for key in COLUMNS) + " |")
        title = f"Accuracy in %, {result['test_images']} test images of {result['dataset']}, {result['method']}"
        with self._written():
            self.writer.add_text("result", "\n".join([title, "", *lines, "", AUTOATTACK_CAVEAT]), self.config.epochs)
            self.writer.flush()

    def close(self) -> None:
        """End the writer's thread."""
        if self.writer is not None:
            with self._written():
                self.writer.close()

    def _scalars(self, record: Mapping[str, Any], at: float) -> None:
        for key, value in record.items():
            if key not in _NO_FIGURES:
                part = next((part for start, part in _PARTS.items() if key.startswith(start)), "training")
                self.writer.add_scalar(f"{part}/{key}", float(value), record["epoch"], walltime=at)

    def _moved(self, model: nn.Module) -> Tensor:
        """float [3, 3 H, n W]: the images, these under attack, and the difference, amplified around grey."""
        weight, epsilon = next(model.parameters()), self.config.epsilon
        images = self.images.stratified(min(IMAGES, len(self.images)))
        x = images.floats(torch.arange(len(images), device="cpu"), weight.device)
        y = images.labels.to(weight.device)
        generator = torch.Generator(weight.device).manual_seed(derive(self.config.seed, "events"))
        attack: Any = ATTACKS[WATCHED]
        with full_precision(weight.device):
            moved = attack(model, x, y, epsilon=epsilon, step_size=epsilon / 4 or 2 / 255, generator=generator)
        rows = torch.stack([x, moved, change(moved, x, epsilon)])  # kinds, n, 3, H, W
        kinds, n, channels, height, width = rows.shape
        return rows.permute(2, 0, 3, 1, 4).reshape(channels, kinds * height, n * width).clamp(0, 1).cpu()

    @contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"{self.folder} could not be written: {error.strerror or error}; go on by --resume, without "
                "--tensorboard if need be"
            ) from None
