"""What torch.compile takes, beside what its code is worth."""

from alternating import seconds
from torch._inductor import utils

fresh_cache = getattr(utils, "fresh_cache", None) or utils.fresh_inductor_cache
"""Of torch 2.6 by its other name."""


def compilation(few):
    """Seconds that ``few``, a call on little of what was not compiled before, takes longer than it does again.

    Nothing that was compiled for others, or in another run, is found.
    """
    with fresh_cache():
        first = seconds(few)
    return max(0.0, first - seconds(few))


def counted(medians, costs):
    """``medians`` and, for each way of ``costs``, a row in which its compilation is counted.

    Args:
        medians: {way: seconds} without it.
        costs: {way: seconds}.
    """
    return medians | {f"{way}, compilation counted": medians[way] + cost for way, cost in costs.items()}
