"""The loader of sets that fit in the device's memory."""

import os
from collections.abc import Iterator

import torch
from torch import Tensor

from fastait.data.dataset import ImageSet
from fastait.data.plan import BatchPlan
from fastait_kernels import augment


class ResidentLoader:
    """A ``Loader`` that keeps the whole set as uint8 on the device, where one kernel makes a batch of it.

    On a GPU nothing is copied to the device but the plan, once an epoch, and the host never waits.
    """

    name = "resident"

    def __init__(self, images: ImageSet, plan: BatchPlan, device: torch.device):
        self.images = images.images.to(device)
        self.labels = images.labels.to(device)
        self.plan = plan
        self.device = device

    def batches(self, first: int, last: int) -> Iterator[tuple[Tensor, Tensor]]:
        """See ``Loader``."""
        current = None
        for step in range(first, last):
            epoch, own = self.plan.place(step)
            if epoch != current:
                current, all_images = epoch, self.plan.epoch(epoch).to(self.device)
            batch = all_images[own]
            pixels = augment(self.images, batch.index, batch.shift, batch.flip, self.plan.padding, dtype=torch.uint8)
            yield pixels.permute(0, 2, 3, 1), self.labels[batch.index]


def fits(images: ImageSet, device: torch.device) -> bool:
    """Whether the set takes at most a quarter of what a GPU has free, or of the machine's memory."""
    return images.images.nbytes <= _room(device) // 4


def _room(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
