"""A decoded data set in memory, and how its images become a network's input."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


@dataclass(frozen=True)
class ImageSet:
    """Images and their classes.

    Attributes:
        images: uint8 [N, H, W, 3], RGB.
        labels: int64 [N].
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def stratified(self, samples: int) -> "ImageSet":
        """The first images of each class, ``samples`` in all, classes in proportion; the order is kept."""
        counts = torch.bincount(self.labels)
        quota = counts * samples // len(self)
        # What rounding left over goes to the classes that lost most by it, the first one at a tie.
        lost = (counts * samples) % len(self)
        quota[torch.sort(lost, descending=True, stable=True).indices[: samples - int(quota.sum())]] += 1
        chosen = [torch.nonzero(self.labels == c).flatten()[: int(quota[c])] for c in range(len(counts))]
        index = torch.cat(chosen).sort().values
        return ImageSet(self.images[index], self.labels[index])


@dataclass(frozen=True)
class Dataset:
    """A training and a test set with the names of their classes, in label order."""

    name: str
    classes: tuple[str, ...]
    train: ImageSet
    test: ImageSet


def to_float(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 [B, H, W, C] -> float [B, C, H, W] in [0, 1], channels-last in memory."""
    return images.permute(0, 3, 1, 2).to(dtype).div_(255)


def fit(image: Image.Image, size: int) -> Image.Image:
    """RGB, ``size`` x ``size``: the shorter side resized (bilinear, antialiased), then centre-cropped."""
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode}, 32 bits a pixel, has no fixed range; store it in 8 or 16 bits")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert("RGB")
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), method=Image.Resampling.BILINEAR)
    return image


def fit_all(images: np.ndarray, size: int) -> Tensor:
    """uint8 [N, H, W, 3] or grey [N, H, W] -> uint8 [N, size, size, 3], each image by ``fit``."""
    if images.ndim == 4 and images.shape[1:3] == (size, size):
        return torch.from_numpy(np.ascontiguousarray(images))
    return torch.from_numpy(np.stack([np.asarray(fit(Image.fromarray(image), size)) for image in images]))
