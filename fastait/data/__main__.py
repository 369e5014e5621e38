"""``fastait data NAME``: what a data set holds, as a table and as a picture."""

if __name__ == "__main__":  # before the rest is imported, so that Ctrl-C meanwhile is one line
    from fastait.__main__ import end_as

    end_as("data")

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fastait.config import DATASETS, TrainConfig, parquet_settings
from fastait.data.dataset import Dataset, ImageSet
from fastait.data.picture import picture
from fastait.data.plan import BatchPlan
from fastait.data.sources import load_dataset
from fastait.recipes import RECIPES
from fastait.runtime import cli
from fastait.runtime.console import say, show_table
from fastait.runtime.errors import InputError, check_choice, one_line
from fastait.runtime.files import write_whole
from fastait.runtime.memory import said_with
from fastait.runtime.settings import normalise
from fastait.runtime.threads import set_threads

COMMAND = "fastait data"
SUMMARY = (
    "Show what a data set holds: images per class, their sizes and values, and a picture of samples of every class, as "
    "stored and as the first epoch of a run augments them."
)


MOST_LISTED = 2000
"""Classes that are listed one by one."""


@dataclass(frozen=True)
class DataArguments:
    """What to show."""

    dataset: str = "digits"
    """digits, cifar10, cifar100, svhn, folder or parquet."""

    data_dir: Path | None = field(default=None, kw_only=True)
    """Where it lies or is downloaded to. [default: ./data; required for folder and parquet]"""

    image_column: str | None = field(default=None, kw_only=True)
    """Column of parquet files that holds the images. [default: img or image]"""

    label_column: str | None = field(default=None, kw_only=True)
    """Column of parquet files that holds the labels. [default: label or fine_label]"""

    train_files: str | None = field(default=None, kw_only=True)
    """Pattern of the names, or of the ends of the paths, of the training files. [default: train*.parquet]"""

    test_files: str | None = field(default=None, kw_only=True)
    """Pattern of the test files. [default: test*.parquet; where there is none, validation*.parquet]"""

    cache_dir: Path | None = field(default=None, kw_only=True)
    """Folder that decoded images are kept in. [default: what FASTAIT_CACHE names, or one beside the images]"""

    image_size: int = field(default=32, kw_only=True)
    """Height and width that images are brought to."""

    skip_bad_images: bool = field(default=False, kw_only=True)
    """Leave images that are unreadable, too small or of no class out, counted and listed, instead of refusing."""

    crop_padding: int | None = field(default=None, kw_only=True)
    """Padding of the random crops. [default: the recipe's of this name, 4 for folder and parquet]"""

    flip: bool | None = field(default=None, kw_only=True)
    """Random horizontal flips. [default: the recipe's of this name, yes for folder and parquet]"""

    seed: int = field(default=0, kw_only=True)
    """Seed of the run whose augmentation is shown."""

    out: Path | None = field(default=None, kw_only=True)
    """The picture's file. [default: NAME.png]"""

    def __post_init__(self) -> None:
        normalise(self)

    def config(self) -> TrainConfig:
        """The settings of a run that would train on the set so."""
        usual = RECIPES[self.dataset if self.dataset in RECIPES else "cifar10"]
        return TrainConfig(
            dataset=self.dataset,
            data_dir=self.data_dir,
            **parquet_settings(self),
            cache_dir=self.cache_dir,
            image_size=self.image_size,
            skip_bad_images=self.skip_bad_images,
            crop_padding=usual.get("crop_padding", 0) if self.crop_padding is None else self.crop_padding,
            flip=usual.get("flip", False) if self.flip is None else self.flip,
            seed=self.seed,
        )


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return cli.run(COMMAND, _main, argv)


def _main(argv: list[str]) -> None:
    arguments = cli.parse(COMMAND, DataArguments(), argv, SUMMARY)
    check_choice("NAME", arguments.dataset, DATASETS)
    config = arguments.config()
    config.check()
    set_threads()
    with said_with("a smaller --image-size may help"):
        _show_all(config, arguments.out)


def _show_all(config: TrainConfig, out: Path | None) -> None:
    dataset = load_dataset(
        config.dataset,
        config.data_dir,
        config.image_size,
        skip_bad=config.skip_bad_images,
        **parquet_settings(config),
        cache_dir=config.cache_dir,
        note=lambda text: say(text, error=True),
    )
    _show(dataset)
    plan = BatchPlan(config.seed, len(dataset.train), len(dataset.train), config.crop_padding, config.flip)
    out = out or Path(f"{one_line(dataset.name)}.png")
    _write(picture(dataset, plan), out)
    say(f"Samples of each class: {one_line(out)}", error=True)


def _write(image: Image.Image, out: Path) -> None:
    """Write a picture whole, in the format that the ending of ``out`` names.

    Raises:
        InputError: it names none that pictures are written in, or the folder is not there.
        NotWritten: the disk is full or the file cannot be written.
    """
    kind = Image.registered_extensions().get(out.suffix.lower())
    if kind not in Image.SAVE:
        raise InputError(f"--out {out} cannot be written: unknown file extension: {out.suffix}")
    if not out.parent.is_dir():
        raise InputError(f"--out {out} cannot be written: there is no folder {out.parent}")
    data = io.BytesIO()
    try:
        image.save(data, kind)
    except (OSError, ValueError) as error:  # formats of other pictures, or too small ones
        raise InputError(f"--out {out} cannot be written: {error}") from None
    write_whole(out, data.getbuffer())


def _show(dataset: Dataset) -> None:
    parts = [dataset.train, dataset.test]
    counts = [torch.bincount(part.labels, minlength=len(dataset.classes)).tolist() for part in parts]
    lines = [
        [str(label), one_line(name), *(str(count[label]) for count in counts)]
        for label, name in enumerate(dataset.classes[:MOST_LISTED])
    ]
    if more := len(dataset.classes) - len(lines):
        lines.append(["", f"{more} more", *(str(sum(count[MOST_LISTED:])) for count in counts)])
    lines.append(["", "all", *(str(len(part)) for part in parts)])
    title = f"{one_line(dataset.name)}: images per class"
    show_table(["label", "class", "train", "test"], lines, title=title, words=(1,))
    sizes = [f"{size} ({count})" for size, count in dataset.sizes.items()]
    others = f" and {len(sizes) - 5} other sizes" if len(sizes) > 5 else ""
    say(f"stored as width x height (images): {', '.join(sizes[:5])}{others}")
    assert isinstance(dataset.train, ImageSet)
    say(_values(dataset.train))
    say(f"checksum of classes, labels and pixels: {dataset.checksum}")
    if dataset.skipped:
        say(f"left out: {len(dataset.skipped)} images")
        for line in dataset.skipped:
            say(f"  {line}")


def _values(images: ImageSet) -> str:
    """Range, mean and standard deviation of each channel of the training images as they are used, in [0, 1]."""
    text = []
    values = np.arange(256) / 255
    for channel, name in enumerate(("red", "green", "blue")):
        histogram = sum(
            np.bincount(part[..., channel].numpy().ravel(), minlength=256) for part in images.images.split(1024)
        )
        present = values[histogram > 0]
        mean = float(np.average(values, weights=histogram))
        std = float(np.sqrt(np.average((values - mean) ** 2, weights=histogram)))
        text.append(f"{name} {present[0]:.3f} to {present[-1]:.3f}, mean {mean:.3f}, std {std:.3f}")
    height, width = images.images.shape[1:3]
    return f"training images as used, {width}x{height}, values in [0, 1]: {'; '.join(text)}"
