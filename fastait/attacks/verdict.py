"""What a model makes of an image: the true class, another one, or nothing that is a decision."""

import torch
from torch import Tensor

RIGHT, WRONG, NOT_FINITE = 1, 0, -1


def verdict(logits: Tensor, y: Tensor) -> Tensor:
    """int8 [B]: ``RIGHT`` where the largest of ``logits``, [B, K], is that of ``y``, int64 [B], else ``WRONG``.

    Where a row is not all finite it is ``NOT_FINITE``: argmax takes NaN for the largest, so that a row of NaN would
    count as class 0.
    """
    right = (logits.argmax(dim=1) == y).to(torch.int8)
    return torch.where(logits.isfinite().all(dim=1), right, torch.full_like(right, NOT_FINITE))
