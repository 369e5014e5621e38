"""A picture of a data set: samples of every class, as stored and as a run augments them. And how changes are shown."""

from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fastait.data.dataset import Dataset, ImageSet
from fastait.data.plan import BatchPlan
from fastait.runtime.errors import one_line
from fastait_kernels import augment

_Pixels = TypeVar("_Pixels", Tensor, NDArray[Any])

SAMPLES = 6
LEAST_SIDE = 64
"""Smaller images are enlarged by a whole factor to at least this side."""

GAP = 4
BACKGROUND, TEXT = (128, 128, 160), (255, 255, 255)
"""Neither black nor grey, so that the padding of a crop can be told from what is around an image."""

MOST_CLASSES = 100


def change(moved: _Pixels, images: _Pixels, epsilon: float) -> _Pixels:
    """What was added to images, so that it can be shown: grey is none, white ``epsilon`` and black ``-epsilon``."""
    return (moved - images) * (0.5 / epsilon if epsilon else 0.0) + 0.5


def picture(dataset: Dataset, plan: BatchPlan) -> Image.Image:
    """A row per class: name, first ``SAMPLES`` training images, and what the first epoch of ``plan`` makes of them.

    Args:
        dataset: its training set must be in memory. At most ``MOST_CLASSES`` classes are shown.
        plan: of the training set.
    """
    train = dataset.train
    assert isinstance(train, ImageSet)
    names = [one_line(name) for name in dataset.classes[:MOST_CLASSES]]
    side = train.images.shape[1]
    scale = -(-LEAST_SIDE // side)
    cell, font = side * scale + GAP, ImageFont.load_default(14)
    margin = GAP * 3 + max(int(font.getlength(name)) for name in (*names, "as stored"))
    second = margin + SAMPLES * cell + 4 * GAP
    header = 24
    sheet = Image.new("RGB", (second + SAMPLES * cell, header + len(names) * cell), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((margin, GAP), "as stored", TEXT, font)
    what = f"crop with {plan.padding} pixels of padding" if plan.padding else "no crop"
    draw.text((second, GAP), f"in epoch 1, seed {plan.seed}: {what}, {'' if plan.flip else 'no '}flip", TEXT, font)
    for row, name in enumerate(names):
        top = header + row * cell
        draw.text((GAP, top + cell // 2 - 10), name, TEXT, font)
        index = torch.nonzero(train.labels == row).flatten()[:SAMPLES]
        for left, images in ((margin, train.images[index]), (second, augmented(train, plan, index))):
            for column, pixels in enumerate(images):
                image = Image.fromarray(pixels.numpy())
                sheet.paste(image.resize((side * scale,) * 2, Image.Resampling.NEAREST), (left + column * cell, top))
    return sheet


def augmented(train: ImageSet, plan: BatchPlan, index: Tensor) -> Tensor:
    """The images ``index``, int64 [n], as the first epoch of ``plan`` augments them: uint8 [n, H, W, 3]."""
    epoch = plan.epoch(0)
    place = epoch.index.argsort()[index]
    batch = augment(train.images, index, epoch.shift[place], epoch.flip[place], plan.padding, dtype=torch.uint8)
    return batch.permute(0, 2, 3, 1).contiguous()
