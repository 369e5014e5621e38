"""Entropic optimal transport between two batches, for feature scattering."""

import math

import torch
from torch import Tensor

ENTROPY = 0.01
ITERATIONS = 100
SETTLED = 0.1
"""The release of Feature-Scatter (Zhang & Wang, 2019): weight of the entropy, iterations at most, and the change of the
dual variables, summed over the batch, below which it stops."""


def cosine_costs(a: Tensor, b: Tensor) -> Tensor:
    """1 - cos of each row of ``a``, float [M, K], and each of ``b``, float [N, K]: [M, N] in [0, 2], fp32 at least."""
    wide = torch.promote_types(a.dtype, torch.float32)
    a, b = (torch.nn.functional.normalize(t.to(wide), dim=1) for t in (a, b))
    return 1 - a @ b.T


def sinkhorn(cost: Tensor) -> Tensor:
    """The plan of least cost plus ``ENTROPY`` times negative entropy, between uniform weights (Cuturi, 2013).

    Iterations go on in the logarithm for ``ITERATIONS`` times; those after the dual variables have settled change
    nothing, so that the plan is that of a loop which stops there, without reading anything from the device.

    Args:
        cost: float [M, N], not half precision.

    Returns:
        The plan, like ``cost``: non-negative, columns sum to 1 / N, rows nearly to 1 / M.
    """
    m, n = cost.shape
    u, v = cost.new_zeros(m, 1), cost.new_zeros(1, n)
    settled = torch.zeros((), dtype=torch.bool, device=cost.device)
    for _ in range(ITERATIONS):
        next_u = -ENTROPY * (math.log(m) + torch.logsumexp((v - cost) / ENTROPY, dim=1, keepdim=True))
        next_v = -ENTROPY * (math.log(n) + torch.logsumexp((next_u - cost) / ENTROPY, dim=0, keepdim=True))
        change = (next_u - u).abs().sum()
        u, v = torch.where(settled, u, next_u), torch.where(settled, v, next_v)
        settled = settled | (change < SETTLED)
    return ((u + v - cost) / ENTROPY).exp()
