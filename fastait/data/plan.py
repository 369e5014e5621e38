"""Which images a training step sees and how they are augmented, as a function of (seed, step) and nothing else.

Every loader follows the same plan, so all of them yield the same batches, a resumed run needs no random state, and
worker processes cannot disagree.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from fastait.runtime.randomness import derive


@dataclass(frozen=True)
class Shard:
    """Which part of a step's batch a process has.

    Attributes:
        start: how many images of the batch come before; a multiple of four, as random starts need it.
        size: how many images are its own. None in an epoch's last batch if that has too few; the process then gets a
            stand-in, an image that counts for nothing.
        batch: how many images the batch has.
    """

    start: int
    size: int
    batch: int


@dataclass(frozen=True)
class Batch:
    """Images and how they are augmented: one process's share of one step, or a whole epoch.

    Attributes:
        index: int64 [B], places in the training set.
        shift: int64 [B, 2], vertical and horizontal offset of the crop in the padded image, 0 to 2 padding.
        flip: bool [B], whether the crop is mirrored.
    """

    index: Tensor
    shift: Tensor
    flip: Tensor

    def __getitem__(self, part: slice) -> "Batch":
        return Batch(self.index[part], self.shift[part], self.flip[part])

    def to(self, device: torch.device) -> "Batch":
        """On ``device``; a GPU is not waited for."""
        tensors = [self.index, self.shift, self.flip]
        if device.type == "cuda":
            tensors = [tensor.pin_memory() for tensor in tensors]
        return Batch(*[tensor.to(device, non_blocking=True) for tensor in tensors])


@dataclass(frozen=True)
class BatchPlan:
    """The batches of a run: steps are counted over all epochs, an epoch's last batch may be smaller.

    Of ``ranks`` processes that share each batch, this is the plan of ``rank``; together they see what one would.

    Attributes:
        seed: decides order, crops and flips, and which images are held out.
        size: images that are trained on.
        batch_size: images in a step.
        padding: black pixels around an image that is cropped from.
        flip: whether half of the images are mirrored.
        rank, ranks: of the processes.
        held_out: further images of the set, which no batch has.
        drop_last: whether an epoch ends before a batch that is not whole.
    """

    seed: int
    size: int
    batch_size: int
    padding: int
    flip: bool
    rank: int = field(default=0, compare=False)
    ranks: int = field(default=1, compare=False)
    held_out: int = 0
    drop_last: bool = False

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch, the smaller last one included where it counts."""
        return self.size // self.batch_size if self.drop_last else -(-self.size // self.batch_size)

    def split(self) -> tuple[Tensor, Tensor]:
        """Places in the set, int64: of the images that are trained on and of those that are held out, in order."""
        generator = torch.Generator().manual_seed(derive(self.seed, "held out"))
        shuffled = torch.randperm(self.size + self.held_out, generator=generator, device="cpu")
        return shuffled[self.held_out :].sort().values, shuffled[: self.held_out].sort().values

    def shard(self, step: int) -> Shard:
        """Which part of step ``step``'s batch is this process's: consecutive images, cut at multiples of four."""
        first = step % self.steps_per_epoch * self.batch_size
        batch = min(self.batch_size, self.size - first)
        fours = -(-batch // 4)
        start, end = (min(batch, 4 * -(-fours * rank // self.ranks)) for rank in (self.rank, self.rank + 1))
        return Shard(start if end > start else 0, end - start, batch)

    def place(self, step: int) -> tuple[int, slice]:
        """Where in its epoch step ``step``, counted from 0 over all epochs, finds this process's images."""
        epoch, place = divmod(step, self.steps_per_epoch)
        shard = self.shard(step)
        first = place * self.batch_size
        own = slice(first + shard.start, first + shard.start + shard.size)
        return epoch, own if shard.size else slice(first, first + 1)

    def batch(self, step: int) -> Batch:
        """What this process works on in step ``step``."""
        epoch, own = self.place(step)
        return self.epoch(epoch)[own]

    def epoch(self, epoch: int) -> Batch:
        """All images of an epoch, in order and as they are augmented there."""
        return _epoch(self, epoch)


@lru_cache(maxsize=2)
def _epoch(plan: BatchPlan, epoch: int) -> Batch:
    generator = torch.Generator().manual_seed(derive(plan.seed, "order and augmentation", epoch))
    order = torch.randperm(plan.size, generator=generator, device="cpu")
    shift = torch.randint(0, 2 * plan.padding + 1, (plan.size, 2), generator=generator, device="cpu")
    if plan.flip:
        flip = torch.rand(plan.size, generator=generator, dtype=torch.float32, device="cpu") < 0.5
    else:
        flip = torch.zeros(plan.size, dtype=torch.bool, device="cpu")
    return Batch(plan.split()[0][order] if plan.held_out else order, shift, flip)
