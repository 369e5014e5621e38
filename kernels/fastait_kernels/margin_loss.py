"""The margin loss of Carlini and Wagner (2017), as PGD-style attacks ascend it."""

import torch
from torch import Tensor


def margin_loss(logits: Tensor, y: Tensor, kappa: float = 50.0) -> Tensor:
    """-max(z_y - max_{j != y} z_j + kappa, 0) of each sample: what a CW attack ascends.

    Args:
        logits: float [B, K], K >= 2.
        y: int64 [B], the true classes.
        kappa: confidence margin, in logits; 50 in the authors' evaluation.

    Returns:
        float [B], at most 0.
    """
    true_class = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, y[:, None], True)
    other = logits.masked_fill(true_class, -torch.inf).amax(dim=1)
    true = logits.gather(1, y[:, None]).squeeze(1)
    return -(true - other + kappa).clamp(min=0)
