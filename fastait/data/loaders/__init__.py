"""Loaders: the same batches by different means."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from fastait.data.dataset import ImageSet
from fastait.data.plan import BatchPlan


class Loader(Protocol):
    """What the training loop reads from."""

    def batches(self, first: int, last: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of steps ``first`` to ``last`` - 1, counted over all epochs.

        Yields:
            (images uint8 [B, H, W, 3], labels int64 [B]) on the training device.
        """
        ...


def make_loader(images: ImageSet, plan: BatchPlan, device: torch.device, *, dali: bool, workers: int) -> Loader:
    """The loader that the flags ask for.

    Raises:
        InputError: ``dali`` and DALI is not installed.
    """
    if dali:
        from fastait.data.loaders.dali import DaliLoader

        return DaliLoader(images, plan, device)
    from fastait.data.loaders.torch import TorchLoader

    return TorchLoader(images, plan, device, workers)
