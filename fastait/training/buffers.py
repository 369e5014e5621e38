"""Buffers that several processes must agree on: what a network keeps of the images that it is trained on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fastait.models.features import PROBED
from fastait.runtime.processes import Ranks


class Buffers:
    """What passes in train mode change in a network, made the same in all processes after each step.

    Statistics of batches, called ``running_...`` as torch's layers call them, become their means. Whatever else changes
    (averages of a network's own, the vectors of a spectral norm) becomes what the first process has, as
    DistributedDataParallel would have it.

    Args:
        model: in train mode, on its device.
        ranks: the processes; nothing is done if there is but one.

    Attributes:
        means: the statistics.
        others: names of what else changes; None until that is found.
    """

    def __init__(self, model: nn.Module, ranks: Ranks):
        self.model = model
        self.ranks = ranks
        # Not the others: a mean of equal numbers can be another number.
        self.means = [b for name, b in model.named_buffers() if is_statistic(name) and b.is_floating_point()]
        self.others: list[str] | None = None if ranks.size > 1 else []

    def find(self, images: Tensor, dtype: torch.dtype) -> None:
        """Find what changes besides means, by a pass of images of the size of ``images``.

        All processes find the same. The buffers are what they were afterwards.

        Args:
            images: uint8 [B, H, W, 3].
            dtype: of the images that the network is given.
        """
        before = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        size = (PROBED, 3, *images.shape[1:3])
        with torch.no_grad():
            self.model(torch.linspace(0, 1, torch.Size(size).numel(), dtype=dtype, device=images.device).reshape(size))
            self.others = []
            for name, buffer in self.model.named_buffers():
                if name in before and not torch.equal(buffer, before[name]):
                    buffer.copy_(before[name])
                    if not is_statistic(name) and not name.endswith("num_batches_tracked"):
                        self.others.append(name)

    def agree(self, weight: float) -> None:
        """Make them the same. For all processes to call, whose weights sum to one."""
        self.ranks.average(self.means, weight)
        if self.others:
            found = dict(self.model.named_buffers())
            self.ranks.as_first([found[name] for name in self.others])


@contextmanager
def in_their_places(model: nn.Module) -> Iterator[None]:
    """Raise a RuntimeError if a pass puts new tensors in the place of buffers, which then are the old ones again.

    Replays of a graph would read and write the tensors that were there when it was captured.
    """
    before = [(module, dict(module._buffers)) for module in model.modules()]
    moved = False
    try:
        yield
    finally:
        for module, buffers in before:
            moved |= any(module._buffers.get(name) is not buffer for name, buffer in buffers.items())
            module._buffers.update(buffers)
    if moved:
        raise RuntimeError(
            "the network puts new tensors in the place of its buffers, where it could fill them in place"
        )


def is_statistic(name: str) -> bool:
    """Whether the buffer ``name`` is a mean over batches, by the name that torch's layers give those."""
    return name.rpartition(".")[2].startswith("running_")
