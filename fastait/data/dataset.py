"""A data set as a run sees it, and how its images become a network's input."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from fastait.data.decode import read_image
from fastait_kernels._support import to_unit


@dataclass(frozen=True)
class ImageSet:
    """Decoded images and their classes.

    Attributes:
        images: uint8 [N, H, W, 3], RGB, contiguous. Not to be written to: it may be a file mapped into memory.
        labels: int64 [N].
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def floats(self, index: Tensor, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
        """The images ``index``, int64 [n], as a network takes them: [n, 3, H, W] in [0, 1], channels-last in memory."""
        return to_float(self.images[index].to(device), dtype)

    def at(self, places: Tensor) -> Self:
        """The images at ``places``, int64 [n]."""
        return type(self)(self.images[places], self.labels[places])

    def stratified(self, samples: int) -> Self:
        """The first images of each class, ``samples`` in all, classes in proportion; the order is kept."""
        return self.at(self.stratified_places(samples))

    def stratified_places(self, samples: int) -> Tensor:
        """int64 [samples]: where the images of ``stratified`` are in this set."""
        counts = torch.bincount(self.labels)
        quota = counts * samples // len(self)
        # What rounding left over goes to the classes that lost most by it, the first one at a tie.
        lost = (counts * samples) % len(self)
        quota[torch.sort(lost, descending=True, stable=True).indices[: samples - int(quota.sum())]] += 1
        chosen = [torch.nonzero(self.labels == c).flatten()[: int(quota[c])] for c in range(len(counts))]
        return torch.cat(chosen).sort().values


class FloatSet(ImageSet):
    """The same with images that are floating-point [N, C, H, W] in [0, 1] already."""

    def floats(self, index: Tensor, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
        """The images ``index`` themselves."""
        return self.images[index].to(device, dtype)


@dataclass(frozen=True)
class ImageFiles:
    """Images that stay in their files and are decoded whenever they are used.

    Attributes:
        paths: N files of images, each found to be readable.
        labels: int64 [N].
        image_size: height and width that they are brought to, as ``decode.fit`` does.
    """

    paths: tuple[Path, ...]
    labels: Tensor
    image_size: int

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, places: Tensor) -> ImageSet:
        """The images at ``places``, int64 [n], decoded."""
        pixels = [read_image(self.paths[place], self.image_size)[0] for place in places.tolist()]
        return ImageSet(torch.from_numpy(np.stack(pixels)), self.labels[places])


@dataclass(frozen=True)
class Dataset:
    """A training and a test set.

    Attributes:
        name: what it is called in results.
        classes: the classes' names, in the order of their labels.
        train: what is trained on; empty if it was not needed and is missing.
        test: what is evaluated on.
        checksum: SHA-256 of classes, labels and pixels of both.
        skipped: the images that were left out because they are bad, and why, a line each.
        sizes: how many images were stored with which "width x height".
    """

    name: str
    classes: tuple[str, ...]
    train: ImageSet | ImageFiles
    test: ImageSet
    checksum: str
    skipped: tuple[str, ...]
    sizes: Mapping[str, int]


def to_float(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 [B, H, W, C] -> float [B, C, H, W] in [0, 1], channels-last in memory, to the same bits on every device."""
    return to_unit(images.permute(0, 3, 1, 2), dtype)
