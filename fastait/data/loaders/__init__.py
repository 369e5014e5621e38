"""Loaders: the same batches by different means."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from fastait.data.dataset import ImageFiles, ImageSet
from fastait.data.plan import BatchPlan

WORKERS = 2
"""Processes of the torch loader where nobody says how many."""


class Loader(Protocol):
    """What the training loop reads from.

    Attributes:
        name: what it is called in a run's headline.
    """

    name: str

    def batches(self, first: int, last: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of steps ``first`` to ``last`` - 1, counted over all epochs.

        Yields:
            (images uint8 [B, H, W, 3], labels int64 [B]) on the training device.
        """
        ...


def make_loader(
    images: ImageSet | ImageFiles, plan: BatchPlan, device: torch.device, *, dali: bool, workers: int | None
) -> Loader:
    """The loader that the flags ask for.

    Args:
        images: the training set; files are for DALI only.
        plan: what each step sees.
        device: where batches are wanted.
        dali: NVIDIA DALI.
        workers: torch's DataLoader, with this many processes; None for the resident loader where the set fits.

    Raises:
        InputError: ``dali`` and DALI is not installed, or is for another CUDA than torch.
    """
    if dali:
        from fastait.data.loaders.dali import DaliLoader

        return DaliLoader(images, plan, device)
    assert isinstance(images, ImageSet)
    from fastait.data.loaders.resident import ResidentLoader, fits
    from fastait.data.loaders.torch import TorchLoader

    if workers is None and fits(images, device):
        return ResidentLoader(images, plan, device)
    return TorchLoader(images, plan, device, WORKERS if workers is None else workers)
