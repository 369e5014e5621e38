"""Images: clean, perturbed, and what was added to them, amplified."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from fastait.data.picture import change
from fastait.report.compared import Entry
from fastait.report.eval_files import Examples
from fastait.runtime.report import epsilon_text

SHOWN = 8
"""Images of each kind; half as many of those that are larger than ``SMALL`` pixels."""

SMALL, LARGEST = 64, 128
"""Pixels: larger images than the second are shown at that size."""


@dataclass(frozen=True)
class Picture:
    """An image before and after, as addresses of data.

    Attributes:
        clean, perturbed, difference: PNG.
        place: in the test set.
        label, before, after: its class and what the model takes it for.
        fooled: whether it is taken for another class after, but not before.
    """

    clean: str
    perturbed: str
    difference: str
    place: int
    label: str
    before: str
    after: str
    fooled: bool


@dataclass(frozen=True)
class Gallery:
    """Images of a model.

    Attributes:
        title: what they are of.
        series: the model's place among the page's series.
        note: how they are shown.
        most, least: those that are most easily fooled and those that are least so.
    """

    title: str
    series: int
    note: str
    most: Sequence[Picture]
    least: Sequence[Picture]


def galleries(entries: Sequence[Entry]) -> list[Gallery]:
    """Of each model whose images were kept."""
    found = []
    for entry in entries:
        place = list(entry.measurement.evaluations).index(entry.evaluations[entry.shown])
        examples = entry.measurement.examples[place]
        if examples is not None and len(examples.clean):
            found.append(_gallery(entry, examples))
    return found


def _gallery(entry: Entry, examples: Examples) -> Gallery:
    height, width = examples.clean.shape[2:]
    few = SHOWN if max(height, width) <= SMALL else SHOWN // 2
    budget = epsilon_text(entry.shown)
    note = f"Difference: grey is none, the brightest +{budget}, the darkest -{budget}, by colour channel."
    if max(height, width) > LARGEST:
        note += f" Images of {width}x{height} are shown smaller."
    made = [_picture(entry, examples, i) for i in range(len(examples.clean))]
    most, least = made[: examples.most], made[examples.most :]
    title = f"{entry.name}, Linf {budget}, under {examples.attack}"
    return Gallery(title, entry.series, note, most[:few], least[:few])


def _picture(entry: Entry, examples: Examples, i: int) -> Picture:
    clean, perturbed = examples.clean[i], examples.perturbed[i]
    label, before, after = (int(of[i]) for of in (examples.labels, examples.before, examples.after))
    return Picture(
        _address(clean),
        _address(perturbed),
        _address(change(perturbed, clean, entry.shown)),
        int(examples.places[i]),
        entry.measurement.class_name(label),
        entry.measurement.class_name(before),
        entry.measurement.class_name(after),
        before == label != after,
    )


def _address(image: Tensor) -> str:
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(pixels)
    picture.thumbnail((LARGEST, LARGEST))
    return png(picture)


def png(picture: Image.Image) -> str:
    """The address that holds the picture itself."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
