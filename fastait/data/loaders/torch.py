"""The loader of torch's DataLoader."""

import os
import signal
import time
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fastait.data.dataset import ImageSet
from fastait.data.plan import BatchPlan
from fastait.runtime.errors import RunError
from fastait.runtime.signals import ENDS, WARNINGS
from fastait_kernels import augment

DEATH_SECONDS = 2.0
"""How long after the connection to a process its end is known at the latest."""


class _Steps(Dataset):
    """Item i is the whole batch of step i."""

    def __init__(self, images: ImageSet, plan: BatchPlan):
        self.images = images
        self.plan = plan

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        batch = self.plan.batch(step)
        pixels = augment(self.images.images, batch.index, batch.shift, batch.flip, self.plan.padding, dtype=torch.uint8)
        return pixels.permute(0, 2, 3, 1), self.images.labels[batch.index]


class TorchLoader:
    """A ``Loader`` that gathers, crops and flips on the CPU, in ``workers`` processes or in this one."""

    def __init__(self, images: ImageSet, plan: BatchPlan, device: torch.device, workers: int):
        self.steps = _Steps(images, plan)
        self.device = device
        self.workers = workers
        self.name = f"torch, {workers} worker{'' if workers == 1 else 's'}"

    def batches(self, first: int, last: int) -> Iterator[tuple[Tensor, Tensor]]:
        """See ``Loader``."""
        loader = DataLoader(
            self.steps,
            sampler=range(first, last),
            batch_size=None,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_leave_signals,
            # A forked worker shares the set; any other would be sent a copy.
            multiprocessing_context="fork" if self.workers else None,
            generator=torch.Generator(),  # its seeds for workers, which nobody uses, are not drawn from the caller's
        )
        try:
            with torch.device("cpu"):  # where its seeds are drawn, whatever the caller's default is
                batches = iter(loader)
        except OSError as error:
            raise RunError(f"--workers {self.workers} cannot be started: {error.strerror}; try fewer, or 0") from None
        try:
            for images, labels in batches:
                yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        except (EOFError, OSError) as error:  # of the connection to a worker that died
            time.sleep(DEATH_SECONDS)  # torch's handler of SIGCHLD raises here, with what it died of
            raise RunError(
                f"--workers {self.workers}: one of them is gone ({error or 'EOF'}); try fewer, or 0, which a --resume "
                "takes too; checkpoints, if there were any, are kept"
            ) from None


def _leave_signals(worker: int) -> None:
    """Signals are for the main process, which saves and then ends its workers, by an event that they look at.

    torchrun and batch systems end or warn a run through its process group, or each of its processes. A worker that died
    of that would take the main process with it in the middle of a step, and what cannot be saved then is lost; one
    without its main process ends by itself.
    """
    os.setpgid(0, 0)
    for number in (*ENDS, *WARNINGS):
        signal.signal(number, signal.SIG_IGN)
