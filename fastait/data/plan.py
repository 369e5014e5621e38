"""Which images a training step sees and how they are augmented, as a function of (seed, step) and nothing else.

Every loader follows the same plan, so all of them yield the same batches, a resumed run needs no random state, and
worker processes cannot disagree.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from fastait.engine.randomness import derive


@dataclass(frozen=True)
class Batch:
    """One step's share of an epoch.

    Attributes:
        index: int64 [B], places in the training set.
        shift: int64 [B, 2], vertical and horizontal offset of the crop in the padded image, 0 to 2 padding.
        flip: bool [B], whether the crop is mirrored.
    """

    index: Tensor
    shift: Tensor
    flip: Tensor


@dataclass(frozen=True)
class BatchPlan:
    """The batches of a run: steps are counted over all epochs, an epoch's last batch may be smaller."""

    seed: int
    size: int
    batch_size: int
    padding: int
    flip: bool

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch, the smaller last one included."""
        return -(-self.size // self.batch_size)

    def batch(self, step: int) -> Batch:
        """What step ``step``, counted from 0 over all epochs, works on."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order, shift, flip = _epoch(self, epoch)
        part = slice(place * self.batch_size, (place + 1) * self.batch_size)
        return Batch(order[part], shift[part], flip[part])


@lru_cache(maxsize=2)
def _epoch(plan: BatchPlan, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(derive(plan.seed, "order and augmentation", epoch))
    order = torch.randperm(plan.size, generator=generator)
    shift = torch.randint(0, 2 * plan.padding + 1, (plan.size, 2), generator=generator)
    flip = torch.rand(plan.size, generator=generator) < 0.5 if plan.flip else torch.zeros(plan.size, dtype=torch.bool)
    return order, shift, flip
